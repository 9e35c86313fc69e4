"""Text to token ids and back for decoders, on the client: it opens no weights.

A prompt falls into a public prefix, the same whatever the user writes, and private ids.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hybrid.models.chat_template import ChatTemplate, Message
from hybrid.models.tokenizing import vocabulary_of
from transport.errors import ConfigError
from transport.foreign import shown

Ids = NDArray[np.int64]

_PROBES = ("a", "Z", "7", "\u00e9", "\u4e2d", "!", "'s")
"""Texts that start in ways that tokenizers tell apart: the prefix is what they have in common."""
_MARK = "\ue0f7"
"""Of private use: around what would be read as control tokens in a user's text."""
_PLACE = "\ue0f8\ue0f9"
"""Of private use: stands for the user's text."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of one request."""

    prefix: Ids
    """Public: the same for every text, so it says nothing of this one."""
    private: Ids
    """The user's text and all that follows it."""

    @property
    def ids(self) -> Ids:
        """Both."""
        return np.concatenate([self.prefix, self.private])

    def __repr__(self) -> str:
        return f"<Prompt: {len(self.prefix)} public tokens, {len(self.private)} private>"


class DecoderTokenizer:
    """A tokenizer, its model's chat template and the tokens that end an answer."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        end_ids: Iterable[int],
        place: str,
    ) -> None:
        """place: prefixes errors."""
        self._tokenizer, self._template, self._place = tokenizer, template, place
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._vocabulary = vocabulary_of(tokenizer)
        self.end_ids = frozenset(i for i in end_ids if i < self.vocabulary)
        """An answer ends with any of these."""
        added = tokenizer.get_added_tokens_decoder().values()
        control = sorted({t.content for t in added if t.special}, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control))) if control else None
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = None if unknown is None else tokenizer.token_to_id(unknown)
        self._sayable: set[str] = set()

    @property
    def vocabulary(self) -> int:
        """Rows of an embedding table that has all ids: the largest and one."""
        return self._vocabulary

    @property
    def has_template(self) -> bool:
        """Whether prompts may be messages."""
        return self._template is not None

    def digest(self) -> str:
        """SHA-256 of all tokens with their ids, and of those that end an answer."""
        tokens = sorted(self._tokenizer.get_vocab(with_added_tokens=True).items())
        return hashlib.sha256(json.dumps([tokens, sorted(self.end_ids)]).encode()).hexdigest()

    # -- plain text -----------------------------------------------------------------------------

    def encode(self, text: str) -> Ids:
        """Token ids of a text, control tokens read as such, after a start token if it has one."""
        self._check(text)
        return self._encode(text, start=True)

    def decode(self, token_ids: Sequence[int] | Ids) -> str:
        """The text, without control tokens; bytes that are no character come as U+FFFD."""
        return str(self._tokenizer.decode([int(i) for i in token_ids], skip_special_tokens=True))

    def stream(self) -> TextStream:
        """Decodes an answer while it comes."""
        return TextStream(self)

    def _encode(self, text: str, *, start: bool = False, as_text: bool = False) -> Ids:
        self._tokenizer.encode_special_tokens = as_text
        try:
            found = self._tokenizer.encode(text, add_special_tokens=start).ids
        finally:
            self._tokenizer.encode_special_tokens = False
        return np.array(found, np.int64)

    def _check(self, text: str) -> None:
        """`ConfigError` where something of the text would be lost without a word."""
        for character in set(text):
            if character not in self._sayable:
                if not self._can_say(character):
                    raise ConfigError(
                        f"text: character U+{ord(character):04X} is not in the model's vocabulary; "
                        "remove it"
                    )
                self._sayable.add(character)

    def _can_say(self, character: str) -> bool:
        if 0xD800 <= ord(character) < 0xE000:
            return False
        ids = self._encode(f"x{character}x")
        if self._unknown is not None and self._unknown in ids:
            return False
        found = self.decode(ids)
        whole = "\ufffd" not in found or character == "\ufffd"
        return whole and found != self.decode(self._encode("xx"))

    # -- prompts --------------------------------------------------------------------------------

    def completion(self, text: str) -> Prompt:
        """A text to be continued: public is only the start token, if there is one."""
        self._check(text)
        start = self._encode("", start=True)
        private = self._encode_marked(self._marked(text))
        if not len(start) + len(private):
            raise ConfigError("text: empty; give at least one word")
        return Prompt(start, private)

    def chat(self, messages: Sequence[Message]) -> Prompt:
        """A conversation up to the answer; private is what follows the first `user` before it.

        What looks like a control token in a message is encoded as the text that it is.
        """
        if self._template is None:
            raise ConfigError(
                f"{self._place}: has no chat template; use a model that was trained on "
                "conversations, or let it continue a text with generation.chat: false"
            )
        first = next((i for i, m in enumerate(messages) if m.get("role") == "user"), None)
        if first is None:
            raise ConfigError("messages: none of them is the user's; give one of role 'user'")
        for message in messages:
            self._check(message.get("content", ""))
        marked = [{**m, "content": self._marked(m.get("content", ""))} for m in messages]
        head = self._head(self._template, marked[:first], marked[first])
        self._check_written(marked[:first], head)
        whole = self._template.render(marked)
        if not whole.startswith(head):
            raise ConfigError(
                f"{self._place}: the chat template writes something else before the user's text "
                "when that changes, so nothing is public; use another model"
            )
        return self._split(head, whole)

    def continuation(self, messages: Sequence[Message], text: str) -> Ids:
        """Ids that follow an answer, the last of `messages`, when the user goes on with `text`.

        Without a chat template, those of the text. What was said before keeps its ids.
        """
        self._check(text)
        if self._template is None:
            return self._encode_marked(self._marked(text))
        marked = [{**m, "content": self._marked(m.get("content", ""))} for m in messages]
        user = {"role": "user", "content": self._marked(text)}
        said = self._template.render(marked[:-1]) + marked[-1]["content"]
        whole = self._template.render([*marked, user])
        if not whole.startswith(said):
            raise ConfigError(
                f"{self._place}: the chat template writes earlier turns otherwise when the user "
                "goes on; start a new conversation"
            )
        return self._encode_marked(whole[len(said) :])

    def _head(self, template: ChatTemplate, before: Sequence[Message], user: Message) -> str:
        """What the template writes before the first user's text."""
        parts = template.render([*before, {**user, "content": _PLACE}]).split(_PLACE)
        if len(parts) != 2:
            raise ConfigError(
                f"{self._place}: the chat template writes the user's text {len(parts) - 1} times, "
                "so it cannot be told from what is public; use another model"
            )
        return parts[0]

    def _check_written(self, before: Sequence[Message], head: str) -> None:
        """Refuse messages that a template without their role passes over without a word."""
        for message in before:
            if message["content"].strip() not in head:
                raise ConfigError(
                    f"{self._place}: the chat template does not write a message of role "
                    f"{shown(message.get('role'))}; remove it (generation.system), or use "
                    "another model"
                )

    def _split(self, head: str, whole: str) -> Prompt:
        """Prefix and private ids of a text that starts with `head`."""
        probes = [self._encode_marked(head + probe) for probe in _PROBES]
        shortest = min(len(probe) for probe in probes)
        differ = [len({int(probe[i]) for probe in probes}) > 1 for i in range(shortest)]
        length = differ.index(True) if True in differ else shortest
        prefix, ids = probes[0][:length], self._encode_marked(whole)
        if np.array_equal(ids[:length], prefix):
            return Prompt(prefix, ids[length:])
        # White space at the start of the text grows together with the end of the prefix, which
        # has to stay what it is; the model reads the same text in other tokens.
        apart = Prompt(prefix, self._encode_marked(whole[len(head) :]))
        if self.decode(apart.ids) != self.decode(ids):
            raise ConfigError(
                f"text: {shown(whole[len(head) :])} cannot be told from the public prefix before "
                "it; start with another character"
            )
        return apart

    def _marked(self, text: str) -> str:
        """With marks around what looks like a control token; marks that somebody wrote go."""
        text = text.replace(_MARK, "")
        return self._control.sub(rf"{_MARK}\g<0>{_MARK}", text) if self._control else text

    def _encode_marked(self, text: str) -> Ids:
        pieces = text.split(_MARK)
        ids = [self._encode(piece, as_text=i % 2 == 1) for i, piece in enumerate(pieces)]
        return np.concatenate(ids)

    def __repr__(self) -> str:
        return f"<DecoderTokenizer of {self._place}: {self.vocabulary} tokens>"


class TextStream:
    """Text of an answer while its tokens come; a character appears when all its bytes are there."""

    def __init__(self, tokenizer: DecoderTokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0

    def push(self, token_id: int) -> str:
        """What this token adds to the text shown so far."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        return "" if text.endswith("\ufffd") else self._show(text)

    def close(self) -> str:
        """The rest, after the last token."""
        return self._show(self._tokenizer.decode(self._ids))

    def _show(self, text: str) -> str:
        new, self._shown = text[self._shown :], len(text)
        return new
