"""Small batches for a prompt that waits: who gets one, what it costs, whose rows it serves."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from hybrid.config.schema import GenerationConfig
from hybrid.models.generator_loading import load_generator
from hybrid.planning.generation import plan_generation
from hybrid.reports.generation_costs import Ledger, total, whole_session
from hybrid.reports.generation_plan import generation_plan_to_dict
from tests.generation_setup import generation_config
from tests.test_generation_ahead import FIRST, SECOND, Watched


def test_only_a_smaller_batch_is_one_of_its_own():
    sizes = {"positions": 64, "max_new_tokens": 4}
    assert GenerationConfig(**sizes, rows=64, first_rows=32).first_rows == 32
    with pytest.raises(ValidationError, match="first_rows 64 are no fewer than rows, 64"):
        GenerationConfig(**sizes, rows=64, first_rows=64)


def test_a_plan_says_what_it_costs():
    plans = {}
    for first in (0, 16):
        config = generation_config(rows=64, first_rows=first)
        plans[first] = plan_generation(config, load_generator(config).public)
    none, small = (generation_plan_to_dict(plan) for plan in plans.values())
    assert none["first_batch"]["total"] == dict.fromkeys(none["first_batch"]["total"], 0)
    first, whole = small["first_batch"], small["batch"]
    assert first["rows_of_a_batch"] == 16 and whole["rows_of_a_batch"] == 64
    for key in ("client_sent_bytes", "server_sent_bytes"):
        assert 0 < first["total"][key] < 0.8 * whole["total"][key]
    assert whole["total"] == none["batch"]["total"]
    assert small["plan_hash"] != none["plan_hash"]
    assert set(plans[0].slot_steps) < set(plans[16].slot_steps)
    both = [plan.announced_risk().failure_probability for plan in plans.values()]
    added = sum(cost.failure_probability for _, cost in plans[16].first_batch)
    assert both[1] == pytest.approx(both[0] + added)


@pytest.mark.long
def test_a_prompt_waits_for_as_few_rows_as_it_may(monkeypatch):
    def ask(client):
        list(client.answer(FIRST, 2, fresh=True))
        list(client.answer(np.arange(20, 46), 2, fresh=True))
        list(client.answer(SECOND, 2, fresh=False))

    once = {"ahead_tokens": 0}
    watched = Watched(monkeypatch, ask, rows=64, first_rows=16, prompt_bucket=1, **once)
    watched.as_declared()
    record = watched.records["client"]
    assert [(p.rows, p.past) for p in record.passes] == [
        (5, 0), (1, 5), (26, 0), (1, 26), (4, 27), (1, 31),
    ]  # fmt: skip
    made = [(one.passes, one.kind, one.rows) for one in record.shared]
    # 10 rows are left of 16 when a prompt of 26 comes, and none for the token after it.
    assert made == [
        (0, "conversation", 1), (0, "batch", 16), (2, "conversation", 1), (2, "batch", 16),
        (3, "batch", 64),
    ]  # fmt: skip
    for one in watched.records.values():
        ledger = Ledger(watched.plan, one)
        lines = [line for i in range(len(one.passes)) for line in ledger.lines(i)]
        spent = total(line.measured for line in lines) + ledger.left()
        whole = whole_session(one)
        assert spent.client_sent_bytes == pytest.approx(whole.client_sent_bytes)
        assert spent.rounds == pytest.approx(whole.rounds)
