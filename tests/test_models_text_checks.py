"""What parties compare of texts, and texts and ids that cannot be asked."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from hybrid.models.text_settings import read_text_settings
from hybrid.models.tokenizing import FileTokenizer, WordTokenizer
from hybrid.runtime.text_checks import TextWarning, check_same_texts, checked_ids, encoded
from tests.text_folders import (
    change,
    write_folder,
    write_json,
)
from transport.errors import ConfigError, FrameError, UsageError


@pytest.fixture
def folder(sentence_model, tmp_path):
    return shutil.copytree(sentence_model, tmp_path / "model")


PROMPTS = {"search": "search_query: ", "document": "document:", "none": ""}


# -- what parties compare ------------------------------------------------------------------------


def bert_normalizer(raw):
    raw["normalizer"]["lowercase"] = False


def swapped(raw):
    vocabulary = raw["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def other_end(raw):
    raw["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [4]


@pytest.mark.parametrize("edit", [bert_normalizer, swapped, other_end])
def test_another_tokenizer_of_the_same_size_is_refused(edit, folder):
    before = FileTokenizer(folder, 8)
    raw = json.loads((folder / "tokenizer.json").read_text())
    edit(raw)
    write_json(folder / "tokenizer.json", raw)
    after = FileTokenizer(folder, 8)
    assert before.vocabulary == after.vocabulary
    with pytest.raises(
        ConfigError, match="'tokenizer' of this model folder is not what the server"
    ):
        check_same_texts(after, before.facts(), 64)


@pytest.mark.parametrize(
    ("file", "values", "what"),
    [
        ("sentence_bert_config", {"max_seq_length": 5}, "length of texts"),
        ("sentence_bert_config", {"do_lower_case": True}, "tokenizer"),
        ("tokenizer_config", {"truncation_side": "left"}, "tokenizer"),
        ("config_sentence_transformers", {"prompts": {"query": "q: "}}, "prompts"),
        ("config_sentence_transformers", {"default_prompt_name": "query"}, "prompts"),
    ],
)
def test_other_settings_of_texts_are_refused(file, values, what, folder):
    before = FileTokenizer(folder, 8).facts()
    change(folder / f"{file}.json", **values)
    with pytest.raises(ConfigError, match=f"handshake: '{what}' of this model folder is not what"):
        check_same_texts(FileTokenizer(folder, 8), before, 64)


def test_how_a_file_is_written_makes_no_difference(folder):
    before = FileTokenizer(folder, 8)
    raw = json.loads((folder / "tokenizer.json").read_text())
    raw["model"]["vocab"] = dict(reversed(raw["model"]["vocab"].items()))
    write_json(folder / "tokenizer.json", raw | {"padding": None})
    check_same_texts(FileTokenizer(folder, 99), before.facts(), 64)


def test_facts_of_shapes_and_of_strangers(folder):
    words = WordTokenizer(64, 8)
    check_same_texts(words, WordTokenizer(64, 16).facts(), 64)
    for other in (WordTokenizer(63, 8), FileTokenizer(folder, 8)):
        with pytest.raises(ConfigError, match="'.*' of this model folder is not what"):
            check_same_texts(words, other.facts(), 64)
    with pytest.raises(ConfigError, match="ids reach 63, the server's model has 63 rows"):
        check_same_texts(words, words.facts(), 63)
    for data in (None, [], {"tokenizer": 7}, {"tokenizer": b"x"}):
        with pytest.raises(FrameError, match="description is malformed"):
            check_same_texts(words, data, 64)


# -- texts and ids that cannot be asked ----------------------------------------------------------


@pytest.mark.parametrize("text", ["\u0000\u0001", "\u200b\u200d", "\u0301", "\ufffd", "\u00ad"])
def test_texts_of_which_nothing_is_left_are_refused(text, folder):
    change(folder / "config_sentence_transformers.json", prompts=PROMPTS)
    for name in (None, "search"):
        tokenizer = FileTokenizer(folder, 16, name)
        assert (
            not Tokenizer.from_file(str(folder / "tokenizer.json"))
            .encode(text, add_special_tokens=False)
            .ids
        )
        for truncate in (False, True):
            with pytest.raises(ConfigError, match="has no tokens, since .* give at least one word"):
                tokenizer.encode(text, truncate=truncate)


def test_a_text_of_unknown_words_is_said_and_not_refused(folder):
    tokenizer = FileTokenizer(folder, 16)
    with pytest.warns(TextWarning, match=r"text: 'zz \?' has only words that the model does not"):
        ids = encoded(tokenizer, "zz ?", truncate=False)
    assert ids.tolist() == [2, 1, 1, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded(tokenizer, "zz a", truncate=False)
        encoded(tokenizer, "a", truncate=False)
        encoded(WordTokenizer(64, 8), "zz", truncate=False)


def test_unknown_words_of_other_models_are_known_too(tmp_path):
    made = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = FileTokenizer(write_folder(tmp_path, made), 8)
    assert tokenizer.note("z z") is not None and tokenizer.note("z a") is None


def test_a_tokenizer_that_fails_on_a_text_is_one_line(tmp_path):
    made = Tokenizer(models.WordPiece({"a": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = FileTokenizer(write_folder(tmp_path, made), 8)
    assert tokenizer.encode("a").tolist() == [0]
    with pytest.raises(ConfigError, match=r"'z' is more than .* tokenizer can say \(.*UNK"):
        tokenizer.encode("z")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "no text; give at least one"),
        ("abc", "str; give a list"),
        (7, "int; give a list"),
        ([[1, 2], []], "text 2: 0 tokens; give 1 to 4"),
        ([[1, 2, 3, 4, 5]], "text 1: 5 tokens; give 1 to 4"),
        ([[1, -1]], "text 1: token id -1; the model's are 0 to 9"),
        ([[1], [1, 10]], "text 2: token id 10; the model's are 0 to 9"),
        ([np.array([2**63], np.uint64)], "token id 9223372036854775808; the model's"),
        ([[1.0, 2.0]], "token ids of type float64; give integers"),
        ([[True]], "token ids of type bool; give integers"),
        ([["a"]], "token ids of type <U1; give integers"),
        ([[[1]]], "token ids with 2 axes; give one row"),
        ([5], "token ids with 0 axes; give one row"),
        ([[[1], [1, 2]]], "token ids of several lengths; give one row"),
    ],
)
def test_ids_are_checked_before_anything_is_sent(ids, message):
    with pytest.raises(UsageError, match=f"query: .*{message}"):
        checked_ids(ids, 4, 10)


def test_ids_that_fit_are_taken():
    found = checked_ids([[0, 9], np.array([3], np.uint8)], 4, 10)
    assert [ids.tolist() for ids in found] == [[0, 9], [3]]
    assert all(ids.dtype == np.int64 for ids in found)


def test_settings_of_a_bare_folder(tmp_path):
    settings = read_text_settings(write_folder(tmp_path))
    assert settings.limit is None and not settings.lower_case
    assert settings.prompt(None).text == ""
