"""Text to token ids, on the client: of a model folder it opens only `tokenizer.json`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hybrid.models.model_files import check_file
from hybrid.models.random_weights import SPECIAL_TOKENS
from transport.errors import ConfigError


class TextEncoder(Protocol):
    """From a text to token ids."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""

    def encode(self, text: str, *, truncate: bool = False) -> NDArray[np.int64]:
        """Token ids, special tokens included, at most `model.tokens`."""


def _checked(text: str) -> str:
    """The text, once it has words and can be written down."""
    if not text.strip():
        raise ConfigError("text: empty; give at least one word")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError("text: holds characters that are no Unicode text; mend it") from None
    return text


def _too_long(text: str, found: int, tokens: int) -> ConfigError:
    return ConfigError(
        f"text: {text[:30]!r}... has {found} tokens, model.tokens is {tokens}; "
        "shorten it, raise model.tokens or pass --truncate"
    )


class FileTokenizer:
    """A Hugging Face tokenizer bound to a token limit."""

    def __init__(self, folder: Path, tokens: int) -> None:
        path = folder / "tokenizer.json"
        check_file(path)
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise ConfigError(f"{path}: not a tokenizer ({error}); fetch it again") from None
        # Padding is this project's own and truncation is the user's decision.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokens = tokens

    @property
    def vocabulary(self) -> int:
        """Number of token ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, *, truncate: bool = False) -> NDArray[np.int64]:
        """Token ids, special tokens included, at most the limit."""
        ids = np.array(self._tokenizer.encode(_checked(text)).ids, np.int64)
        if len(ids) <= self._tokens:
            return ids
        if truncate:
            # The last special token closes the shortened text too.
            return np.concatenate([ids[: self._tokens - 1], ids[-1:]])
        raise _too_long(text, len(ids), self._tokens)


class WordTokenizer:
    """Where there is only a shape: one token a word, its id a hash of the word."""

    def __init__(self, vocabulary: int, tokens: int) -> None:
        if vocabulary <= SPECIAL_TOKENS:
            raise ConfigError(
                f"model.shape.vocabulary: {vocabulary}; give at least {SPECIAL_TOKENS + 1}"
            )
        self.vocabulary = vocabulary
        self._tokens = tokens

    def encode(self, text: str, *, truncate: bool = False) -> NDArray[np.int64]:
        """Token ids, one more at either end, at most the limit."""
        words = _checked(text).split()
        room = self._tokens - SPECIAL_TOKENS
        if len(words) > room and not truncate:
            raise _too_long(text, len(words) + SPECIAL_TOKENS, self._tokens)
        ids = np.array([0, *(self._id(word) for word in words[: max(room, 0)]), 1], np.int64)
        return ids[: self._tokens]

    def _id(self, word: str) -> int:
        digest = hashlib.sha256(word.encode()).digest()
        return SPECIAL_TOKENS + int.from_bytes(digest[:8], "big") % (
            self.vocabulary - SPECIAL_TOKENS
        )
