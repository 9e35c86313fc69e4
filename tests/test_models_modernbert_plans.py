"""Plans of ModernBERT: windows where they hide something, every policy, published shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.config.loading import checked
from hybrid.machine.prices import MachinePrices
from hybrid.models.loading import load_model
from hybrid.planning.catalog import load_catalog
from hybrid.planning.planner import make_plan
from hybrid.planning.search import ScheduleSearch
from mpc_nonlinear.correlations import SoftSpokenSource
from tests.shaped_config import PROTOCOLS
from transport.errors import ConfigError

SMALL = {
    "family": "modernbert", "hidden": 24, "layers": 4, "heads": 3, "intermediate": 20,
    "local_attention": 8,
}  # fmt: skip


def configured(shape, tokens=8, **keys):
    """With random weights, under a fixed plan unless another policy is named."""
    model = {"shape": shape, "tokens": tokens, "embedding": "public_table"}
    raw = {
        "name": "shaped",
        "model": model | {"pooling": "mean", "normalize": True},
        "ckks": {"parameters": "n8192_q88", "baby_steps": "auto"},
        "mpc": {"fraction_bits": 16, "output_bits": 6},
        "ranges": {"margin": 2.0},
        **keys,
    }
    if "scheduler" not in keys:
        raw["ckks"]["linear_phase"] = "online"
        raw["mpc"]["correlations"] = "softspoken"
        raw.setdefault("protocols", PROTOCOLS)
    return checked(raw, Path("shaped.yaml"))


@pytest.mark.parametrize(("tokens", "windows"), [(5, []), (6, [1, 2])])
def test_windows_are_there_where_they_hide_something(tokens, windows):
    """Four tokens to each side: the first of five sees the last."""
    graph = load_model(configured(SMALL, tokens)).public.graph
    found = {n.layer: n.constants["window"] for n in graph.nodes if "window" in n.constants}
    assert found == dict.fromkeys(windows, 4.0)
    assert {n.op for n in graph.nodes if "window" in n.constants} <= {"softmax"}
    thetas = {n.layer: n.constants["theta"] for n in graph.nodes if n.op == "rotary"}
    assert thetas == {0: 160000.0, 1: 10000.0, 2: 10000.0, 3: 160000.0}


def test_a_fixed_plan_names_what_has_a_choice_and_nothing_else():
    model = load_model(configured(SMALL))
    plan = make_plan(configured(SMALL), model.public, None)
    chosen = {step.operator.node.op: step.operator for step in plan.steps}
    assert (chosen["product"].protocol, chosen["product"].multiply) == ("engine", "ckks")
    assert chosen["rotary"].protocol == chosen["halves"].protocol == "local"
    silu = configured(SMALL, protocols=PROTOCOLS | {"silu": "magnitude_polynomial"})
    with pytest.raises(ConfigError, match="unknown key 'silu', this model has no such operation"):
        make_plan(silu, model.public, None)


def counted(shape):
    """Names of the units of work of all that could carry a step of this shape."""
    config = configured(shape, scheduler={"policy": "least_traffic"})
    graph = load_model(config).public.graph
    solver = ScheduleSearch(config.run, graph, load_catalog(), None)
    _, _, options, _ = solver._solve(SoftSpokenSource)
    steps = [found.step for possible in options for found in possible.fitting]
    costs = [cost for step in steps for cost in (step.cost, step.offline)]
    return {name for cost in costs for name, _ in cost.work.counted()}


class Same(dict):
    """One price for every unit."""

    def __contains__(self, name):
        return True

    def __missing__(self, name):
        return 1e-7


@pytest.mark.long
@pytest.mark.parametrize("policy", ["fastest", "least_traffic", "fewest_rounds"])
def test_policies_choose_every_step(policy):
    config = configured({**SMALL, "layers": 2}, scheduler={"policy": policy})
    model, prices = load_model(config), MachinePrices(Same(), 1e-4, 1e9, "", "", 0.0, 0.0)
    plan = make_plan(config, model.public, prices)
    nodes = [step.operator.node.name for step in plan.steps]
    assert nodes == [node.name for node in model.public.graph.nodes]
    engines = {s.operator.multiply for s in plan.steps if s.operator.node.op == "product"}
    assert engines <= {"ckks", "ot", "cheapest"}
    assert engines


@pytest.mark.long
def test_every_unit_is_one_that_plans_of_bert_have_prices_for():
    of_bert = {key: SMALL[key] for key in ("hidden", "heads", "intermediate")}
    assert counted({**SMALL, "layers": 2}) <= counted({**of_bert, "layers": 1})


@pytest.mark.long
@pytest.mark.parametrize("shape", ["modernbert-base", "modernbert-large"])
def test_published_shapes_have_plans(shape):
    """Of few layers: all of them take a minute."""
    config = configured({"like": shape, "layers": 2}, 16)
    model = load_model(config)
    plan = make_plan(config, model.public, None)
    assert model.public.architecture.window(1) == 64
    assert 0 < plan.cost.failure_probability < 2.0**-20
    assert model.line.startswith(f"RANDOM weights of the shape of {shape}: hidden ")
