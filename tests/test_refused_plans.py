"""A refused plan names the block that fails, and only remedies that help."""

from __future__ import annotations

import re

import pytest

from hybrid.models.loading import load_model
from hybrid.planning import plan as planning
from hybrid.planning.catalog import load_catalog
from hybrid.planning.planner import make_plan
from mpc_nonlinear.blocks.local import scale_cost
from mpc_nonlinear.cost import Cost
from tests.shaped_config import shaped_config
from transport.errors import ConfigError


def planned(**changes):
    config = shaped_config(**changes)
    return make_plan(config, load_model(config).public, None)


def probability(**changes):
    return planned(**changes).cost.failure_probability


def refused(monkeypatch, limit, **changes):
    """The message, and what it says is enough: numbers by label."""
    with monkeypatch.context() as patched:
        patched.setattr(planning, "MAX_FAILURE_PROBABILITY", limit)
        with pytest.raises(ConfigError) as raised:
            planned(**changes)
    text = str(raised.value)
    _, _, enough = text.partition("enough would be: ")
    found = re.findall(r"(?:^|, or )(.+?) \((\S+)\)", enough)
    return text, {label: float(value) for label, value in found}


# -- which block ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"phase": "offline", "multiply": "ot"},
        {"exact": True, "gelu": "bolt", "softmax": "bolt"},
        {"multiply": "cheapest", "gelu": "bumblebee", "softmax": "bumblebee"},
    ],
)
def test_every_failure_has_the_name_of_a_block(changes):
    for step in planned(**changes).steps:
        named = sum(value for _, value in step.cost.failures)
        assert named == pytest.approx(step.cost.failure_probability, rel=1e-9)


def test_names_of_blocks_add_up_and_do_not_tell_costs_apart():
    both = scale_cost(3, 2.0**20) + Cost.failing("other", 2.0**-30) + scale_cost(1, 2.0**20)
    (first, sum_), (second, rest) = (both * 2).failures
    assert (first, second) == ("local product with public numbers (scale)", "other")
    assert (sum_, rest) == (8 * 2.0**-44, 2.0**-29)
    assert Cost.failing("one", 0.5) == Cost.failing("another", 0.5)
    assert hash(Cost.failing("one", 0.5)) == hash(Cost.failing("another", 0.5))
    assert Cost.failing("lift", 0.5).inside("product").failures == (("product: lift", 0.5),)
    assert Cost.failing("none", 0.0).failures == ()


def test_the_step_its_protocol_and_its_block_are_named(monkeypatch):
    text, _ = refused(monkeypatch, probability() / 1.5)
    step, protocol, block = re.search(
        r"is in (\S+) \((.+?)\), where it is the (.+) that fails", text
    ).groups()
    plan = planned()
    worst = max(plan.steps, key=lambda s: s.cost.failure_probability)
    assert step == worst.node.name
    assert protocol.split(",")[0] == worst.operator.protocol
    assert block == max(worst.cost.failures, key=lambda entry: entry[1])[0]
    share = worst.cost.failure_probability / plan.cost.failure_probability
    assert f"the largest part, {share:.0%}," in text


# -- what helps ----------------------------------------------------------------------------


def test_every_remedy_that_is_named_helps_as_much_as_it_says(monkeypatch):
    changes = {"batch": 4, "multiply": "ckks", "exact": True}
    limit = probability(**changes) / 1.1
    _, enough = refused(monkeypatch, limit, **changes)
    known = {
        "ckks.exact: true": {"exact": True},
        "model.batch: 1": {"batch": 1},
        "ranges.margin: 2": {"margin": 2.0},
        "ranges.margin: 1": {"margin": 1.0},
        "model.tokens: 4": {"tokens": 4},
        "protocols.multiply: ot": {"multiply": "ot"},
        "protocols.multiply: cheapest": {"multiply": "cheapest"},
    }
    assert "model.batch: 1" in enough
    for label, value in enough.items():
        really = probability(**changes | known[label])
        assert really <= limit
        assert f"{really:.1e}" == f"{value:.1e}"
    # What is not named does not help.
    for label, change in known.items():
        if label not in enough:
            assert probability(**changes | change) > limit or label == "ranges.margin: 1"


def test_exact_lifts_are_not_advised_where_nothing_is_lifted(monkeypatch):
    changes = {"linear": "coefficients", "attention": "coefficients_interleaved", "multiply": "ot"}
    text, enough = refused(monkeypatch, probability(**changes) / 1.5, **changes)
    assert "the local product with public numbers (scale) that fails" in text
    assert enough
    assert not any("exact" in label for label in enough)


def test_exact_lifts_come_with_layers_that_can_have_them(monkeypatch):
    changes = {"phase": "offline"}
    limit = probability(exact=True) * 1.01
    assert limit < probability(**changes)
    _, enough = refused(monkeypatch, limit, **changes)
    assert "ckks.exact: true with ckks.linear_phase: online" in enough


def test_where_nothing_is_enough_the_best_is_named(monkeypatch):
    text, enough = refused(monkeypatch, 1e-30)
    assert not enough
    label, value = re.search(
        r"none is enough by itself, the best, (.+), reaches (\S+):", text
    ).groups()
    assert label in text
    assert 1e-30 < float(value) < probability()


def test_without_a_way_to_plan_again_no_remedy_is_named(monkeypatch):
    plan = planned()
    monkeypatch.setattr(planning, "MAX_FAILURE_PROBABILITY", 1e-30)
    config = shaped_config()
    with pytest.raises(ConfigError) as raised:
        planning.build_plan(config.run, plan.graph, load_catalog(), plan.schedule)
    assert "enough" not in str(raised.value)
