"""What a model folder says about texts beside its tokenizer: lengths, case, prompts.

Names and meanings are those of sentence-transformers and transformers.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.models.sentence_folder import includes_prompt, optional_table, transformer_folder
from transport.errors import ConfigError
from transport.foreign import shown

_SENTENCE_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Of these names the first that is there."""
_ARGUMENTS = (
    *("model_args", "model_kwargs", "tokenizer_args"),
    *("processor_kwargs", "config_args", "config_kwargs"),
)
_HARMLESS = {"trust_remote_code", "attn_implementation", "torch_dtype", "dtype"}
"""Arguments that say how something is computed, and not what."""
_TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "transformer_task": ("feature-extraction",),
    "modality_config": (_TEXT,),
    "module_output_name": ("token_embeddings",),
    "unpad_inputs": (None, True, False),
    "processing_kwargs": (None, {}),
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "tokenizer_name_or_path": (None,),
}
"""Keys of the first module's settings that may say nothing else."""
_EMPTY_PROMPTS = {"query": "", "document": ""}
"""Names that every model has."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Most tokens of a text, special tokens included."""

    tokens: int
    name: str
    """Of the setting, with its file."""


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """What stands before every text."""

    name: str | None
    text: str


@dataclass(frozen=True, slots=True)
class TextSettings:
    """Of one folder."""

    folder: Path
    limit: Limit | None
    truncation_side: str | None
    """Which end a text loses that is too long, left or right, where it is said."""
    lower_case: bool
    """Whether texts are lowercased before the tokenizer's own rules."""
    prompts: Mapping[str, str]
    default_prompt: str | None
    tokenizer: Mapping[str, Any]
    """Of `tokenizer_config.json`."""
    includes_prompt: bool
    """Whether prompts are pooled with their texts."""

    def prompt(self, name: str | None) -> TextPrompt:
        """The one of this name, else the folder's default; `ConfigError` where there is none."""
        chosen = self.default_prompt if name is None else name
        if chosen is None:
            return TextPrompt(None, "")
        if chosen not in self.prompts:
            close = difflib.get_close_matches(chosen, self.prompts, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            known = shown(", ".join(self.prompts))
            raise ConfigError(
                f"model.prompt: {self.folder.name} has no prompt {shown(chosen)}; {hint}known: "
                f"{known}"
            )
        text = self.prompts[chosen]
        if text and not self.includes_prompt:
            raise ConfigError(
                f"{self.folder}: include_prompt of its pooling is false, but prompt "
                f"{shown(chosen)} would be pooled with the text; choose an empty prompt with "
                "model.prompt, or another model"
            )
        return TextPrompt(chosen, text)


def read_text_settings(folder: Path) -> TextSettings:
    """Of a folder in Hugging Face layout, with or without sentence-transformers' files."""
    place = transformer_folder(folder)
    settings, tokenizer = _sentence_config(place), optional_table(place / "tokenizer_config.json")
    side_path = place / "tokenizer_config.json"
    side = tokenizer.get("truncation_side")
    if side not in (None, "left", "right"):
        raise ConfigError(f"{side_path}: truncation_side is {shown(side)}; use left or right")
    prompts, default = _prompts(folder / "config_sentence_transformers.json")
    return TextSettings(
        folder,
        settings.limit or _limit(side_path, "model_max_length", tokenizer),
        side,
        settings.lower_case,
        prompts,
        default,
        tokenizer,
        includes_prompt(folder),
    )


@dataclass(frozen=True, slots=True)
class _Sentence:
    limit: Limit | None
    lower_case: bool


def _sentence_config(place: Path) -> _Sentence:
    path = next((p for n in _SENTENCE_CONFIGS if os.path.lexists(p := place / n)), None)
    if path is None:
        return _Sentence(None, False)
    found = optional_table(path)
    lower_case = found.get("do_lower_case", False)
    if type(lower_case) is not bool:
        raise ConfigError(f"{path}: do_lower_case is {shown(lower_case)}; use true or false")
    for key, value in found.items():
        _check_key(path, key, value)
    return _Sentence(_limit(path, "max_seq_length", found), lower_case)


def _check_key(path: Path, key: str, value: object) -> None:
    """`ConfigError` for what would change vectors and is not done here."""
    if key in ("max_seq_length", "do_lower_case"):
        return
    if key in _ARGUMENTS:
        given = value if isinstance(value, dict) else {} if value is None else {str(value): None}
        wrong = next((name for name in given if name not in _HARMLESS), None)
        if wrong is not None:
            raise ConfigError(
                f"{path}: {key} has {shown(wrong)}, which is not done here; use another model"
            )
        return
    if key not in _ONLY:
        known = ("max_seq_length", "do_lower_case", *_ONLY, *_ARGUMENTS)
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "remove it, or use another model"
        raise ConfigError(f"{path}: unknown key {shown(key)}; {hint}")
    if not any(type(value) is type(allowed) and value == allowed for allowed in _ONLY[key]):
        raise ConfigError(
            f"{path}: {key} is {shown(value)}, which is not done here; use another model"
        )


def _limit(path: Path, key: str, settings: Mapping[str, Any]) -> Limit | None:
    """Most tokens that a file allows; absurdly large numbers stand for none."""
    value = settings.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        raise ConfigError(f"{path}: {key} is {shown(value)}; use a number of tokens")
    return Limit(int(min(value, 1 << 30)), f"{key} in {path.name}")


def _prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """All of them by name, and which is the default."""
    settings = optional_table(path)
    given, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if settings.get("truncate_dim") is not None:
        raise ConfigError(
            f"{path}: truncate_dim is {shown(settings['truncate_dim'])}, which is not done here; "
            "set it to null, and cut the vectors yourself"
        )
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: prompts is {shown(given)}; expected a table of texts")
    prompts = dict(_EMPTY_PROMPTS)
    for name, text in given.items():
        if text is not None and not isinstance(text, str):
            raise ConfigError(f"{path}: prompt {shown(name)} is {shown(text)}; expected a text")
        prompts[name] = text or ""
    if default is not None and default not in prompts:
        raise ConfigError(
            f"{path}: default_prompt_name is {shown(default)}, which is none of prompts; name one"
        )
    return prompts, default
