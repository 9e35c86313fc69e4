"""What the first token of an answer waited for."""

from __future__ import annotations

from collections.abc import Iterator

from hybrid.planning.generation import BATCH, CACHE, CONVERSATION
from hybrid.planning.plan import OFFLINE
from hybrid.runtime.generation_records import GenerationRecord

_WORDS = {
    "rows": "rows of linear layers",
    "conversation": "the conversation's cache",
    "correlations": "other correlations",
    "online": "online",
}


def first_token_waits(record: GenerationRecord, first: int) -> dict[str, float]:
    """Seconds by what was done between a prompt, read by pass `first`, and its first token.

    `ahead` was spent before, while nobody asked. Waiting for a piece of that which was under way
    when the prompt came is in none of them.
    """
    asked = [one for one in record.shared if one.passes == first and not one.is_ahead]
    seconds = {
        name: sum(one.seconds for one in asked if one.kind == kind)
        for name, kind in (("rows", BATCH), ("conversation", CONVERSATION))
    }
    steps = record.passes[first].steps
    seconds["correlations"] = sum(step.seconds for step in steps if step.phase == OFFLINE)
    seconds["online"] = sum(step.seconds for step in steps if step.phase != OFFLINE)
    return {**seconds, "ahead": sum(_made_before(record, first))}


def _made_before(record: GenerationRecord, first: int) -> Iterator[float]:
    """Seconds of each piece since the pass before it; of a cache, of all that it began with."""
    cache: list[float] = []
    for one in record.shared:
        if one.kind == CACHE:
            cache.append(one.seconds)
        elif one.kind == CONVERSATION:
            yield from cache if one.passes == first else ()
            cache = []
        elif one.passes == first and one.is_ahead:
            yield one.seconds


def waits_line(seconds: dict[str, float]) -> str:
    """The same in words: parts that were waited for, and what was not."""
    parts = [f"{seconds[name]:.3f} s {word}" for name, word in _WORDS.items() if seconds[name]]
    before = seconds["ahead"]
    return ", ".join(parts) + (f"; {before:.3f} s before, while nobody asked" if before else "")
