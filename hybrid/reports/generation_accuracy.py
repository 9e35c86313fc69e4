"""Answers in reports, and how far they are from the plain model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.models.generator import Generator
from hybrid.models.prompts import Prompts
from hybrid.models.range_check import RangeCheck
from hybrid.reports.run_report import Accuracy, compare, worst
from hybrid.runtime.answers import Answer
from hybrid.runtime.generation_local import plain_answer

Json = dict[str, Any]
Decode = Callable[[Sequence[int]], str]
_SAMPLED = (
    "tokens were sampled, so the plain model's likeliest ones are no yardstick; logits are compared"
)
_FORCED = "tokens were given instead of chosen, so there is no answer to compare"


@dataclass(frozen=True, slots=True)
class Compared:
    """An answer beside the plain model's."""

    tokens: list[int] | None
    """The plain model's own greedy answer; None where it is no yardstick."""
    text: str | None
    logits: list[Accuracy] | None
    """Of every pass, at the private answer's own ids; None where those are not known."""
    note: str
    ranges: RangeCheck | None = None
    """Whether they hold for all private positions so far; None where those are not known."""
    choices: list[int] | None = None
    """What the plain model would have chosen of every pass, behind the private answer's own ids."""


def answered(report: Json, answer: Answer, decode: Decode | None) -> Json:
    """A client's report with its answer; new_tokens counts the end token where there is one."""
    generation = dict(report["generation"])
    generation["text"] = answer.text
    generation["tokens"] = [dict(token) for token in generation["tokens"]]
    generation["prefill"] = dict(generation["prefill"])
    passes = [generation["prefill"], *generation["tokens"]]
    for row, token, seconds in zip(passes, answer.tokens, answer.seconds, strict=True):
        row["token"], row["waited_seconds"] = token, seconds
        if decode is not None:
            row["token_text"] = decode([token])
    first = answer.seconds[0] if answer.seconds else None
    return {**report, "time_to_first_token_seconds": first, "generation": generation}


def compared(
    model: Generator, prompts: Prompts, answer: Answer, private: Sequence[NDArray[np.float64]]
) -> Compared:
    """With the plain model, run here."""
    # Only where ids are forced on a session is there no prompt; what was read is not kept then.
    if not answer.prompt:
        return Compared(None, None, None, _FORCED)
    count = len(answer.tokens)
    ids = np.concatenate([answer.read, np.array(answer.tokens[:-1], np.int64)])
    every, ranges = model.checked_logits(ids)
    plain = every[-count:]
    logits = [compare(mine, other) for mine, other in zip(private, plain, strict=True)]
    if prompts.settings.temperature > 0:
        return Compared(None, None, logits, _SAMPLED, ranges)
    tokens, _ = plain_answer(model, prompts, answer.read, count)
    choices = [int(row.argmax()) for row in plain]
    return Compared(tokens, _shown(tokens, prompts), logits, "", ranges, choices)


def _shown(tokens: Sequence[int], prompts: Prompts) -> str:
    """Up to the first end token, as answers are."""
    ends = prompts.tokenizer.end_ids
    end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return prompts.tokenizer.decode(list(tokens[:end]))


def with_accuracy(report: Json, seen: Compared) -> Json:
    """A report of a session whose both sides are known."""
    generation = dict(report["generation"])
    passes = [generation["prefill"], *generation["tokens"]]
    mine = [row["token"] for row in passes]
    generation["plain_text"] = seen.text
    generation["equal_tokens"] = generation["equal_choices"] = None
    if seen.tokens is not None:
        pairs = zip(mine, seen.tokens, strict=False)
        generation["equal_tokens"] = sum(own == other for own, other in pairs)
        for row, token in zip(passes, seen.tokens, strict=False):
            row["plain_token"] = token
    if seen.choices is not None:
        pairs = zip(mine, seen.choices, strict=True)
        generation["equal_choices"] = sum(own == other for own, other in pairs)
    if seen.note:
        generation["note"] = seen.note
    generation["logits_cosine_min"] = None
    if seen.logits is None:
        return {**report, "accuracy": None, "generation": generation}
    for row, one in zip(passes, seen.logits, strict=True):
        row["logits_cosine"], row["logits_max_abs_error"] = one.cosine, one.max_abs_error
    least = worst(seen.logits)
    generation["logits_cosine_min"] = least.cosine
    generation["logits_max_abs_error"] = least.max_abs_error
    accuracy = {**asdict(least), "of": "logits, the worst pass"}
    return {**report, "accuracy": accuracy, "generation": generation}
