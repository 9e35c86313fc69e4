"""Pairs of texts, as tasks on two sentences have them, against transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors

from hybrid.config.loading import load_config
from hybrid.config.overrides import overrides_of
from hybrid.models.embedding import typed, types_of, words_of
from hybrid.models.loading import load_model, text_encoder
from hybrid.models.tokenizing import FileTokenizer
from hybrid.runtime.text_checks import checked_ids
from hybrid.testing.tiny import TEXT
from tests.encoder_setup import private, write_config, write_encoder, write_tokenizer
from transport.errors import ConfigError, UsageError

PAIRS = ["a small test\tof inference", "private\ta", "of\tprivate small inference of a"]


def pair_folder(folder, kind):
    """A classifier whose tokenizer marks the second text as BERT's does."""
    types = 1 if kind == "roberta" else 2
    model = kind.partition(" ")[0]
    write_encoder(folder, model, "ForSequenceClassification", type_vocab_size=types)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = folder / "tokenizer_config.json"
    names = ["input_ids", "attention_mask", *["token_type_ids"] * (kind == "bert")]
    settings.write_text(
        json.dumps({**json.loads(settings.read_text()), "model_input_names": names})
    )
    return folder


def logits(folder):
    """Of transformers, with its own tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for pair in PAIRS:
        encoded = tokenizer(*pair.split("\t"), return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**encoded).logits[0].numpy())
    return np.stack(rows)


def pairs_config(folder, model, **keys):
    path = write_config(folder, model, pairs=True, **keys)
    pairs = [*PAIRS, "a\tb", "test of a\tsmall", "inference\tinference private"]
    (folder / "samples.txt").write_text("\n".join(pairs))
    return load_config(path, overrides_of(["model.tokens=12"]))


@pytest.mark.parametrize("kind", ["bert", "bert without types", "roberta", "distilbert"])
def test_pairs_give_the_logits_of_transformers(kind, tmp_path):
    folder = pair_folder(tmp_path / "model", kind)
    config = pairs_config(tmp_path, folder)
    expected = logits(folder)
    model, encoder = load_model(config), text_encoder(config)
    ids = [encoder.encode(pair) for pair in PAIRS]
    assert kind != "bert" or types_of(ids[0]).tolist() == [0] * 5 + [1] * 3
    found = np.stack([model.plain(one) for one in ids])
    assert np.abs(found - expected).max() < 1e-5
    if kind == "bert":
        assert np.abs(private(config, PAIRS[:1]) - expected[:1]).max() < 2.0**-5


def test_a_long_pair_is_cut_as_transformers_cuts_it(tmp_path):
    from transformers import AutoTokenizer

    folder = pair_folder(tmp_path / "model", "bert")
    config = load_config(write_config(tmp_path, folder, pairs=True))
    first, second = "a small test of private inference", "private inference of a small test"
    encoder = text_encoder(config)
    with pytest.raises(ConfigError, match="has 15 tokens, model.tokens is 8"):
        encoder.encode(f"{first}\t{second}")
    wanted = AutoTokenizer.from_pretrained(folder)(first, second, truncation=True, max_length=8)
    found = encoder.encode(f"{first}\t{second}", truncate=True)
    assert words_of(found).tolist() == wanted["input_ids"]
    assert types_of(found).tolist() == wanted["token_type_ids"]


@pytest.mark.parametrize("text", ["a small test", "a\ttest\tof", "a\t", "\tsmall"])
def test_what_is_no_pair_is_refused(text, tmp_path):
    folder = pair_folder(tmp_path / "model", "bert")
    encoder = text_encoder(load_config(write_config(tmp_path, folder, pairs=True)))
    with pytest.raises(ConfigError, match="is no pair, as model.pairs says"):
        encoder.encode(text)


def test_pairs_are_those_of_folders_and_types_are_two(tmp_path):
    path = write_config(tmp_path, tmp_path, pairs=True)
    text = path.read_text().replace(f"path: {tmp_path}", "shape: minilm-l6, pooling: mean")
    path.write_text(text)
    with pytest.raises(ConfigError, match="model.pairs would be ignored beside a shape"):
        load_model(load_config(path))
    fine = typed([3, 4], [0, 1])
    assert np.array_equal(checked_ids([fine], 4, 5, pairs=True)[0], fine)
    with pytest.raises(UsageError, match="token id 4294967300"):
        checked_ids([fine], 4, 5)
    for wrong in (typed([3], [2]), typed([5], [1]), np.array([-1]), np.array([-(1 << 40)])):
        with pytest.raises(UsageError, match="token id"):
            checked_ids([wrong], 4, 5, pairs=True)


NASTY = ["a small\ttest", "private inference of a\tsmall", "of\tof"]


@pytest.mark.parametrize("name", ["BertTokenizer", "MPNetTokenizer", "ElectraTokenizer", None])
@pytest.mark.parametrize("names", [None, ["input_ids", "attention_mask"]])
def test_vocabularies_alone_close_pairs_as_transformers_does(name, names, tmp_path):
    """Whether types are given is the class's word, or the settings'."""
    from transformers import AutoTokenizer

    kind = {"MPNetTokenizer": "mpnet", "ElectraTokenizer": "electra"}.get(name, "bert")
    is_mpnet = kind == "mpnet"
    special = ["<s>", "</s>", "<pad>", "[UNK]", "<mask>"] if is_mpnet else ["[PAD]", "[UNK]"]
    words = [*special, *["[CLS]", "[SEP]", "[MASK]"] * (not is_mpnet), *TEXT.split()]
    write_encoder(tmp_path, kind, vocab_size=len(words))
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    settings = {"tokenizer_class": name, "model_input_names": names}
    settings = {key: value for key, value in settings.items() if value}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    reference = AutoTokenizer.from_pretrained(tmp_path)
    encoder = FileTokenizer(tmp_path, 16, pairs=True)
    for pair in NASTY:
        wanted = reference(*pair.split("\t"))
        found = encoder.encode(pair)
        assert words_of(found).tolist() == wanted["input_ids"]
        none = [0] * len(found)
        assert types_of(found).tolist() == wanted.get("token_type_ids", none)


def test_a_tokenizer_that_closes_no_pair_is_refused(tmp_path):
    folder = pair_folder(tmp_path / "model", "bert")
    write_tokenizer(folder)
    with pytest.raises(ConfigError, match="how one text is closed, but not two"):
        FileTokenizer(folder, 16, pairs=True)


def test_parties_compare_whether_types_are_given(tmp_path):
    folder = pair_folder(tmp_path / "model", "bert")
    facts = FileTokenizer(folder, 16).facts()
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace(', "token_type_ids"', ""))
    assert FileTokenizer(folder, 16).facts()["tokenizer"] != facts["tokenizer"]
