"""Text to token ids, on the client: of a model folder it opens only what is about texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, normalizers

from hybrid.models.embedding import typed
from hybrid.models.random_weights import SPECIAL_TOKENS
from hybrid.models.sentence_folder import transformer_folder
from hybrid.models.text_settings import Limit, TextPrompt, read_text_settings
from hybrid.models.tokenizer_files import folder_tokenizer
from transport.errors import ConfigError
from transport.foreign import cut, shown

_NO_PROMPT = TextPrompt(None, "")


class TextEncoder(Protocol):
    """From a text to token ids."""

    @property
    def vocabulary(self) -> int:
        """Rows of an embedding table that has all ids: the largest and one."""

    @property
    def prompt(self) -> TextPrompt:
        """What stands before every text."""

    @property
    def prompts(self) -> Mapping[str, str]:
        """What may stand before a text, by name."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the folder, a line each."""

    def encode(
        self, text: str, *, truncate: bool = False, prompt: str | None = None
    ) -> NDArray[np.int64]:
        """Token ids, special tokens included, at most `model.tokens`; prompt: instead of the own.

        `ConfigError` for a text that is too long or has no tokens.
        """

    def note(self, text: str) -> str | None:
        """What a user should know of a text before its vector is used."""

    def facts(self) -> dict[str, str]:
        """By which parties see that a text means the same to both, by what is compared."""


def vocabulary_of(tokenizer: Tokenizer) -> int:
    """Rows of an embedding table that has all ids, those around every text included."""
    ids = tokenizer.get_vocab(with_added_tokens=True).values()
    return 1 + max((*ids, *tokenizer.encode("").ids), default=-1)


def checked_text(text: str) -> str:
    """The text, once it has words and can be written down."""
    if not text.strip():
        raise ConfigError("text: empty; give at least one word")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError("text: holds characters that are no Unicode text; mend it") from None
    return text


def _start(text: str) -> str:
    """Which text a sentence is about."""
    return f"text: {shown(text, 30)}"


def _too_long(text: str, found: int, limit: Limit, prompt: TextPrompt) -> ConfigError:
    with_prompt = f" with prompt {shown(prompt.name)}" if prompt.text else ""
    raised = "raise model.tokens " if limit.name == "model.tokens" else ""
    return ConfigError(
        f"{_start(text)} has {found} tokens{with_prompt}, {limit.name} is {limit.tokens}; "
        f"shorten it, {raised}or pass --truncate"
    )


class FileTokenizer:
    """A Hugging Face tokenizer with its folder's settings, bound to a token limit."""

    def __init__(
        self, folder: Path, tokens: int, prompt: str | None = None, *, pairs: bool = False
    ) -> None:
        """prompt: name of one of the folder's, instead of its default.

        pairs: every text is two, with a tab between.
        """
        self._pairs = pairs
        settings = read_text_settings(folder)
        read = folder_tokenizer(transformer_folder(folder), settings.tokenizer)
        self._tokenizer = read.tokenizer
        names = settings.tokenizer.get("model_input_names")
        # As in transformers, a folder may leave types out.
        self._has_types = "token_type_ids" in names if isinstance(names, list) else read.has_types
        own = self._tokenizer.truncation or {}
        side = settings.truncation_side or own.get("direction", "right")
        # Padding is this project's own and truncation is the user's decision.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if settings.lower_case:
            _lower_case_first(self._tokenizer)
        self._side, self._folder_limit = side, settings.limit
        mine = Limit(tokens, "model.tokens")
        self._limit = min((mine, settings.limit or mine), key=lambda limit: limit.tokens)
        self.prompts: Mapping[str, str] = settings.prompts
        self.prompt = settings.prompt(prompt)
        if pairs and self.prompt.text:
            raise ConfigError(
                f"model.pairs: prompt {shown(self.prompt.name)} stands before one text and not "
                "before two; choose an empty one with model.prompt"
            )
        special = self._tokenizer.num_special_tokens_to_add
        if pairs and special(True) < special(False):
            raise ConfigError(
                f"model.pairs: the tokenizer of {folder} says how one text is closed, but not two; "
                "use a model for pairs of texts"
            )
        self._default_prompt = settings.default_prompt
        self._includes_prompt = settings.includes_prompt
        self.notes = read.notes
        if settings.tokenizer.get("padding_side") == "left":
            self.notes += (
                "tokenizer_config.json: padding_side is left and ignored; a text alone has none",
            )
        self._require_room()

    def _require_room(self) -> None:
        """Where nothing of any text would be left, no text is to blame."""
        taken = len(self._tokens_of(self.prompt.text))
        if taken >= self._limit.tokens:
            what = (
                f"prompt {shown(self.prompt.name)} and special tokens"
                if self.prompt.text
                else ("special tokens")
            )
            raise ConfigError(
                f"{self._limit.name}: {self._limit.tokens} leaves no token for a text beside "
                f"{taken} of {what}; raise it or choose another prompt"
            )

    @cached_property
    def vocabulary(self) -> int:
        """Rows of an embedding table that has all ids: the largest and one."""
        return vocabulary_of(self._tokenizer)

    def encode(
        self, text: str, *, truncate: bool = False, prompt: str | None = None
    ) -> NDArray[np.int64]:
        """Token ids, special tokens included, at most the limit; prompt: instead of the own."""
        whole = (self.prompt.text if prompt is None else prompt) + checked_text(text)
        if self._pairs:
            self._check_pair(text)
        if not self._tokens_of(text, special=False):
            raise ConfigError(
                f"{_start(text)} has no tokens, since the model's tokenizer drops all of it; "
                "give at least one word"
            )
        ids, types = self._encoded(whole)
        if len(ids) > self._limit.tokens:
            if not truncate:
                raise _too_long(text, len(ids), self._limit, self.prompt)
            # By the library, which knows what closes a text that is cut.
            self._tokenizer.enable_truncation(self._limit.tokens, direction=self._side)
            try:
                ids, types = self._encoded(whole)
            finally:
                self._tokenizer.no_truncation()
        return typed(ids, types)

    def _check_pair(self, text: str) -> None:
        parts = text.split("\t")
        if len(parts) != 2 or not all(self._tokens_of(p, special=False) for p in parts):
            raise ConfigError(
                f"{_start(text)} is no pair, as model.pairs says; give two texts with one tab "
                "between"
            )

    def _tokens_of(self, text: str, *, special: bool = True) -> list[int]:
        return self._encoded(text, special=special)[0]

    def _encoded(self, text: str, *, special: bool = True) -> tuple[list[int], list[int]]:
        """Ids and types."""
        first, tab, second = text.partition("\t") if self._pairs else (text, "", "")
        pair = second if tab else None
        try:
            found: Encoding = self._tokenizer.encode(first, pair, add_special_tokens=special)
        except Exception as error:
            # tokenizers raises bare exceptions.
            raise ConfigError(
                f"{_start(text)} is more than the model's tokenizer can say "
                f"({cut(str(error))}); use other words"
            ) from None
        types = list(found.type_ids) if self._has_types else [0] * len(found.ids)
        return list(found.ids), types

    def note(self, text: str) -> str | None:
        """Where a text is nothing but unknown tokens."""
        ids = set(self._tokens_of(text, special=False))
        if len(ids) == 1 and ids == {self._unknown}:
            return (
                f"{_start(text)} has only words that the model does not know; its vector says "
                "no more than their number"
            )
        return None

    @cached_property
    def _description(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return found

    @cached_property
    def _unknown(self) -> int | None:
        model = self._description["model"]
        token, unknown = model.get("unk_token"), model.get("unk_id")
        found = unknown if token is None else self._tokenizer.token_to_id(token)
        return found if isinstance(found, int) else None

    def facts(self) -> dict[str, str]:
        """Of the tokenizer with all its rules, of lengths and of prompts."""
        limit = None if self._folder_limit is None else self._folder_limit.tokens
        found = {
            "tokenizer": [self._description, self._side, self._has_types],
            "length of texts": limit,
            "prompts": [dict(self.prompts), self._default_prompt, self._includes_prompt],
        }
        return {name: _digest(value) for name, value in found.items()}


def _lower_case_first(tokenizer: Tokenizer) -> None:
    """As sentence-transformers does it, where the tokenizer does not say so itself."""
    old = tokenizer.normalizer
    # Its type hints do not say that it is iterable.
    sequence: Any = normalizers.Sequence
    rules = [*old] if isinstance(old, sequence) else [] if old is None else [old]
    if not any(isinstance(rule, normalizers.Lowercase) for rule in rules):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rules])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class WordTokenizer:
    """Where there is only a shape: one token a word, its id a hash of the word."""

    prompt = _NO_PROMPT
    prompts: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()

    def __init__(self, vocabulary: int, tokens: int) -> None:
        if vocabulary <= SPECIAL_TOKENS:
            raise ConfigError(
                f"model.shape.vocabulary: {vocabulary}; give at least {SPECIAL_TOKENS + 1}"
            )
        self.vocabulary = vocabulary
        self._limit = Limit(tokens, "model.tokens")

    def encode(
        self, text: str, *, truncate: bool = False, prompt: str | None = None
    ) -> NDArray[np.int64]:
        """Token ids, one more at either end, at most the limit."""
        words = f"{prompt or ''}{checked_text(text)}".split()
        tokens = self._limit.tokens
        room = tokens - SPECIAL_TOKENS
        if room < 1:
            raise ConfigError(
                f"model.tokens: {tokens} leaves no token for a text beside {SPECIAL_TOKENS} "
                "special tokens; raise it"
            )
        if len(words) > room and not truncate:
            raise _too_long(text, len(words) + SPECIAL_TOKENS, self._limit, self.prompt)
        return np.array([0, *(self._id(word) for word in words[:room]), 1], np.int64)

    def note(self, text: str) -> str | None:
        """Nothing: every word has an id."""
        del text
        return None

    def facts(self) -> dict[str, str]:
        """Of the number of ids, which decides all of them."""
        return {"tokenizer": _digest(["words", self.vocabulary])}

    def _id(self, word: str) -> int:
        digest = hashlib.sha256(word.encode()).digest()
        return SPECIAL_TOKENS + int.from_bytes(digest[:8], "big") % (
            self.vocabulary - SPECIAL_TOKENS
        )
