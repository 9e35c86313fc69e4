"""`hybrid chat`: prompts as they are typed, answers token by token.

What the next answer takes is prepared while its prompt is typed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from hybrid.cli.progress import GenerationDisplay, make_console, say
from hybrid.config.loading import Config
from hybrid.runtime.generation_local import LocalGeneration
from hybrid.runtime.generation_remote import RemoteGeneration
from hybrid.runtime.generation_words import RefusedError
from transport.errors import ConfigError

NEW = "/new"
"""A line that begins a new conversation."""


def chat(config: Config, endpoint: str | None, tokens: int | None) -> None:
    """Until the input ends; endpoint: of the server, none: both parties on this machine."""
    console = make_console()
    say(console, "loading the model and planning")
    session = LocalGeneration(config) if endpoint is None else RemoteGeneration(config, endpoint)
    turns = session.prompts.settings.stop_early
    # No steps are shown: they would come in between what is typed.
    display = GenerationDisplay(console)
    with session:
        say(console, f"one prompt a line; {NEW} begins a new conversation, end of input ends")
        goes_on = False
        for line in _lines():
            if line == NEW:
                goes_on = False
                continue
            try:
                for token in session.generate(line, tokens, goes_on=goes_on):
                    display.token(token.text, token.seconds)
            except (ConfigError, RefusedError) as error:
                say(console, f"not answered: {error}; {NEW} begins a new conversation")
                # What was read of an answer that broke off cannot be gone on with.
                goes_on = goes_on and isinstance(error, ConfigError)
                continue
            display.answered(session.answers[-1].text)
            goes_on = turns


def _lines() -> Iterator[str]:
    """What is typed, without empty lines."""
    while line := sys.stdin.readline():
        if line.strip():
            yield line.strip()
