"""Records of sessions that answer prompts, made from a real plan without running it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from hybrid.config.loading import Config, checked
from hybrid.planning.generation import BATCH, GenerationPlan
from hybrid.planning.plan import CORRELATIONS_STEP, OFFLINE, ONLINE, offline_name
from hybrid.runtime.answers import Answer
from hybrid.runtime.generation_records import GenerationRecord, PassRecord, SharedRecord
from hybrid.runtime.runner import Measured
from transport.traffic import Traffic

LLAMA = Path(__file__).resolve().parent / "data" / "decoders" / "llama"
PROTOCOLS = {
    "embedding": "exact_rows", "linear": "exact_rows", "rmsnorm": "octave_polynomial",
    "cached_attention": "slot_correlations", "causal_softmax": "squared_polynomial",
    "silu": "magnitude_polynomial",
}  # fmt: skip
SETUP = Traffic(1000, 2000, 3, 4, 5)


def raw_config(name: str = "tiny", multiply: str = "ot", **generation: Any) -> dict[str, Any]:
    """Of the small trained llama, as YAML would give it."""
    settings = {"positions": 40, "max_new_tokens": 4, "rows": 8} | generation
    return {
        "name": name,
        "model": {"path": str(LLAMA), "embedding": "private"},
        "generation": settings,
        "mpc": {"fraction_bits": 16, "correlations": "softspoken"},
        "protocols": PROTOCOLS | {"multiply": multiply},
        "ranges": {"margin": 2.0},
    }


def tiny_config(**changes: Any) -> Config:
    return checked(raw_config(**changes), Path("tiny.yaml"))


class Script:
    """A session step by step; every measured step takes seconds that no other takes."""

    def __init__(self, plan: GenerationPlan, outputs: bool = False) -> None:
        self.plan = plan
        self.passes: list[PassRecord] = []
        self.shared: list[SharedRecord] = []
        self._outputs = outputs
        self._number: Iterator[int] = count(1)

    def _measured(self, name: str, traffic: Traffic, phase: str) -> Measured:
        return Measured(name, next(self._number) / 1000, traffic, phase)

    def prepare(self, kind: str, layers: Sequence[str] = ()) -> Script:
        """layers: of a batch, those that it is for; none: all."""
        pieces = self.plan.batch if kind == BATCH else self.plan.conversation
        pieces = [(o, c) for o, c in pieces if not layers or o.node.name in layers]
        steps = [
            self._measured(offline_name(o.node.name), cost.traffic, OFFLINE) for o, cost in pieces
        ]
        rows = self.plan.batch_rows if kind == BATCH else 1
        declared = tuple(cost.traffic for _, cost in pieces)
        self.shared.append(SharedRecord(kind, tuple(steps), 0.5, rows, declared))
        return self

    def run(self, rows: int, past: int) -> Script:
        plan = self.plan.of_pass(rows, past)
        steps = [self._measured(CORRELATIONS_STEP, plan.offline_traffic, OFFLINE)]
        steps += [
            self._measured(s.offline_name, s.offline.traffic, OFFLINE)
            for s in plan.steps
            if s.prepares
        ]
        steps += [self._measured(s.node.name, s.cost.traffic, ONLINE) for s in plan.steps]
        outputs = {"next_token": np.array([77], np.uint64)} if self._outputs else {}
        self.passes.append(PassRecord(rows, past, tuple(steps), 9.0, outputs))
        return self

    def record(self) -> GenerationRecord:
        steps = [step for part in (*self.passes, *self.shared) for step in part.steps]
        total = sum((step.traffic for step in steps), SETUP)
        environment = {"machine": "a machine", "peak_memory_bytes": "1000000"}
        return GenerationRecord(
            tuple(self.passes), tuple(self.shared), 2.0, SETUP, total, 0, 1e-9, 1e-11, environment
        )


def two_conversations(plan: GenerationPlan, *, outputs: bool = False) -> GenerationRecord:
    """A prompt of 6 and 3 tokens, one of 3 that goes on, one of 5 in a new conversation.

    Rows run out in the middle of passes, and one batch is of a single layer.
    """
    script = Script(plan, outputs).prepare("conversation").prepare("batch").run(6, 0)
    script.run(1, 6).run(1, 7).prepare("batch", ["layer0.qkv"]).prepare("batch")
    script.run(3, 8).run(1, 11).prepare("conversation").prepare("batch").run(5, 0).run(1, 5)
    return script.record()


def answers(texts: Sequence[str] = ("one", "two", "three")) -> list[Answer]:
    """Those of `two_conversations`."""
    sizes = ((0, 6, 3), (3, 3, 2), (5, 5, 2))
    found = []
    for text, (first, new, tokens) in zip(texts, sizes, strict=True):
        read = np.arange(3, 3 + new, dtype=np.int64)
        ids, waited = list(range(40, 40 + tokens)), [1.0 + i for i in range(tokens)]
        found.append(Answer("a prompt", read, new, first, ids, waited, text))
    return found
