"""Schedules of decoders: the best of all, never worse than what a config names, agreed on."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from he_linear.ckks.keys import public_key_bytes
from hybrid.config.loading import checked
from hybrid.machine.prices import MachinePrices
from hybrid.models.generator_loading import load_generator
from hybrid.operators.slot_triples import triples_cost
from hybrid.planning.candidates import check_limits, checked_policy
from hybrid.planning.catalog import load_catalog
from hybrid.planning.generation import plan_generation
from hybrid.planning.generation_candidates import PROMPT
from hybrid.planning.generation_search import GenerationSearch
from hybrid.planning.plan import Plan
from hybrid.planning.risk import MAX_FAILURE_PROBABILITY
from hybrid.planning.schedule import Schedule
from hybrid.reports.generation_plan import generation_plan_to_dict
from mpc_nonlinear.correlations import FerretSource, SoftSpokenSource
from mpc_nonlinear.cost import total_without_work
from tests.generation_setup import (
    both_ends,
    generation_config,
    generation_content,
)
from transport.computing import Clocks
from transport.errors import ConfigError, HandshakeError
from transport.traffic import Party, Traffic

pytestmark = pytest.mark.long
POLICIES = ("fastest", "least_traffic", "fewest_rounds")
FAMILIES = ("llama", "gpt2")
PINNED = {
    "causal_softmax": "own_powers",
    "cached_attention": "slot_correlations",
    "embedding": "exact_rows",
    "silu": "cubic_pieces",
    "correlations": "softspoken",
}
"""What leaves few schedules: norms and gated products are free."""


class EveryUnit(dict):
    """A price for any unit, of its own, as long as others are."""

    def __contains__(self, name):
        return True

    def __getitem__(self, name):
        return 1e-9 * (1 + sum(map(ord, name)) % 97) * (1e4 if "/" in name else 1)


PRICES = MachinePrices(EveryUnit(), 1e-4, 1e9, "", "", 0.0, 0.0)


def content(policy, family="llama", *, generation=None, **rules):
    """A config that a policy chooses for."""
    found = generation_content(family, **(generation or {}))
    del found["protocols"], found["mpc"]["correlations"]
    return found | {"scheduler": {"policy": policy, **rules}}


def chosen(policy, family="llama", **rules):
    return checked(content(policy, family, **rules), Path("tiny.yaml"))


@pytest.fixture(scope="module")
def models():
    return {family: load_generator(generation_config(family)).public for family in FAMILIES}


def search_of(config, model) -> GenerationSearch:
    return GenerationSearch(config.run, model, load_catalog(), PRICES)


def taken_of(schedule, decisions):
    """Options of a schedule."""
    found = []
    for one in decisions:
        choice = schedule.choice(one.names[0], 2 if one.only == PROMPT else 1)
        # Where engines cost the same, one of them stands for all.
        alike = [o for o in one.options if o.choice.protocol == choice.protocol]
        found.append(next((o for o in alike if o.choice == choice), alike[0]))
    return found


@pytest.mark.parametrize("policy", POLICIES)
def test_no_schedule_is_better(policy, models):
    found = search_of(chosen(policy, pin=PINNED), models["llama"]).best(SoftSpokenSource)
    assert found.value == found.objective.value(found.taken)
    # Neighbours that share ciphertexts and oblivious transfers, in all combinations.
    free = [i for i, one in enumerate(found.decisions) if len(one.options) > 1][:4]
    assert len(free) == 4
    values = []
    for options in itertools.product(*(found.decisions[i].options for i in free)):
        taken = list(found.taken)
        for place, option in zip(free, options, strict=True):
            taken[place] = option
        values.append(found.objective.value(taken))
    assert len(values) > 100
    assert found.value == min(values)


def bytes_of(plan):
    """Of the conversation that schedules are measured by, from its plans."""
    rows, new = 16, plan.model.settings.max_new_tokens
    passes = [plan.of_pass(rows, 0), *[plan.middle] * (new - 1)]
    sent = sum((plan.offline_traffic(p) + p.cost.traffic).sent_bytes for p in passes)
    sent += plan.conversation_cost().traffic.sent_bytes
    needed = total_without_work(cost for _, cost in plan.conversation)
    sent += plan.source.production_traffic(needed.ots).sent_bytes
    sent += triples_cost(needed.demand).traffic.sent_bytes
    for operator, cost in plan.batch:
        used = sum(_rows(p, operator.node.name) for p in passes)
        sent += cost.traffic.sent_bytes * used / plan.batch_rows
    for keys in plan.every.key_sets:
        size = public_key_bytes(keys.parameters, len(keys.galois_steps), keys.relinearise)
        sent += Traffic.message(Party.CLIENT, size).sent_bytes
    return sent


def _rows(one: Plan, name: str) -> int:
    return next(step.node.shape[0] for step in one.steps if step.node.name == name)


@pytest.mark.parametrize("family", FAMILIES)
def test_least_traffic_sends_no_more_than_what_configs_name(family, models):
    plan = plan_generation(chosen("least_traffic", family), models[family])
    named = generation_content(family)
    for correlations in ("softspoken", "ferret"):
        mpc = {**named["mpc"], "correlations": correlations}
        config = checked(named | {"mpc": mpc}, Path("tiny.yaml"))
        assert bytes_of(plan) <= bytes_of(plan_generation(config, models[family]))
    # No keys but those of exact slots: what costs the same without others goes first.
    assert plan.every.key_sets == ()
    search = search_of(chosen("least_traffic", family), models[family])
    objective = search.objective(plan.source)
    excess, value = objective.value(taken_of(plan.schedule, search.decisions(objective)))
    assert not excess
    # The rest is the weight of rounds.
    assert value == pytest.approx(bytes_of(plan), abs=1.0)


def seconds_of(plan):
    """Of the same conversation's passes, what is shared apart."""
    weighted = [(1, plan.of_pass(16, 0)), (plan.model.settings.max_new_tokens - 1, plan.middle)]
    total = 0.0
    for weight, one in weighted:
        clocks = Clocks()
        for _, work in one.works():
            clocks = work.advance(clocks, PRICES)
        total += weight * clocks.client
    return total


@pytest.mark.parametrize("policy", ["fastest", "fewest_rounds"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_policy_is_worse_than_what_a_config_names(policy, family, models):
    model = models[family]
    plan = plan_generation(chosen(policy, family), model, prices=PRICES)
    named = plan_generation(generation_config(family), model)
    search = search_of(chosen(policy, family), model)
    values = []
    for one in (plan, named):
        objective = search.objective(one.source)
        values.append(objective.value(taken_of(one.schedule, search.decisions(objective))))
    assert values[0] <= values[1]
    if policy == "fewest_rounds":
        assert plan.middle.cost.traffic.rounds <= named.middle.cost.traffic.rounds


def test_a_schedule_is_measured_as_its_plans_predict(models):
    config = chosen("fastest", offline="free")
    search = search_of(config, models["llama"])
    plan = plan_generation(config, models["llama"], prices=PRICES)
    objective = search.objective(plan.source)
    _, value = objective.value(taken_of(plan.schedule, search.decisions(objective)))
    online = 0.0
    for weight, one in [(1, plan.of_pass(16, 0)), (3, plan.middle)]:
        clocks = Clocks()
        for step in one.steps:
            clocks = step.cost.work.advance(clocks, PRICES)
        online += weight * clocks.client
    assert value == pytest.approx(online, rel=1e-6)
    assert online < seconds_of(plan)


def test_schedules_keep_within_the_bound_on_failures(models):
    model, config = models["llama"], chosen("least_traffic")
    plan = plan_generation(config, model)
    assert plan.announced_risk().failure_probability <= MAX_FAILURE_PROBABILITY
    usual = search_of(config, model).best(FerretSource)
    chance = sum(option.failures for option in usual.taken)

    def within(limit):
        return GenerationSearch(config.run, model, load_catalog(), None, failures=limit)

    # Another schedule, that sends more.
    found = within(0.5 * chance).best(FerretSource)
    assert sum(option.failures for option in found.taken) <= 0.5 * chance
    assert found.value > usual.value
    with pytest.raises(ConfigError, match="no schedule was found that fails with less than"):
        within(1e-15).solve()


def test_reasons_and_the_file_of_a_schedule(models):
    config = chosen("least_traffic")
    plan = plan_generation(config, models["llama"])
    data = generation_plan_to_dict(plan)
    assert set(data["why"]) == {"correlations", *plan.schedule.choices}
    assert any("MB a conversation" in line for line in data["why"].values())
    found = Schedule.from_public(json.loads(json.dumps(plan.schedule.to_public())))
    assert found == plan.schedule
    again = Schedule.from_file(plan.schedule.to_file(), "a file")
    assert plan_generation(config, models["llama"], again).digest() == plan.digest()


def test_pins_and_limits(models):
    model = models["llama"]
    usual = plan_generation(chosen("least_traffic"), model).schedule.choices
    other = {"cubic_pieces", "magnitude_polynomial"} - {usual["layer0.silu"].protocol}
    pinned = chosen("least_traffic", pin={"layer0.silu": (wanted := other.pop())})
    choices = plan_generation(pinned, model).schedule.choices
    assert choices["layer0.silu"].protocol == wanted
    apart = {"layer0.scores": "matrix_correlations", "layer0.context": "slot_correlations"}
    for rules, words in (
        ({"pin": apart}, "pinned to different implementations"),
        ({"offline": "forbidden"}, "nothing can carry embedding"),
        ({"memory_gb": 1e-5}, "hold no schedule's encoded weights"),
    ):
        with pytest.raises(ConfigError, match=words):
            plan_generation(chosen("least_traffic", **rules), model)
    with pytest.raises(ConfigError, match="needs this machine's prices; run `hybrid calibrate`"):
        plan_generation(chosen("fastest"), model)


def test_a_client_holds_the_schedule_against_its_own_config(models):
    config, catalog = chosen("least_traffic"), load_catalog()
    schedule = plan_generation(config, models["llama"]).schedule
    longest = models["llama"].graph(1, models["llama"].capacity - 1).nodes
    check_limits(schedule, longest, catalog, config.run)
    strict = chosen("least_traffic", max_error=1e-6).run
    with pytest.raises(ConfigError, match="refuse this server or change the limit"):
        check_limits(schedule, longest, catalog, strict)
    with pytest.raises(ConfigError, match="is not what 'least_traffic' asks for"):
        checked_policy(None, config.run, catalog)
    dealt = Schedule("dealer", schedule.choices)
    with pytest.raises(ConfigError, match="relies on a dealer"):
        checked_policy(dealt, config.run, catalog)


def test_both_ends_run_what_the_server_chose():
    settings = {"positions": 32, "max_new_tokens": 2, "rows": 16}
    config = chosen("least_traffic", generation=settings)
    answers = []

    def ask(client):
        answers.extend(client.answer([5, 6, 7], 2, fresh=True))

    assert both_ends(config, config, ask) == (None, None)
    assert len(answers) == 2
    other = generation_config(**settings)
    server, client = both_ends(config, other)
    assert isinstance(client, HandshakeError | ConfigError)
