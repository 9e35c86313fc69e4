"""Chat templates of model files, run as `transformers` runs them: in jinja2's immutable sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from transport.errors import ConfigError
from transport.foreign import cut

Message = Mapping[str, str]
"""role ("system", "user", "assistant") and content."""


class _Generation(Extension):
    """`{% generation %}` marks what a model wrote, for training; here it changes nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, **options: Any) -> str:
    # jinja2's own filter escapes for HTML.
    return json.dumps(value, **{"ensure_ascii": False, **options})


class ChatTemplate:
    """One template; `place` prefixes errors.

    There is no clock (`strftime_now`): templates that ask for one when there is one fall back to
    a fixed date, so the public prefix is the same every day.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str], place: str) -> None:
        self._place = place
        self._special_tokens = dict(special_tokens)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        try:
            self._template = environment.from_string(source)
        except (TemplateError, RecursionError) as error:
            raise ConfigError(
                f"{place}: chat template is not valid ({cut(str(error))}); mend it in the "
                "model's files"
            ) from None

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as the model reads it, up to where its answer starts."""
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                **self._special_tokens,
            )
        except Exception as error:
            # A template is a program and may fail like one.
            raise ConfigError(
                f"{self._place}: the chat template refuses these messages "
                f"({cut(' '.join(str(error).split()))}); change their roles or their order"
            ) from None

    def __repr__(self) -> str:
        return f"<ChatTemplate of {self._place}>"
