"""Decoders in a comparison: one prompt again and again, and a token as what is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from hybrid.planning.risk import MAX_FAILURE_PROBABILITY
from hybrid.reports.generation_report import generation_reports
from hybrid.runtime.generation_local import LocalGeneration
from transport.errors import ConfigError

Json = dict[str, Any]


def measured_answers(session: LocalGeneration, prompt: str, count: int) -> list[Json]:
    """A whole session in which every repetition begins a conversation with the same prompt."""
    with session:
        for _ in range(count):
            for _token in session.generate(prompt):
                pass
    return generation_reports(session)


def check_prompt(session: LocalGeneration, prompt: str, count: int) -> None:
    """`ConfigError`, before anything runs, where the answers have no room or fail too often."""
    settings, path = session.prompts.settings, session.config.path
    if session.plan.model.batch > 1:
        raise ConfigError(
            f"{path}: model.batch: {session.plan.model.batch}; a comparison is of one prompt in "
            "passes of its own, set it to 1"
        )
    tokens, new = len(session.prompts.first(prompt).private), settings.max_new_tokens
    rows = settings.padded(tokens)
    if new < 2:
        raise ConfigError(
            f"{path}: generation.max_new_tokens: {new}; a comparison is of the tokens after the "
            "first, give at least 2"
        )
    if rows + new - 1 > settings.positions:
        raise ConfigError(
            f"{path}: the prompt's {tokens} private tokens in {rows} rows and {new} new "
            f"ones need {rows + new - 1} positions, generation.positions is {settings.positions}; "
            "shorten the prompt or raise it"
        )
    failure = count * session.plan.risk(tokens, new).failure_probability
    if failure > MAX_FAILURE_PROBABILITY:
        raise ConfigError(
            f"{path}: {count} answers in one session fail with probability {failure:.1e}, more "
            f"than {MAX_FAILURE_PROBABILITY:.1e}; ask for fewer --repetitions or tokens"
        )


def as_request(report: Mapping[str, Any]) -> Json:
    """The report of a prompt in the form of a request's: its mean token after the first."""
    mean = report["per_token"]
    if mean is None:
        raise ConfigError(
            f"{report['config']['name']}: the answer has no token after the first, so there is "
            "nothing to compare; ask another prompt or set generation.stop_early: false"
        )
    return {**report, **mean, "steps": report["steps"]["mean_token"]}


def answer_of(reports: Sequence[Mapping[str, Any]]) -> Json:
    """Reading the prompt, medians of seconds, and the last answer."""
    last = reports[-1]["generation"]
    prefill = {}
    for phase in ("offline", "online"):
        rows = [report["generation"]["prefill"][phase] for report in reports]
        prefill[phase] = {**rows[0], "seconds": median(row["seconds"] for row in rows)}
    kept = ("prompt_tokens", "new_tokens", "text", "plain_text", "equal_tokens")
    waited = median(report["time_to_first_token_seconds"] for report in reports)
    return {
        **{key: last[key] for key in kept},
        "equal_tokens": _fewest(reports),
        "prefill": prefill,
        "time_to_first_token_seconds": waited,
    }


def _fewest(reports: Sequence[Mapping[str, Any]]) -> int | None:
    """Of the worst repetition; None where tokens were not compared."""
    found = [report["generation"]["equal_tokens"] for report in reports]
    known = [count for count in found if count is not None]
    return min(known) if len(known) == len(found) else None
