"""Tokenizers out of files: `tokenizer.json`, or the vocabularies that stand for one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from hybrid.models.model_files import read_json
from hybrid.models.sentence_folder import optional_table
from transport.errors import ConfigError
from transport.foreign import cut, shown

_SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model")
_GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")
"""Classes that take `tokenizer.json` as it is."""
_BERT_LIKE = {"BertTokenizer", "MPNetTokenizer", "DistilBertTokenizer", "ElectraTokenizer"}
_TYPED = {"BertTokenizer", "ElectraTokenizer"}
"""Classes that give types; others leave them out unless `model_input_names` asks for them."""
_DEFAULT_CLASS = {
    "bert": "BertTokenizer",
    "electra": "ElectraTokenizer",
    "distilbert": "DistilBertTokenizer",
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
}
"""By model type, where no file names one."""
_WHITESPACE, _PIECES = ["Precompiled"], ["WhitespaceSplit", "Metaspace"]
_BERT_PARTS = ("WordPiece", ["BertNormalizer"], ["BertPreTokenizer"])
_PARTS: Mapping[str, tuple[str, list[str], list[str]]] = {
    **dict.fromkeys(_BERT_LIKE, _BERT_PARTS),
    "RobertaTokenizer": ("BPE", [], ["ByteLevel"]),
    **dict.fromkeys(
        ("XLMRobertaTokenizer", "CamembertTokenizer", "T5Tokenizer"),
        ("Unigram", _WHITESPACE, _PIECES),
    ),
}
"""Model, normalisers and splitters of the classes that transformers 5 makes anew."""
_NAMED_TOKENS = {f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}
_BERT_RULES = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
"""Of `tokenizer_config.json`: the normaliser's name, what holds if nothing is said."""
_WORDPIECE = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}  # fmt: skip
_MPNET = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "[UNK]", "sep_token": "</s>",
    "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip
_ROBERTA = _MPNET | {"unk_token": "<unk>"}
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True, slots=True)
class ReadTokenizer:
    """A folder's tokenizer, and what of the folder does not go together, a line each."""

    tokenizer: Tokenizer
    notes: tuple[str, ...] = ()
    has_types: bool = False
    """Whether its class gives a model the types of tokens, unless a setting says otherwise."""


def tokenizer_of_json(path: Path) -> Tokenizer:
    """Of a `tokenizer.json`; `ConfigError` says why it cannot be."""
    read_json(path)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        # tokenizers raises bare exceptions, of whatever version wrote the file.
        reason = cut(str(error))
        raise ConfigError(
            f"{path}: not a tokenizer that the installed tokenizers {tokenizers.__version__} can "
            f"read ({reason}); upgrade tokenizers, or fetch the file again"
        ) from None


def folder_tokenizer(folder: Path, settings: Mapping[str, Any]) -> ReadTokenizer:
    """Of a folder in Hugging Face layout; settings: of its `tokenizer_config.json`."""
    config = optional_table(folder / "config.json")
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    is_named = named is not None
    if named is None:
        named = _DEFAULT_CLASS.get(str(config.get("model_type")), "")
    name = str(named).removesuffix("Fast")
    if os.path.lexists(folder / "tokenizer.json"):
        tokenizer = tokenizer_of_json(folder / "tokenizer.json")
        special = optional_table(folder / "special_tokens_map.json")
        notes = _as_its_class(tokenizer, name, {**special, **settings})
        # A class that only follows from the model type is a guess.
        notes += _other_parts(tokenizer, name if is_named else "")
        return ReadTokenizer(tokenizer, tuple(notes), name in _TYPED)
    return ReadTokenizer(_of_vocabulary(folder, name, settings), has_types=name in _TYPED)


# -- tokenizer.json and tokenizer_config.json -------------------------------------------------


def _as_its_class(tokenizer: Tokenizer, name: str, settings: Mapping[str, Any]) -> list[str]:
    """Rules that the tokenizer's class takes from its settings instead; a line for each change."""
    if settings.get("split_special_tokens") not in (None, False):
        raise ConfigError(
            "tokenizer_config.json: split_special_tokens is not done here; use another model"
        )
    notes = _named_tokens(tokenizer, settings)
    if tokenizer.post_processor is None:
        notes.append("tokenizer.json: no post_processor, so no special tokens surround a text")
    if name in _GENERIC:
        return notes
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    if name in _BERT_LIKE and isinstance(normalizer, normalizers.BertNormalizer):
        rules = {
            rule: getattr(normalizer, rule) for rule in ("clean_text", *dict(_BERT_RULES.values()))
        }
        changed, more = _changed_rules(rules, settings)
        tokenizer.normalizer = normalizers.BertNormalizer(**changed)
        notes += more
    space = settings.get("add_prefix_space", False if name == "RobertaTokenizer" else None)
    if (
        isinstance(splitter, pre_tokenizers.ByteLevel)
        and type(space) is bool
        and splitter.add_prefix_space != space
    ):
        splitter.add_prefix_space = space
        tokenizer.pre_tokenizer = splitter
        notes.append(_overruled("add_prefix_space", space, "add_prefix_space", not space))
    return notes


def _changed_rules(
    rules: dict[str, Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Of a BERT normaliser."""
    notes = []
    for key, (rule, default) in _BERT_RULES.items():
        mine = rules[rule]
        if key in settings:
            said = settings[key]
            if type(said) is not bool and said is not default:
                raise ConfigError(
                    f"tokenizer_config.json: {key} is {shown(said)}; use true or false"
                )
            if said != mine:
                rules = rules | {rule: said}
                notes.append(_overruled(key, said, rule, mine))
        elif mine != default:
            notes.append(
                f"tokenizer.json: {rule} is {mine} and holds; without {key} in "
                f"tokenizer_config.json transformers takes {default}"
            )
    return rules, notes


def _overruled(key: str, said: object, rule: str, mine: object) -> str:
    return (
        f"tokenizer_config.json: {key} is {said} and holds, as in transformers, though {rule} is "
        f"{mine} in tokenizer.json"
    )


def _named_tokens(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> list[str]:
    """Let tokens that only settings name be found in texts, as transformers does it.

    A line for each that the vocabulary lacks: it has no id.
    """
    known = tokenizer.get_vocab(with_added_tokens=True)
    held = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    notes, missing = [], []
    for token in dict.fromkeys(_tokens_in(settings)):
        if token not in known:
            notes.append(f"tokenizer_config.json: token {shown(token)} has no id; not added")
        elif token not in held:
            missing.append(AddedToken(token, special=True, normalized=False))
    tokenizer.add_special_tokens(missing)
    return notes


def _tokens_in(settings: Mapping[str, Any]) -> Iterator[str]:
    """Contents of all tokens that settings name."""
    more = [settings.get(key) for key in ("additional_special_tokens", "extra_special_tokens")]
    more.append(settings.get("added_tokens_decoder"))
    lists = [list(x.values()) if isinstance(x, dict) else x for x in more]
    named = [value for key, value in settings.items() if key in _NAMED_TOKENS]
    for value in (*named, *(x for found in lists if isinstance(found, list) for x in found)):
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            yield content


def _other_parts(tokenizer: Tokenizer, name: str) -> list[str]:
    """What transformers 5 would make anew for this class, and finds otherwise in tokenizer.json."""
    if name not in _PARTS:
        return []
    described = json.loads(tokenizer.to_str())
    model, normalizer, splitter = _PARTS[name]
    if described["model"].get("type") != model:
        raise ConfigError(
            f"tokenizer_config.json: tokenizer_class {name} is no tokenizer of tokenizer.json's "
            f"model, {shown(described['model'].get('type'))}; name the one that it was made with"
        )
    found: dict[str, tuple[Any, Any]] = {
        "normalizer": (_kinds(described["normalizer"]), normalizer),
        "pre_tokenizer": (_kinds(described["pre_tokenizer"]), splitter),
    }
    if model == "WordPiece":
        for key, usual in (("continuing_subword_prefix", "##"), ("max_input_chars_per_word", 100)):
            found[key] = (described["model"].get(key), usual)
    return [
        f"tokenizer.json: {key} is {shown(own)} and holds, where transformers 5 makes "
        f"{shown(usual)} for {name}"
        for key, (own, usual) in found.items()
        if own != usual
    ]


def _kinds(part: Any) -> list[str]:
    """Types of what a normaliser or a splitter is made of."""
    if part is None:
        return []
    inner = part.get("normalizers", part.get("pretokenizers", [part]))
    return [str(one.get("type")) for one in inner]


# -- vocabularies ------------------------------------------------------------------------------


def _of_vocabulary(folder: Path, name: str, settings: Mapping[str, Any]) -> Tokenizer:
    missing = folder / "tokenizer.json"
    convert = (
        "convert it where transformers is installed: AutoTokenizer.from_pretrained(FOLDER)"
        ".save_pretrained(FOLDER)"
    )
    pieces = next((n for n in _SENTENCEPIECE if (folder / n).exists()), None)
    words, merged = folder / "vocab.txt", (folder / "vocab.json", folder / "merges.txt")
    make: Callable[[Path, str, Mapping[str, Any]], Tokenizer]
    if words.exists() and name in _BERT_LIKE:
        make = _wordpiece
    elif all(path.exists() for path in merged) and name == "RobertaTokenizer":
        make = _byte_level
    elif pieces is not None:
        raise ConfigError(f"{missing}: missing, and {pieces} is not read; {convert}")
    elif words.exists() or merged[0].exists():
        raise ConfigError(
            f"{missing}: missing, and a vocabulary of class {shown(name)} is not read; {convert}"
        )
    else:
        raise ConfigError(f"{missing}: missing; name a folder in Hugging Face layout")
    if (folder / "added_tokens.json").exists():
        raise ConfigError(f"{missing}: missing, and added_tokens.json is not read; {convert}")
    special = optional_table(folder / "special_tokens_map.json")
    return make(folder, name, {**special, **settings})


def _wordpiece(folder: Path, name: str, settings: Mapping[str, Any]) -> Tokenizer:
    """As transformers makes one of `vocab.txt`."""
    is_mpnet = name == "MPNetTokenizer"
    tokens = _special(settings, _MPNET if is_mpnet else _WORDPIECE, folder)
    vocabulary = _readable(folder / "vocab.txt", lambda path: models.WordPiece.read_file(path))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=tokens["unk_token"].content))
    rules: dict[str, Any] = {rule: default for rule, default in _BERT_RULES.values()}
    changed, _ = _changed_rules(rules, settings)
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, **changed)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _add(tokenizer, tokens, vocabulary, folder / "vocab.txt")
    first, last = (tokens[key].content for key in ("cls_token", "sep_token"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[first, "$A", last],
        pair=[first, "$A", last, *([last, "$B", last] if is_mpnet else ["$B:1", f"{last}:1"])],
        special_tokens=[(token, vocabulary[token]) for token in dict.fromkeys((first, last))],
    )
    return tokenizer


def _byte_level(folder: Path, name: str, settings: Mapping[str, Any]) -> Tokenizer:
    """As transformers makes one of `vocab.json` and `merges.txt` for RoBERTa."""
    del name
    tokens = _special(settings, _ROBERTA, folder)
    space = settings.get("add_prefix_space", False)
    paths = str(folder / "vocab.json"), str(folder / "merges.txt")
    for path in paths:
        _readable(Path(path), lambda path: Path(path).read_text(encoding="utf-8"))
    vocabulary, merges = _readable(
        folder / "vocab.json", lambda _path: models.BPE.read_file(*paths)
    )
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(space))
    _add(tokenizer, tokens, vocabulary, folder / "vocab.json")
    last, first = (
        (token, vocabulary[token])
        for token in (tokens["sep_token"].content, tokens["cls_token"].content)
    )
    tokenizer.post_processor = processors.RobertaProcessing(last, first)
    return tokenizer


def _readable(path: Path, read: Any) -> Any:
    try:
        return read(str(path))
    except OSError as error:
        reason = error.strerror
    except Exception as error:
        # tokenizers raises bare exceptions.
        reason = cut(str(error))
    raise ConfigError(f"{path}: cannot be read ({reason}); fetch it again")


def _special(
    settings: Mapping[str, Any], usual: Mapping[str, str], folder: Path
) -> dict[str, AddedToken]:
    """By the names that settings have for them; in the order in which they are added."""
    found = {}
    for key, default in usual.items():
        token = settings.get(key, default)
        if isinstance(token, str):
            token = {"content": token}
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ConfigError(
                f"{folder / 'tokenizer_config.json'}: {key} is {shown(token)}; expected a token"
            )
        flags = {flag: token.get(flag) is True for flag in _FLAGS}
        found[key] = AddedToken(token["content"], special=True, **flags)
    return found


def _add(
    tokenizer: Tokenizer,
    tokens: Mapping[str, AddedToken],
    vocabulary: Mapping[str, int],
    path: Path,
) -> None:
    """Let special tokens be found in a text before anything else, as far as there are any."""
    for key in ("cls_token", "sep_token"):
        if tokens[key].content not in vocabulary:
            raise ConfigError(
                f"{path}: no token {shown(tokens[key].content)}, the {key}; fetch it again"
            )
    tokenizer.add_special_tokens([t for t in tokens.values() if t.content in vocabulary])
