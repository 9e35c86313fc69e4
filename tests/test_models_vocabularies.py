"""Tokenizers of model folders, against transformers: files, rules, and which ids there can be."""

from __future__ import annotations

import json
import shutil

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from hybrid.config.loading import load_config
from hybrid.models.decoder_tokenizing import DecoderTokenizer
from hybrid.models.decoders import read_tokenizer
from hybrid.models.generator import load_bare, load_prompts
from hybrid.models.loading import load_model
from hybrid.models.tokenizing import FileTokenizer
from tests.generation_setup import generation_config
from tests.test_models_tiny import DATA
from tests.text_folders import NASTY, WORDS, wordpiece, write_folder, write_json
from tests.tiny_model import write_tiny_config
from transport.errors import ConfigError

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", *ALPHABET, "\u0120a", "bc", "\u0120bc", "<mask>"]
MPNET = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>", *WORDS[5:]]


def assert_same_ids(folder, texts=NASTY):
    import transformers

    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), FileTokenizer(folder, 512)
    for text in texts:
        assert ours.encode(text).tolist() == theirs(text).input_ids, text


def write_words(folder, words=WORDS, kind="bert", **settings):
    """A folder with `vocab.txt` alone."""
    write_folder(folder, tokenizer_config_json=settings, config_json={"model_type": kind})
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


def write_pairs(folder, **settings):
    """A folder with `vocab.json` and `merges.txt` alone."""
    write_folder(folder, tokenizer_config_json=settings, config_json={"model_type": "roberta"})
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(ROBERTA)})
    merges = "#version: 0.2\n\u0120 a\nb c\n\u0120 bc\n"
    (folder / "merges.txt").write_text(merges, encoding="utf-8")
    return folder


# -- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {"do_lower_case": False, "tokenizer_class": "BertTokenizer"},
        {"tokenizer_class": "BertTokenizerFast", "mask_token": "a"},
    ],
)
def test_a_vocabulary_alone_is_read_as_transformers_does(settings, tmp_path):
    assert_same_ids(write_words(tmp_path, **settings))


def test_special_tokens_of_a_vocabulary_may_have_other_names(tmp_path):
    words = ["<p>", "<u>", "<c>", "<e>", *WORDS[5:]]
    names = {"pad_token": "<p>", "unk_token": "<u>", "cls_token": "<c>", "sep_token": "<e>"}
    write_words(tmp_path, words, **names, mask_token="<u>")
    assert_same_ids(tmp_path)
    assert FileTokenizer(tmp_path, 8).encode("zzz").tolist() == [2, 1, 3]


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}])
def test_a_vocabulary_of_mpnet_has_other_special_tokens(settings, tmp_path):
    write_words(tmp_path, MPNET, "mpnet", **settings)
    assert_same_ids(tmp_path, [*NASTY, "a  <mask> b"])
    assert FileTokenizer(tmp_path, 8).encode("a").tolist() == [0, MPNET.index("a"), 2]


@pytest.mark.parametrize("settings", [{}, {"add_prefix_space": True}])
def test_a_byte_level_vocabulary_alone_is_read_as_transformers_does(settings, tmp_path):
    assert_same_ids(write_pairs(tmp_path, **settings), [*NASTY, " a bc", "bc bc <mask> </s>a"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spiece.model", "missing, and spiece.model is not read; convert it .*save_pretrained"),
        ("sentencepiece.bpe.model", "missing, and sentencepiece.bpe.model is not read; convert it"),
        ("tokenizer.model", "missing, and tokenizer.model is not read; convert it"),
        ("none", "tokenizer.json: missing; name a folder in Hugging Face layout"),
    ],
)
def test_other_tokenizers_are_refused_with_how_to_convert_them(name, message, tmp_path):
    write_folder(tmp_path)
    (tmp_path / name).write_bytes(b"\n")
    with pytest.raises(ConfigError, match=message):
        FileTokenizer(tmp_path, 8)


def test_vocabularies_of_other_classes_are_refused(tmp_path):
    write_words(tmp_path, tokenizer_class="BertJapaneseTokenizer")
    with pytest.raises(
        ConfigError, match="vocabulary of class 'BertJapaneseTokenizer' is not read"
    ):
        FileTokenizer(tmp_path, 8)
    write_pairs(tmp_path / "pairs", tokenizer_class="XLMTokenizer")
    with pytest.raises(ConfigError, match="vocabulary of class 'XLMTokenizer' is not read"):
        FileTokenizer(tmp_path / "pairs", 8)


def test_a_vocabulary_with_other_files_or_without_its_ends_is_refused(tmp_path):
    write_words(tmp_path, WORDS[4:])
    with pytest.raises(ConfigError, match=r"vocab.txt: no token '\[CLS\]', the cls_token"):
        FileTokenizer(tmp_path, 8)
    write_json(tmp_path / "added_tokens.json", {"[X]": 99})
    with pytest.raises(ConfigError, match="added_tokens.json is not read; convert it"):
        FileTokenizer(tmp_path, 8)
    write_pairs(tmp_path / "pairs")
    (tmp_path / "pairs" / "merges.txt").write_text("q q q\n")
    with pytest.raises(ConfigError, match="vocab.json: cannot be read .*; fetch it again"):
        FileTokenizer(tmp_path / "pairs", 8)


NEWER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "OfTheFuture"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "tokenizer.json: not valid JSON .*; fetch it again"),
        ("[]", "tokenizer.json: not a table of settings; fetch it again"),
        (json.dumps(NEWER), r"installed tokenizers [\d.]+ can read .*; upgrade tokenizers, or fet"),
        (json.dumps(NEWER | {"version": "2.0"}), r"installed tokenizers [\d.]+ can .*'2.0'.*upgra"),
    ],
)
def test_what_cannot_be_read_says_why(content, message, tmp_path):
    """Of encoders and of decoders."""
    write_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    for read in (lambda: FileTokenizer(tmp_path, 8), lambda: read_tokenizer(tmp_path)):
        with pytest.raises(ConfigError, match=message):
            read()


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    from pathlib import Path

    write_folder(tmp_path, wordpiece())

    def refuse(path, *_args, **_more):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    for read in (lambda: FileTokenizer(tmp_path, 8), lambda: read_tokenizer(tmp_path)):
        with pytest.raises(
            ConfigError, match="json: may not be read by this user; give it the permission"
        ):
            read()


# -- tokenizer.json beside tokenizer_config.json ------------------------------------------------


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
        {"do_lower_case": True, "tokenizer_class": "BertTokenizer"},
        {"do_lower_case": False, "tokenizer_class": "BertTokenizerFast"},
        {"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"},
        {"do_lower_case": True, "tokenizer_class": "TokenizersBackend"},
    ],
)
def test_the_class_of_a_tokenizer_has_the_last_word(lowercase, settings, tmp_path):
    write_folder(tmp_path, wordpiece(lowercase=lowercase), tokenizer_config_json=settings)
    assert_same_ids(tmp_path)
    notes = FileTokenizer(tmp_path, 8).notes
    own_rules = settings.get("tokenizer_class") not in (
        "PreTrainedTokenizerFast",
        "TokenizersBackend",
    )
    said = any(note.startswith("tokenizer_config.json: do_lower_case is") for note in notes)
    assert said == (own_rules and settings["do_lower_case"] != lowercase)


def test_rules_that_no_setting_confirms_are_said(tmp_path):
    write_folder(tmp_path, wordpiece(lowercase=False))
    tokenizer = FileTokenizer(tmp_path, 8)
    assert "tokenizer.json: lowercase is False and holds" in tokenizer.notes[0]
    assert tokenizer.encode("Hello").tolist() == [2, WORDS.index("Hello"), 3]
    write_folder(tmp_path, wordpiece())
    assert FileTokenizer(tmp_path, 8).notes == ()


def test_a_space_before_texts_is_that_of_the_class(tmp_path):
    made = Tokenizer(models.BPE({t: i for i, t in enumerate(ROBERTA)}, [("\u0120", "a")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    settings = {"add_prefix_space": True, "tokenizer_class": "RobertaTokenizer"}
    config = {"model_type": "roberta"}
    write_folder(tmp_path, made, tokenizer_config_json=settings, config_json=config)
    assert_same_ids(tmp_path, ["a", "a a", " a"])
    assert "add_prefix_space is True and holds" in FileTokenizer(tmp_path, 8).notes[0]


def test_tokens_that_only_the_settings_have_are_said(tmp_path):
    added = {"64": {"content": "[NEW]", "special": True}, "2": {"content": "[CLS]"}}
    write_folder(tmp_path, wordpiece(), tokenizer_config_json={"added_tokens_decoder": added})
    (note,) = FileTokenizer(tmp_path, 8).notes
    assert "token '[NEW]' has no id; not added" in note


@pytest.mark.parametrize("value", ["yes", 1, []])
def test_wrong_settings_are_refused(value, tmp_path):
    write_folder(tmp_path, wordpiece(), tokenizer_config_json={"do_lower_case": value})
    with pytest.raises(ConfigError, match="do_lower_case is .*; use true or false"):
        FileTokenizer(tmp_path, 8)


# -- ids with holes -----------------------------------------------------------------------------


def sparse(largest):
    """Ten words, the last of them far from the others."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "small", "test", "of", "private"]
    vocabulary = {w: i for i, w in enumerate(words)} | {"inference": largest}
    made = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def test_the_largest_id_counts_and_not_how_many_there_are(tmp_path):
    config = load_config(write_tiny_config(tmp_path))
    sparse(9).save(str(tmp_path / "model" / "tokenizer.json"))
    load_model(config)
    sparse(10).save(str(tmp_path / "model" / "tokenizer.json"))
    with pytest.raises(ConfigError, match="ids reach 10, the model has 10 rows"):
        load_model(config)


def test_ids_around_a_text_count_too(tmp_path):
    made = sparse(9)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 12)]
    )
    write_folder(tmp_path, made)
    assert FileTokenizer(tmp_path, 8).vocabulary == 13


def test_ids_of_decoders_may_have_holes_too():
    assert DecoderTokenizer(sparse(40), None, [40, 41], "small").vocabulary == 41
    assert DecoderTokenizer(sparse(40), None, [40, 41], "small").end_ids == {40}


def test_a_decoder_whose_ids_its_model_lacks_is_refused(tmp_path):
    shutil.copytree(DATA / "llama", tmp_path / "model")
    raw = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    vocabulary = raw["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    raw["model"]["vocab"] = vocabulary | {last: vocabulary[last] + 1}
    write_json(tmp_path / "model" / "tokenizer.json", raw)
    config = generation_config(model={"path": str(tmp_path / "model")})
    with pytest.raises(ConfigError, match="ids reach 512, the model has 512 rows"):
        load_bare(config, load_prompts(config))


def test_a_template_that_is_no_text_is_one_line(tmp_path):
    shutil.copytree(DATA / "llama", tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="chat_template.jinja: not UTF-8 text"):
        read_tokenizer(tmp_path)


NAMED = [
    {"mask_token": "lo"},
    {"additional_special_tokens": ["lo"]},
    {"extra_special_tokens": ["lo"]},
    {"extra_special_tokens": {"voice_token": "lo"}},
]


@pytest.mark.parametrize("settings", NAMED)
def test_tokens_that_settings_name_are_found_as_transformers_finds_them(settings, tmp_path):
    """A word of the vocabulary, once it is named, is found inside other words too."""
    from transformers import AutoTokenizer

    write_folder(tmp_path, wordpiece())
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    word = max((w for w in vocabulary if w.isalpha() and len(w) > 1), key=len)
    named = json.loads(json.dumps(settings).replace("lo", word))
    kinds = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(kinds))
    reference = AutoTokenizer.from_pretrained(tmp_path)
    for text in (f"a{word} b", f"{word}{word}", "a b"):
        assert FileTokenizer(tmp_path, 40).encode(text).tolist() == reference(text)["input_ids"]


def test_special_tokens_that_would_be_split_are_refused(tmp_path):
    write_folder(tmp_path, wordpiece())
    (tmp_path / "tokenizer_config.json").write_text('{"split_special_tokens": true}')
    with pytest.raises(ConfigError, match="split_special_tokens is not done here"):
        FileTokenizer(tmp_path, 8)


def test_what_a_class_would_make_anew_is_said_or_refused(tmp_path):
    write_folder(tmp_path, wordpiece())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    with pytest.raises(ConfigError, match="RobertaTokenizer is no tokenizer of .*'WordPiece'"):
        FileTokenizer(tmp_path, 8)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert not any("transformers 5" in note for note in FileTokenizer(tmp_path, 8).notes)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "normalizer": None}))
    said = " ".join(FileTokenizer(tmp_path, 8).notes)
    assert "normalizer is [] and holds, where transformers 5 makes ['BertNormalizer']" in said
