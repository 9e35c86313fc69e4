"""Every unit that any plan of a decoder counts has a price, and seconds come of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from hybrid.config.loading import checked
from hybrid.machine.predict import predicted_seconds
from hybrid.models.generator_loading import load_generator
from hybrid.planning.catalog import load_catalog
from hybrid.planning.generation import plan_generation
from hybrid.planning.generation_search import GenerationSearch
from hybrid.reports.generation_costs import Ledger
from hybrid.reports.generation_plan import generation_plan_to_dict, print_generation_plan
from mpc_nonlinear.correlations import SOURCES
from tests.generation_data import two_conversations
from tests.generation_setup import generation_config, generation_content
from tests.test_generation_schedules import PRICES, chosen

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[1]
CONFIGS = [*ROOT.glob("configs/*.yaml"), *ROOT.glob("experiments/benchmarks/tiny_*.yaml")]
_FAMILIES = {"rmsnorm": "llama", "layernorm": "gpt2"}


def decoder_configs():
    """Those of the project, by name, on the small trained decoders."""
    for path in sorted(CONFIGS):
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "generation" not in given:
            continue
        (family,) = (f for op, f in _FAMILIES.items() if op in given["protocols"])
        own = generation_content(family)
        found = {**own, "protocols": given["protocols"], "mpc": given["mpc"]}
        yield path.stem, checked(found, Path("tiny.yaml"))


def works_of(plan):
    """Everything that is counted."""
    for shared in (plan.batch, plan.conversation):
        yield plan.shared_works(shared)
    yield from (plan.of_pass(rows, past).works() for rows, past in ((16, 0), (1, 20)))


def missing(plan, prices):
    return {
        unit
        for works in works_of(plan)
        for _, work in works
        for unit, _ in work.counted()
        if unit not in prices.units
    }


def test_every_unit_of_every_config_has_a_price(prices):
    names = set()
    for name, config in decoder_configs():
        plan = plan_generation(config, load_generator(config).public)
        assert not missing(plan, prices), name
        for works in works_of(plan):
            assert min(predicted_seconds(works, prices, None).values(), default=0.0) >= 0
        names.add(name)
    assert {"smollm2", "smollm2_pure_mpc", "gpt2_shape", "tiny_llama", "tiny_gpt2"} <= names
    # A unit that nobody measures would be seen.
    some = next(u for works in works_of(plan) for _, w in works for u, _ in w.counted())
    fewer = replace(prices, units={u: p for u, p in prices.units.items() if u != some})
    assert missing(plan, fewer) == {some}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_implementation_has_prices(family, prices):
    model = load_generator(generation_config(family)).public
    config = chosen("fastest", family, trust="dealer_allowed")
    search = GenerationSearch(config.run, model, load_catalog(), prices)
    for source in SOURCES:
        for decision in search.decisions(search.objective(source)):
            assert "without a price" not in decision.refused, (source.name, decision.names)


def test_slots_take_time(prices):
    of_slots = [name for name in prices.units if name.startswith("slot_")]
    assert len(of_slots) >= 5
    every = [*of_slots, "fused_multiply_add", "prime_multiply_add"]
    assert all(prices.units[name] > 0 for name in every)


def test_plans_and_reports_predict_seconds():
    config = generation_config()
    plan = plan_generation(config, load_generator(config).public)

    def predict(works):
        return predicted_seconds(works, PRICES, None)

    found = generation_plan_to_dict(plan, predict=predict)
    shares = found["token"]["with_shares"]
    parts = ("own_offline", "batch_share", "conversation_share", "online")
    total = sum(shares[part]["predicted_seconds"] for part in parts)
    assert shares["total"]["predicted_seconds"] == pytest.approx(total)
    for part in ("prefill", "token"):
        rows, seconds = found[part]["rows"], found[part]["predicted_seconds"]
        assert [row["name"] for row in rows] == list(seconds)
        phases = [found[part][phase]["predicted_seconds"] for phase in ("offline", "online")]
        assert sum(phases) == pytest.approx(sum(seconds.values()))
        assert min(phases) > 0
    # Triples are made with the correlations, and take their time.
    works = dict(plan.middle.works())
    assert any(name.startswith("slot_") for name, _ in works["correlations"].counted())
    record = two_conversations(plan)
    ledger = Ledger(plan, record, predict)
    lines = ledger.lines(0)
    assert ledger.is_predicted
    assert all(line.declared.seconds > 0 for line in lines if line.about["phase"] == "offline")
    without = Ledger(plan, record).lines(0)
    assert [line.declared.client_sent_bytes for line in lines] == [
        line.declared.client_sent_bytes for line in without
    ]
    said = _printed(plan, predict)
    assert "predicted seconds: none" not in said
    assert ", predicted " in said
    assert "predicted seconds: none" in _printed(plan)


def _printed(plan, *predict):
    console = Console(width=220)
    with console.capture() as captured:
        print_generation_plan(console, plan, (), *predict)
    return captured.get()
