"""From what parties measured to the report of every prompt of a session.

A report is plain data. Everything about text and tokens comes from the client's answers; without
them, at the server, a report holds counts, seconds and traffic alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from hybrid.config.loading import Config
from hybrid.machine.predict import predictor
from hybrid.planning.generation import GenerationPlan
from hybrid.planning.plan import traffic_row
from hybrid.planning.risk import MAX_DISTANCE, MAX_FAILURE_PROBABILITY
from hybrid.reports.amounts import Amount, total
from hybrid.reports.generation_accuracy import answered, compared, with_accuracy
from hybrid.reports.generation_costs import (
    Ledger,
    Line,
    declared_seconds,
    differing_steps,
    line_rows,
    mean_lines,
    phases,
    whole_session,
)
from hybrid.reports.generation_trust import generation_trust_model
from hybrid.reports.generation_waits import first_token_waits
from hybrid.reports.range_report import range_rows
from hybrid.reports.run_report import phase_row, prediction_summary
from hybrid.runtime.answers import Answer
from hybrid.runtime.generation_local import LocalGeneration
from hybrid.runtime.generation_records import GenerationRecord
from transport.errors import UsageError

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """The passes of one prompt: the first reads it, each other reads one token."""

    first: int
    passes: int
    together: int = 0
    """Prompts that share them; 0: as many as conversations, as the server has to take it."""


class PartyBook:
    """One party's record as reports; what all prompts share is worked out once."""

    def __init__(self, config: Config, plan: GenerationPlan, record: GenerationRecord) -> None:
        self._config = config
        self._plan = plan
        self.record = record
        self._ledger = Ledger(plan, record, predictor(config.run.link_model()))

    @cached_property
    def spans(self) -> list[Span]:
        """Prompts as the server can tell them: a new conversation, or more than one row.

        A prompt of one token that goes on with a conversation looks like a token.
        """
        starts = [
            index
            for index, done in enumerate(self.record.passes)
            if done.past == 0 or done.rows > 1
        ]
        # A client may have asked nothing.
        ends = [*starts[1:], len(self.record.passes)][: len(starts)]
        return [Span(first, end - first) for first, end in zip(starts, ends, strict=True)]

    def report(self, span: Span) -> Json:
        """Of one prompt, as far as this party's counters go."""
        lines = [self._ledger.lines(span.first + i) for i in range(span.passes)]
        tokens = [phases(each) for each in lines[1:]]
        prefill = phases(lines[0])
        before = total(each[0] for each in (prefill, *tokens))
        after = total(each[1] for each in (prefill, *tokens))
        first, steps = self.record.passes[span.first], self._steps(lines)
        together = span.together or self._plan.model.batch
        return {
            **self._session,
            "offline": before.row(),
            "online": after.row(),
            "total": (before + after).row(),
            **_per_token(tokens, together),
            **self._batch(tokens, together),
            "first_token_seconds": first_token_waits(self.record, span.first),
            "generation": {
                "prompt_tokens": first.rows,
                "new_tokens": span.passes,
                "prefix_tokens": len(self._plan.model.prefix),
                "tokens_before": first.past,
                "prefill": self._phase_pair(lines[0]),
                "tokens": [self._phase_pair(each) for each in lines[1:]],
            },
            "steps": steps,
            "prediction": prediction_summary(steps["mean_token"] or steps["prefill"]),
        }

    def _batch(self, tokens: Sequence[tuple[Amount, Amount]], together: int) -> Json:
        """Where conversations share passes, how many, and the mean pass after the prefill."""
        conversations = self._plan.model.batch
        if conversations == 1:
            return {}
        mean = _per_token(tokens, 1)["per_token"]
        return {"batch": {"conversations": conversations, "prompts": together, "per_pass": mean}}

    def _phase_pair(self, lines: Sequence[Line]) -> Json:
        """Measured of a pass, and predicted seconds where they are known."""
        before, after = phases(lines)
        found = {"offline": before.row(), "online": after.row()}
        if self._ledger.is_predicted:
            found["predicted_seconds"] = declared_seconds(lines)
        return found

    def _steps(self, lines: Sequence[Sequence[Line]]) -> Json:
        why = self._plan.schedule.why
        later = lines[1:]
        rows = partial(line_rows, why=why, with_seconds=self._ledger.is_predicted)
        return {
            "prefill": rows(lines[0]),
            "last_token": rows(later[-1]) if later else [],
            "mean_token": rows(mean_lines(later)) if later else [],
        }

    @cached_property
    def _session(self) -> Json:
        """What every report of the session says alike."""
        plan, record, run = self._plan, self.record, self._config.run
        differing = differing_steps(plan, record, "this party")
        return {
            "config": run.model_dump(mode="json", exclude={"texts"}),
            "model": f"{plan.model.family.name}: {plan.model.architecture.line()}",
            "environment": dict(record.environment),
            "trust_model": generation_trust_model(plan),
            "failure_probability": record.failure_probability,
            "failure_probability_announced": plan.announced_risk().failure_probability,
            "failure_probability_limit": MAX_FAILURE_PROBABILITY,
            "hint_distance": record.hint_distance,
            "hint_distance_announced": plan.announced_risk().distance,
            "hint_distance_limit": MAX_DISTANCE,
            "encoded_bytes": sum(plan.one.encoded_bytes().values()),
            "plan_hash": plan.digest(),
            "setup": phase_row(record.setup_seconds, record.setup),
            "prepared_and_left": self._ledger.left().row(),
            "declared_equals_measured": not differing,
            "differing_steps": differing,
            "counted": {
                "session": traffic_row(record.total),
                "steps_and_setup": traffic_row(record.setup + whole_session(record)),
                "dealer_bytes": record.dealer_bytes,
                "requests_in_session": len(self.spans),
            },
        }


def _per_token(tokens: Sequence[tuple[Amount, Amount]], together: int) -> Json:
    """Means over the tokens after the prefill, `together` a pass; nothing where there is none."""
    if not tokens:
        return {"per_token": None, "seconds_per_token": None, "bytes_per_token": None}
    part = 1 / (len(tokens) * together)
    before, after = (total(each) * part for each in zip(*tokens, strict=True))
    mean = {"offline": before.row(), "online": after.row(), "total": (before + after).row()}
    seconds = {phase: row["seconds"] for phase, row in mean.items()}
    sent = mean["total"]["client_sent_bytes"] + mean["total"]["server_sent_bytes"]
    return {"per_token": mean, "seconds_per_token": seconds, "bytes_per_token": sent}


def server_generation_reports(
    config: Config, plan: GenerationPlan, record: GenerationRecord
) -> list[Json]:
    """The server's report of every prompt: nothing in it depends on what was decrypted."""
    book = PartyBook(config, plan, record)
    return [book.report(span) for span in book.spans]


def client_generation_reports(
    config: Config,
    plan: GenerationPlan,
    record: GenerationRecord,
    answers: Sequence[Answer],
    decode: Any = None,
) -> list[Json]:
    """The client's report of every prompt, with its answer.

    decode: from ids to text, for the text of every token; the session's `prompts.tokenizer.decode`.
    """
    book = PartyBook(config, plan, record)
    reports = []
    for answer in answers:
        if not answer.tokens:
            continue
        report = book.report(Span(answer.first_pass, len(answer.tokens), answer.together))
        report["counted"] = {**report["counted"], "requests_in_session": len(answers)}
        reports.append(answered(report, answer, decode))
    return reports


def generation_reports(session: LocalGeneration) -> list[Json]:
    """The report of every prompt of a session on this machine, compared with the plain model."""
    result = session.result
    if result is None:
        raise UsageError("report: the session is still open; leave its with statement first")
    config, answers = session.config, [one for one in session.answers if one.tokens]
    decode = session.prompts.tokenizer.decode
    reports = client_generation_reports(config, session.plan, result.client, answers, decode)
    bits = config.run.mpc.fraction_bits
    differing = [
        step
        for party, record in (("client", result.client), ("server", result.server))
        for step in differing_steps(session.plan, record, party)
    ]
    both = {
        "model": session.model.line,
        "environment": _both_memories(result.client, result.server),
        "declared_equals_measured": not differing,
        "differing_steps": differing,
    }
    counted = {
        "session_at_client": traffic_row(result.client.total),
        "session_at_server": traffic_row(result.server.total),
        "steps_and_setup": traffic_row(result.client.setup + whole_session(result.client)),
        "dealer_bytes": result.client.dealer_bytes + result.server.dealer_bytes,
        "loopback_device_bytes": result.loopback_sent_bytes,
        "requests_in_session": len(answers),
    }
    found = []
    for report, answer in zip(reports, answers, strict=True):
        logits = result.logits(bits, answer.place)
        mine = logits[answer.first_pass : answer.first_pass + len(answer.tokens)]
        seen = compared(session.model, session.prompts, answer, mine)
        whole = {**report, **both, "counted": counted}
        if seen.ranges is not None:
            whole["ranges"] = range_rows([seen.ranges], session.model.caution)
        found.append(with_accuracy(whole, seen))
    return found


def _both_memories(client: GenerationRecord, server: GenerationRecord) -> Mapping[str, str]:
    environment = dict(client.environment)
    environment["peak_memory_bytes_client"] = environment.pop("peak_memory_bytes")
    environment["peak_memory_bytes_server"] = server.environment["peak_memory_bytes"]
    return environment
