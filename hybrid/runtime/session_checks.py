"""What sessions on one machine and between two check and refuse alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from transport.errors import UsageError


def checked_texts(texts: Sequence[str]) -> Sequence[str]:
    """The texts, once they are a list of at least one and nothing else."""
    if isinstance(texts, str):
        raise UsageError("embed: give a list of texts, not one string")
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | bytes):
        raise UsageError(f"embed: {type(texts).__name__}; give a list of texts")
    found = list(texts)
    if not found:
        raise UsageError("embed: no text; give at least one")
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise UsageError(f"embed: text {index + 1} is of type {type(text).__name__}; give str")
    return found


def not_open(*, has_failed: bool) -> str:
    """Why a session takes no texts."""
    if has_failed:
        return "session: it has failed or was interrupted before; open a new one"
    return "session: not open; use it in a with statement"
