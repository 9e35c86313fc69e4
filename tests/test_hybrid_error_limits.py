"""`scheduler.max_error` by the ranges of a model: policies avoid, names and pins are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybrid.config.loading import checked, load_config
from hybrid.config.overrides import overrides_of
from hybrid.config.schema import SchedulerConfig
from hybrid.models.generator_loading import load_generator
from hybrid.models.loading import load_model
from hybrid.models.ranges import Bound
from hybrid.planning.candidates import check_limits
from hybrid.planning.catalog import load_catalog
from hybrid.planning.errors import CHOSEN_ERROR, NAMED_ERROR, error_limit
from hybrid.planning.generation import plan_generation
from hybrid.planning.pins import Pins
from hybrid.planning.plan import build_plan
from hybrid.planning.schedule import Schedule, named_schedule
from hybrid.planning.search import ScheduleSearch
from tests.generation_setup import generation_config
from tests.schedules import with_policy
from tests.tiny_model import write_tiny_config
from transport.errors import ConfigError

STEP = "layer0.output_norm"
WIDE = {"input": Bound(2.0**-20, 4.0, 2.0**9), "variance": Bound(2.0**-10, 2.0**12, 2.0**13)}
"""The smallest variance 2^23 below the largest."""


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    return write_tiny_config(tmp_path_factory.mktemp("named"))


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    path = write_tiny_config(tmp_path_factory.mktemp("chosen"))
    return with_policy(path, policy="fewest_rounds", max_error=0.05)


@pytest.fixture(scope="module")
def narrow(named):
    return load_model(load_config(named)).public.graph


@pytest.fixture(scope="module")
def wide(narrow):
    """The same model with one norm whose rows differ in size as those of some models do."""
    nodes = [replace(n, bounds=WIDE) if n.name == STEP else n for n in narrow.nodes]
    return replace(narrow, nodes=tuple(nodes))


def loaded(path, *sets):
    return load_config(path, overrides_of(list(sets)))


def planned(config, graph):
    """As `hybrid plan` does under the policy fixed."""
    catalog = load_catalog()
    schedule = named_schedule(config, graph.nodes, catalog)
    return build_plan(config.run, graph, catalog, schedule)


def search(config, graph):
    return ScheduleSearch(config.run, graph, load_catalog(), None)


def by_engine(schedule, engine):
    """The same schedule with products of the wide step by this engine."""
    choice = replace(schedule.choices[STEP], multiply=engine)
    return Schedule(schedule.correlations, {**schedule.choices, STEP: choice})


# -- policies ------------------------------------------------------------------------------


def test_a_policy_avoids_an_engine_whose_error_is_too_large_at_the_ranges(chosen, narrow, wide):
    config, lost = loaded(chosen), "octave_polynomial (ckks, cheapest: error without bound above"
    schedule = search(config, wide).solve()
    assert schedule.choices[STEP].multiply == "ot"
    assert lost in schedule.why[STEP]
    # Nothing is avoided where it is right.
    assert lost not in schedule.why["layer0.attention_norm"]
    assert lost not in search(config, narrow).solve().why[STEP]


def test_a_pin_may_exceed_the_limit_of_policies_but_not_that_of_names(chosen, narrow, wide):
    pin = f"scheduler.pin={{{STEP}: {{protocol: octave_polynomial, multiply: ckks}}}}"
    with pytest.raises(ConfigError, match=rf"nothing can carry {STEP}.*error without bound"):
        search(loaded(chosen, pin), wide).solve()
    assert search(loaded(chosen, pin), narrow).solve().choices[STEP].multiply == "ckks"
    strict = loaded(chosen, "scheduler.max_error=0.004", "scheduler.pin={gelu: bumblebee}")
    assert search(strict, narrow).solve().choices["layer0.gelu"].protocol == "bumblebee"


class _Declaring:
    """An operator as far as its limit goes."""

    def __init__(self, node, constant):
        self.node = node
        self.constant_error = lambda: constant


@pytest.mark.parametrize(
    ("rules", "constant", "limit"),
    [
        ({}, 0.01, NAMED_ERROR),
        ({}, 0.18, 0.18),  # an author's crude approximation, named by its user
        ({"max_error": 1e-3}, 0.18, 1e-3),
        ({"policy": "least_traffic"}, 0.18, CHOSEN_ERROR),
        ({"policy": "least_traffic", "max_error": 0.5}, 0.01, 0.5),
        ({"policy": "least_traffic", "pin": {"gelu": "bolt"}}, 0.01, NAMED_ERROR),
        ({"policy": "least_traffic", "max_error": 0.5, "pin": {"gelu": "bolt"}}, 0.01, 0.5),
    ],
)
def test_limits_by_who_chooses(rules, constant, limit, narrow):
    node = next(n for n in narrow.nodes if n.op == "gelu")
    config = SchedulerConfig(**rules)
    found = error_limit(config, Pins(config.pin, narrow.nodes), _Declaring(node, constant))
    assert found == limit


# -- what a config names -------------------------------------------------------------------


def test_a_fixed_plan_refuses_an_engine_whose_error_is_too_large_at_the_ranges(named, wide):
    with pytest.raises(ConfigError) as error:
        planned(loaded(named, "protocols.multiply=ckks"), wide)
    message = str(error.value)
    assert message.startswith(f"plan: {STEP} (octave_polynomial, products by ckks): estimated err")
    assert (
        "without bound at its ranges exceeds 1.2e-01; within it are: octave_polynomial (ot) "
        in (message)
    )
    assert "raise scheduler.max_error" in message
    assert "\n" not in message


def test_a_fixed_plan_is_made_where_the_engine_is_exact_or_the_ranges_narrow(named, narrow, wide):
    by_ot = planned(loaded(named, "protocols.multiply=ot"), wide)
    assert by_ot.schedule.choices[STEP].multiply == "ot"
    planned(loaded(named, "protocols.multiply=ckks"), narrow)
    # Also step by step, as a schedule file says.
    catalog, config = load_catalog(), loaded(named, "protocols.multiply=ckks")
    mixed = by_engine(named_schedule(config, wide.nodes, catalog), "ot")
    build_plan(config.run, wide, catalog, mixed)
    with pytest.raises(ConfigError, match=f"plan: {STEP}"):
        build_plan(config.run, wide, catalog, by_engine(mixed, "ckks"))


def test_a_config_that_names_protocols_may_set_its_own_limit(named, narrow):
    published = "protocols.softmax=bumblebee"
    planned(loaded(named, published), narrow)
    with pytest.raises(ConfigError, match=r"plan: layer0.softmax \(bumblebee, .*exceeds 4.0e-03"):
        planned(loaded(named, published, "scheduler.max_error=0.004"), narrow)
    with pytest.raises(ConfigError, match="nothing else is within it: calibrate"):
        planned(loaded(named, "scheduler.max_error=1.0e-9"), narrow)


def test_a_client_refuses_a_servers_schedule_by_the_ranges_it_is_for(chosen, wide):
    config, catalog = loaded(chosen), load_catalog()
    fine = search(config, wide).solve()
    check_limits(fine, wide.nodes, catalog, config.run)
    with pytest.raises(ConfigError, match=rf"{STEP} carried by octave_polynomial \(ckks\) \(error"):
        check_limits(by_engine(fine, "ckks"), wide.nodes, catalog, config.run)


# -- decoders ------------------------------------------------------------------------------


def test_a_session_that_answers_prompts_is_held_to_the_limit_too():
    config = generation_config("gpt2")
    public = load_generator(config).public
    data = config.run.model_dump(mode="json", exclude_unset=True)
    strict = checked({**data, "scheduler": {"max_error": 1e-9}}, config.path)
    with pytest.raises(ConfigError, match=r"plan: layer0\..* at its ranges exceeds 1.0e-09"):
        plan_generation(strict, public)
