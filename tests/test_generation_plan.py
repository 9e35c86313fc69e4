"""Plans of sessions that answer prompts, as data and for a reader."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from hybrid.models.generator_loading import load_generator
from hybrid.planning.generation import plan_generation
from hybrid.reports.generation_plan import generation_plan_to_dict, print_generation_plan
from tests.generation_data import tiny_config


@pytest.fixture(scope="module")
def plan():
    config = tiny_config()
    return plan_generation(config, load_generator(config).public)


def test_a_plan_as_data(plan):
    found = json.loads(json.dumps(generation_plan_to_dict(plan)))
    shares = found["token"]["with_shares"]
    batch, conversation = found["batch"]["total"], found["conversation"]["total"]
    for key in ("client_sent_bytes", "server_sent_bytes"):
        assert shares["batch_share"][key] == round(batch[key] / 8)
        assert shares["conversation_share"][key] == round(conversation[key] / 40)
        parts = ("own_offline", "batch_share", "conversation_share", "online")
        assert shares["total"][key] == pytest.approx(sum(shares[p][key] for p in parts), abs=2)
    assert shares["batch_share"]["rounds"] == batch["rounds"] / 8
    assert found["prefill"]["prompt_rows"] == 16
    assert found["token"]["past"] == 20
    assert len(found["batch"]["rows"]) == len(plan.batch)
    assert 0 < found["announced"]["failure_probability"] <= found["announced"]["limit"] == 2**-20
    assert found["plan_hash"] == plan.digest()


def test_a_plan_for_a_reader(plan):
    console = Console(width=220)
    with console.capture() as captured:
        print_generation_plan(console, plan, ["layer0.down: 9 at position 0"])
    said = captured.get()
    for words in (
        "a conversation of 40 private positions", "a batch of 8 rows", "a prompt of 16 rows",
        "one token behind 20", "1 edges reach far beyond others there", "layer0.down: 9",
        "limit 2^-20", "prepare layer0.scores", plan.digest(),
    ):  # fmt: skip
        assert words in said
