"""Prompts and conversations on the client: what of them is public, and the ids of every turn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hybrid.config.schema import GenerationConfig
from hybrid.models.chat_template import Message
from hybrid.models.decoder_tokenizing import Ids, Prompt
from hybrid.models.random_weights import SPECIAL_TOKENS
from hybrid.models.tokenizing import checked_text
from transport.errors import ConfigError


class Streamed(Protocol):
    """Decodes an answer while it comes."""

    def push(self, token_id: int) -> str:
        """What this token adds to the text shown so far."""

    def close(self) -> str:
        """The rest, after the last token."""


class PromptTokenizer(Protocol):
    """From prompts to ids and back."""

    @property
    def vocabulary(self) -> int:
        """Rows of an embedding table that has all ids: the largest and one."""

    @property
    def end_ids(self) -> frozenset[int]:
        """An answer ends with any of these."""

    def digest(self) -> str:
        """SHA-256 of what every id means: parties that differ in it would talk past each other."""

    def completion(self, text: str) -> Prompt:
        """A text to be continued."""

    def chat(self, messages: Sequence[Message]) -> Prompt:
        """A conversation up to the answer."""

    def continuation(self, messages: Sequence[Message], text: str) -> Ids:
        """What follows the answer, the last of `messages`, when the user goes on with `text`."""

    def decode(self, token_ids: Sequence[int] | Ids) -> str:
        """The text of an answer."""

    def stream(self) -> Streamed:
        """Decodes an answer while it comes."""


class ShapeTokenizer:
    """Where there is only a shape: one token a word, its id a hash of the word."""

    end_ids: frozenset[int] = frozenset()

    def __init__(self, vocabulary: int) -> None:
        if vocabulary <= SPECIAL_TOKENS:
            raise ConfigError(
                f"model.shape.vocabulary: {vocabulary}; give at least {SPECIAL_TOKENS + 1}"
            )
        self.vocabulary = vocabulary

    def digest(self) -> str:
        """Of the number of ids, which decides all of them."""
        return hashlib.sha256(f"words {self.vocabulary}".encode()).hexdigest()

    def completion(self, text: str) -> Prompt:
        """One token a word, nothing public."""
        return Prompt(np.zeros(0, np.int64), self._encode(text))

    def chat(self, messages: Sequence[Message]) -> Prompt:
        """Refused: there is no template."""
        del messages
        raise ConfigError(
            "generation.chat: a shape has no chat template; set generation.chat: false"
        )

    def continuation(self, messages: Sequence[Message], text: str) -> Ids:
        """One token a word."""
        del messages
        return self._encode(text)

    def decode(self, token_ids: Sequence[int] | Ids) -> str:
        """Numbers: the ids mean nothing."""
        return " ".join(f"<{int(i)}>" for i in token_ids)

    def stream(self) -> Streamed:
        """Number by number."""
        return _Numbers()

    def _encode(self, text: str) -> Ids:
        words = [word.encode() for word in checked_text(text).split()]
        digests = [hashlib.sha256(word).digest() for word in words]
        room = self.vocabulary - SPECIAL_TOKENS
        ids = [SPECIAL_TOKENS + int.from_bytes(d[:8], "big") % room for d in digests]
        return np.array(ids, np.int64)


class _Numbers:
    def push(self, token_id: int) -> str:
        return f"<{token_id}> "

    def close(self) -> str:
        return ""


class Prompts:
    """A tokenizer under the settings of a run."""

    def __init__(self, tokenizer: PromptTokenizer, settings: GenerationConfig) -> None:
        self.tokenizer = tokenizer
        self.settings = settings

    @property
    def prefix(self) -> Ids:
        """Public ids that every conversation starts with."""
        return self.first("a").prefix

    def first(self, text: str) -> Prompt:
        """Of a conversation's first prompt."""
        if not text.strip():
            raise ConfigError("prompt: empty; give at least one word")
        if not self.settings.chat:
            return self.tokenizer.completion(text)
        return self.tokenizer.chat([*self.opening(), {"role": "user", "content": text}])

    def opening(self) -> list[Message]:
        """Public messages before the first prompt."""
        system = self.settings.system
        return [] if system is None else [{"role": "system", "content": system}]

    def __repr__(self) -> str:
        return f"<Prompts: {self.tokenizer!r}>"


@dataclass
class Conversation:
    """Turns so far, and which of their ids are still to be read."""

    prompts: Prompts
    messages: list[Message] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    """Ids of the last answer that no pass has read yet."""

    def ask(self, text: str) -> Ids:
        """Private ids of the next pass."""
        if not text.strip():
            raise ConfigError("prompt: empty; give at least one word")
        prompts, user = self.prompts, {"role": "user", "content": text}
        if not self.messages:
            ids = prompts.first(text).private
        elif prompts.settings.chat:
            ids = prompts.tokenizer.continuation([*prompts.opening(), *self.messages], text)
        else:
            # What was read before stays as it is, and the text goes on.
            ids = prompts.tokenizer.completion(text).private
        self.messages.append(user)
        found: Ids = np.concatenate([np.array(self.pending, np.int64), ids])
        self.pending = []
        return found

    def copy(self) -> Conversation:
        """One that goes on by itself."""
        return Conversation(self.prompts, list(self.messages), list(self.pending))

    def answered(self, answer: Sequence[int], unread: Sequence[int]) -> str:
        """Keep an answer; unread: ids of it that no pass has read. Its text."""
        text = self.prompts.tokenizer.decode(answer)
        self.messages.append({"role": "assistant", "content": text})
        self.pending = list(unread)
        return text
