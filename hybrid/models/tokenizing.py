"""Text to token ids, on the client; only `tokenizer.json` is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from transport.errors import ConfigError


class TextEncoder:
    """A Hugging Face tokenizer bound to a token limit."""

    def __init__(self, folder: Path, tokens: int) -> None:
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(f"{path}: missing; name a folder in Hugging Face layout")
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
        if not text.strip():
            raise ConfigError("text: empty; give at least one word")
        ids = np.array(self._tokenizer.encode(text).ids, np.int64)
        if len(ids) <= self._tokens:
            return ids
        if truncate:
            # The last special token closes the shortened text too.
            return np.concatenate([ids[: self._tokens - 1], ids[-1:]])
        raise ConfigError(
            f"text: {text[:30]!r}... has {len(ids)} tokens, model.tokens is {self._tokens}; "
            "shorten it, raise model.tokens or pass --truncate"
        )
