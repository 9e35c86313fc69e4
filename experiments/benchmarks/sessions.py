"""Many prompts through as few sessions as the bound on failures allows; shared by benchmarks."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from hybrid.config.loading import Config
from hybrid.planning.generation import GenerationPlan
from hybrid.planning.risk import MAX_FAILURE_PROBABILITY
from hybrid.reports.comparison.groups import sent
from hybrid.reports.generation_report import generation_reports
from hybrid.runtime.generation_local import LocalGeneration

Json = dict[str, Any]


class Budget:
    """What a session has left of the probability of a failure that plans allow.

    A prompt is counted as its conversation, its passes, and rows for all of them from batches;
    one batch more stands for what is prepared while nobody asks.
    """

    def __init__(self, plan: GenerationPlan) -> None:
        self._plan = plan
        self._batch = plan.batch_cost().failure_probability
        self.spent = self._batch
        self._rows = 0

    def after(self, prompt: int, tokens: int) -> float:
        """Spent in all once a prompt of so many rows has an answer of so many tokens."""
        plan, rows = self._plan, self._rows + self._entered(prompt, tokens)
        passes = sum(plan.pass_risk(one).failure_probability for one in plan.passes(prompt, tokens))
        batches = -(-rows // plan.batch_rows) - -(-self._rows // plan.batch_rows)
        own = plan.conversation_cost().failure_probability + batches * self._batch
        return self.spent + passes + own

    def allows(self, prompt: int, tokens: int) -> bool:
        """Whether the session may take it."""
        return self.after(prompt, tokens) <= MAX_FAILURE_PROBABILITY

    def take(self, prompt: int, tokens: int) -> None:
        """It ran."""
        self.spent = self.after(prompt, tokens)
        self._rows += self._entered(prompt, tokens)

    def _entered(self, prompt: int, tokens: int) -> int:
        """Rows of all passes; a prompt is padded."""
        return self._plan.model.settings.padded(prompt) + tokens - 1


def answered(config: Config, prompts: Sequence[str], tokens: int) -> Iterator[Json]:
    """The report of every prompt, each a conversation of its own; sessions follow each other."""
    left = list(prompts)
    while left:
        session = LocalGeneration(config)
        budget, asked = Budget(session.plan), 0
        with session:
            for prompt in left:
                rows = len(session.prompts.first(prompt).private)
                if asked and not budget.allows(rows, tokens):
                    break
                note(prompt)
                for _ in session.generate(prompt, tokens):
                    pass
                budget.take(rows, len(session.answers[-1].tokens))
                asked += 1
        left = left[asked:]
        yield from generation_reports(session)


def megabytes(row: Json) -> float:
    """Of both directions."""
    return sent(row) / 1e6


def note(text: str) -> None:
    """What is going on, beside the results."""
    print(text, file=sys.stderr, flush=True)
