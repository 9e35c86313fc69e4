"""What a model folder says about texts, against sentence-transformers: lengths, case, prompts."""

from __future__ import annotations

import json
import shutil

import pytest
from tokenizers import normalizers

from hybrid.config.loading import checked, load_config
from hybrid.config.overrides import overrides_of
from hybrid.models.loading import load_model, text_encoder
from hybrid.models.sentence_folder import sentence_modules, transformer_folder
from hybrid.models.tokenizing import FileTokenizer, WordTokenizer
from tests.text_folders import (
    LONG,
    NASTY,
    change,
    ids_of,
    ours,
    theirs,
    wordpiece,
    write_folder,
    write_json,
)
from tests.tiny_model import write_tiny_config
from transport.errors import ConfigError


@pytest.fixture
def folder(sentence_model, tmp_path):
    return shutil.copytree(sentence_model, tmp_path / "model")


# -- truncation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("processor", [True, False])
@pytest.mark.parametrize("side", ["right", "left", None])
@pytest.mark.parametrize("length", [3, 5, 8, 30])
def test_a_text_is_cut_as_transformers_cuts_it(processor, side, length, tmp_path):
    """Without a post-processor the last word is no special token, and goes with the others."""
    import transformers

    made = wordpiece(processor=processor)
    made.enable_truncation(4, direction="left" if side is None else "right")
    made.enable_padding(length=20)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings |= {} if side is None else {"truncation_side": side}
    write_folder(tmp_path, made, tokenizer_config_json=settings)
    wanted = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        [LONG, "a b"], truncation=True, max_length=length
    )
    assert ours(tmp_path, [LONG, "a b"], length) == wanted.input_ids
    said = any("no special tokens" in note for note in FileTokenizer(tmp_path, 8).notes)
    assert said != processor


def test_what_was_cut_is_not_remembered(tmp_path):
    tokenizer = FileTokenizer(write_folder(tmp_path, wordpiece()), 5)
    for _ in range(2):
        assert len(tokenizer.encode(LONG, truncate=True)) == 5
        with pytest.raises(
            ConfigError, match="has 20 tokens, model.tokens is 5; .*raise model.tokens or pass"
        ):
            tokenizer.encode(LONG)


def test_no_room_for_a_text_is_no_text_s_fault(tmp_path):
    write_folder(tmp_path, wordpiece())
    with pytest.raises(ConfigError, match="model.tokens: 2 leaves no token for a text beside 2 of"):
        FileTokenizer(tmp_path, 2)
    assert ours(tmp_path, [LONG], 3) == [ids_of("[CLS]", "a", "[SEP]")]
    with pytest.raises(ConfigError, match="model.tokens: 2 leaves no token for a text beside 2"):
        WordTokenizer(64, 2).encode("a", truncate=True)


def test_a_prompt_that_leaves_no_room_is_refused(folder):
    path = folder / "config_sentence_transformers.json"
    change(path, prompts={"long": "a b c a b c "}, default_prompt_name="long")
    assert ours(folder, ["hello"], 9) == theirs(folder, ["hello"])
    with pytest.raises(ConfigError, match="beside 8 of prompt 'long' and special tokens; raise it"):
        FileTokenizer(folder, 8)


# -- sentence_bert_config.json -------------------------------------------------------------------


@pytest.mark.parametrize("names", ["sentence_bert_config", "sentence_roberta_config"])
@pytest.mark.parametrize("limits", [(7, None), (7, 5), (None, 5), (None, None), (30, 6), (5, 1e30)])
def test_texts_are_as_long_as_the_folder_allows(names, limits, folder):
    sentence, tokenizer = limits
    (folder / "sentence_bert_config.json").rename(folder / f"{names}.json")
    change(folder / f"{names}.json", max_seq_length=sentence)
    settings = folder / "tokenizer_config.json"
    change(settings, model_max_length=tokenizer)
    if tokenizer is None:
        kept = json.loads(settings.read_text())
        write_json(settings, {k: v for k, v in kept.items() if k != "model_max_length"})
    if sentence != 30:
        assert ours(folder, [LONG, "a"]) == theirs(folder, [LONG, "a"])
    limit = sentence or tokenizer or 16
    if limit >= 16:
        assert len(ours(folder, [LONG])[0]) == 16
        return
    name = "max_seq_length in sentence" if sentence else "model_max_length in tokenizer_config.json"
    with pytest.raises(
        ConfigError, match=f"has 20 tokens, {name}.* is {limit}; shorten it, or pass"
    ):
        FileTokenizer(folder, 16).encode(LONG)
    with pytest.raises(
        ConfigError, match=r"has 20 tokens, model.tokens is 4; .*, raise model.tokens or pass"
    ):
        FileTokenizer(folder, 4).encode(LONG)


@pytest.mark.parametrize("lowercase", [False, None])
@pytest.mark.parametrize("sequence", [False, True])
def test_texts_are_lowercased_as_the_folder_says(lowercase, sequence, folder):
    made = wordpiece(lowercase=lowercase)
    if sequence:
        own = [] if made.normalizer is None else [made.normalizer]
        # What comes after the capitals are gone sees none.
        changed = normalizers.Replace("hello", "b")
        made.normalizer = normalizers.Sequence([normalizers.NFD(), changed, *own])
    made.save(str(folder / "tokenizer.json"))
    cased = ours(folder, ["Hello"])
    assert cased == theirs(folder, ["Hello"]) == [ids_of("[CLS]", "Hello", "[SEP]")]
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    assert ours(folder, ["Hello"]) == [ids_of("[CLS]", "b" if sequence else "hello", "[SEP]")]
    texts = [text for text in NASTY if text.strip()]
    assert ours(folder, texts) == theirs(folder, texts)


def test_a_tokenizer_that_lowercases_by_itself_stays_as_it_is(folder):
    made = wordpiece(lowercase=None)
    made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()])
    made.save(str(folder / "tokenizer.json"))
    before = FileTokenizer(folder, 8).facts()
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    assert FileTokenizer(folder, 8).facts() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_seq_lenght": 5}, "unknown key 'max_seq_lenght'; did you mean 'max_seq_length'"),
        ({"zzz": 5}, "unknown key 'zzz'; remove it, or use another model"),
        ({"max_seq_length": 0}, "max_seq_length is 0; use a number of tokens"),
        ({"max_seq_length": "9"}, "max_seq_length is '9'; use a number"),
        ({"max_seq_length": True}, "max_seq_length is True; use a number"),
        ({"do_lower_case": 1}, "do_lower_case is 1; use true or false"),
        ({"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask', which is not done"),
        ({"modality_config": {"message": {}}}, "modality_config is .*, which is not done here"),
        ({"query_length": 32}, "query_length is 32, which is not done here"),
        ({"processing_kwargs": {"text": {"max_length": 3}}}, "processing_kwargs is .*not done"),
        ({"tokenizer_args": {"use_fast": False}}, "tokenizer_args has 'use_fast', which is not"),
        ({"config_args": "x"}, "config_args has 'x', which is not done here"),
    ],
)
def test_other_settings_of_the_first_module_are_refused(values, message, folder):
    change(folder / "sentence_bert_config.json", **values)
    with pytest.raises(ConfigError, match=f"sentence_bert_config.json: {message}"):
        FileTokenizer(folder, 8)


def test_settings_that_change_no_vector_are_fine(folder):
    change(
        folder / "sentence_bert_config.json",
        model_args={"torch_dtype": "float32"}, config_kwargs={}, tokenizer_args=None,
        unpad_inputs=False, query_length=None,
    )  # fmt: skip
    assert ours(folder, ["a"]) == [ids_of("[CLS]", "a", "[SEP]")]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"truncation_side": "up"}, "truncation_side is 'up'; use left or right"),
        ({"model_max_length": -1}, "model_max_length is -1; use a number of tokens"),
    ],
)
def test_wrong_settings_of_the_tokenizer_are_refused(values, message, folder):
    change(folder / "tokenizer_config.json", **values)
    with pytest.raises(ConfigError, match=f"tokenizer_config.json: {message}"):
        FileTokenizer(folder, 8)


def test_padding_at_the_left_is_said(folder):
    change(folder / "tokenizer_config.json", padding_side="left")
    assert FileTokenizer(folder, 8).notes == (
        "tokenizer_config.json: padding_side is left and ignored; a text alone has none",
    )
    assert ours(folder, [LONG]) == theirs(folder, [LONG])


AS_THE_FOLDER_SAYS = overrides_of(["model.normalize=null"])


# -- modules.json --------------------------------------------------------------------------------


def test_the_transformer_may_lie_in_a_folder_of_its_own(folder):
    """As old versions of sentence-transformers wrote it."""
    own = folder / "0_Transformer"
    own.mkdir()
    change(folder / "sentence_bert_config.json", max_seq_length=6, do_lower_case=True)
    wordpiece(lowercase=False).save(str(folder / "tokenizer.json"))
    kept = ("modules.json", "config_sentence_transformers.json", "README.md")
    for path in [p for p in folder.iterdir() if p.is_file() and p.name not in kept]:
        path.rename(own / path.name)
    raw = json.loads((folder / "modules.json").read_text())
    raw[0] = raw[0] | {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    write_json(folder / "modules.json", raw)
    change(folder / "config_sentence_transformers.json", prompts={"query": "query: "})
    assert transformer_folder(folder) == own
    assert ours(folder, [LONG, "Hello"]) == theirs(folder, [LONG, "Hello"])
    assert ours(folder, ["Hello"], prompt="query") == theirs(folder, ["Hello"], prompt="query")
    path = write_tiny_config(folder.parent / "run", tokens=6, model=folder)
    config = load_config(path, AS_THE_FOLDER_SAYS)
    assert load_model(config).public.architecture.vocabulary == 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "not a list of modules"),
        ("[]", "not a list of modules"),
        ("[7]", "a module without type and path, 7; fetch"),
        ('[{"type": "my_code.Transformer", "path": ""}]', "'my_code.Transformer' brings code of"),
        (
            '[{"type": "sentence_transformers.models.BoW", "path": ""}]',
            "starts with a module 'BoW'",
        ),
        ('[{"type": "sentence_transformers.models.Transformer", "path": "../x"}]', "leads out of"),
        ('[{"type": "sentence_transformers.models.Transformer", "path": "/tmp"}]', "leads out of"),
        (
            '[{"type": "sentence_transformers.models.Transformer", "path": "0_T"}]',
            "'0_T' is missing",
        ),
    ],
)
def test_other_modules_are_refused(content, message, folder):
    (folder / "modules.json").write_text(content)
    with pytest.raises(ConfigError, match=f"modules.json: .*{message}"):
        FileTokenizer(folder, 8)


def test_modules_are_named_in_their_order(folder, tmp_path):
    kinds = [(module.kind, module.folder.name) for module in sentence_modules(folder)]
    assert kinds == [("Transformer", "model"), ("Pooling", "1_Pooling")]
    assert sentence_modules(tmp_path) == () and transformer_folder(tmp_path) == tmp_path


# -- prompts -------------------------------------------------------------------------------------

PROMPTS = {"search": "search_query: ", "document": "document:", "none": ""}


@pytest.mark.parametrize("name", [None, "search", "document", "none", "query"])
@pytest.mark.parametrize("default", [None, "search", "query"])
def test_prompts_stand_before_texts_as_the_folder_says(name, default, folder):
    path = folder / "config_sentence_transformers.json"
    change(path, prompts=PROMPTS, default_prompt_name=default)
    texts = ["a", " a b", "caf\u00e9"]
    assert ours(folder, texts, prompt=name) == theirs(folder, texts, prompt=name)
    found = FileTokenizer(folder, 16, name).prompt
    assert found.name == (name or default) and found.text == PROMPTS.get(name or default, "")


def test_a_text_that_is_too_long_with_its_prompt_says_so(folder):
    change(folder / "config_sentence_transformers.json", prompts=PROMPTS)
    tokenizer = FileTokenizer(folder, 8, "search")
    assert len(tokenizer.encode("a")) == 7
    with pytest.raises(ConfigError, match="has 9 tokens with prompt 'search', model.tokens is 8"):
        tokenizer.encode("a b c")


@pytest.mark.parametrize(
    ("values", "name", "message"),
    [
        ({}, "serach", "has no prompt 'serach'; did you mean 'search'[?] known: 'query, document"),
        (
            {"default_prompt_name": "x"},
            None,
            "default_prompt_name is 'x', which is none of prompts",
        ),
        ({"prompts": ["a"]}, None, r"prompts is \['a'\]; expected a table"),
        ({"prompts": {"a": 7}}, None, "prompt 'a' is 7; expected a text"),
    ],
)
def test_prompts_that_do_not_exist_are_refused(values, name, message, folder):
    change(folder / "config_sentence_transformers.json", **{"prompts": PROMPTS} | values)
    with pytest.raises(ConfigError, match=message):
        FileTokenizer(folder, 16, name)


def test_a_prompt_that_would_not_be_pooled_is_refused(folder):
    """Sentence-transformers would leave its tokens out of the mean."""
    change(folder / "config_sentence_transformers.json", prompts=PROMPTS)
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    assert ours(folder, ["a"], prompt="none") == [ids_of("[CLS]", "a", "[SEP]")]
    with pytest.raises(ConfigError, match="include_prompt of .* is false, but prompt 'search'"):
        FileTokenizer(folder, 16, "search")


def test_the_config_names_a_prompt_and_parties_may_differ_in_it(folder, tmp_path):
    change(folder / "config_sentence_transformers.json", prompts=PROMPTS)
    path = write_tiny_config(tmp_path / "run", tokens=16, model=folder)
    plain, search = load_config(path), load_config(path)
    search = search.with_run(
        search.run.model_copy(
            update={"model": search.run.model.model_copy(update={"prompt": "search"})}
        )
    )
    assert text_encoder(search).encode("a").tolist() == theirs(folder, ["a"], prompt="search")[0]
    assert plain.agreed() == search.agreed()
    assert text_encoder(plain).facts() == text_encoder(search).facts()


def test_ranges_are_found_behind_every_prompt(folder, tmp_path, monkeypatch):
    from hybrid.models import loading

    change(folder / "config_sentence_transformers.json", prompts=PROMPTS)
    seen = []

    def observed(_run, samples, _margin):
        seen.extend(sample.tolist() for sample in samples)
        return {}

    monkeypatch.setattr(loading, "observed_ranges", observed)
    path = write_tiny_config(tmp_path / "run", tokens=16, model=folder)
    load_model(load_config(path, AS_THE_FOLDER_SAYS))
    starts = [FileTokenizer(folder, 16, name).encode("a").tolist()[:-2] for name in PROMPTS]
    assert len(seen) == 4 * 3
    assert [sum(ids[: len(s)] == s for ids in seen) for s in starts[:2]] == [4, 4]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"shape": "bert-tiny"}, "prompt would be ignored, since a shape has none; remove it"),
        ({"path": "x", "generation": True}, "model.prompt would be ignored beside generation"),
    ],
)
def test_prompts_that_would_be_ignored_are_refused(model, message, tmp_path):
    rest = {"mpc": {"fraction_bits": 16}, "ranges": {"margin": 2.0}, "name": "x"}
    rest |= {"scheduler": {"policy": "fastest"}}
    if model.pop("generation", False):
        rest["generation"] = {"positions": 8, "max_new_tokens": 2, "prompt_bucket": 1}
    with pytest.raises(ConfigError, match=message):
        checked({**rest, "model": {**model, "prompt": "query"}}, tmp_path / "x.yaml")
