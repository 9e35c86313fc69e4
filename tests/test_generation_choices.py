"""Prompts and tokens of a decoder carried by different protocols: chosen, named, agreed on, run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from he_linear.ckks.keys import public_key_bytes
from hybrid.config.loading import checked
from hybrid.models.generator_loading import load_generator
from hybrid.models.loading import load_model
from hybrid.operators import OPERATORS
from hybrid.operators.base import Choice, Operator, WeightedOperator
from hybrid.planning.candidates import check_limits
from hybrid.planning.catalog import load_catalog
from hybrid.planning.generation import plan_generation
from hybrid.planning.generation_search import GenerationSearch
from hybrid.planning.planner import make_plan
from hybrid.planning.schedule import Schedule
from hybrid.reports.generation_plan import generation_plan_to_dict, print_generation_plan
from hybrid.reports.generation_trust import generation_trust_model
from hybrid.runtime.generation_local import LocalGeneration
from mpc_nonlinear.correlations import FerretSource
from tests.generation_setup import (
    both_ends,
    generation_config,
    generation_content,
    plain_tokens,
    smallest_cosine,
    undeclared,
)
from tests.shaped_config import shaped_config
from transport.errors import ConfigError, HandshakeError
from transport.traffic import Party, Traffic

APART = {
    "silu": {"prompt": "magnitude_polynomial", "token": "cubic_pieces"},
    "multiply": {"prompt": "ckks", "token": "slot_triples"},
    "rmsnorm": {"prompt": "octave_polynomial", "token": "pieces"},
    "causal_softmax": {"prompt": "squared_polynomial", "token": "own_powers"},
}
"""Prompts take keys that tokens do not."""
SILU = "layer0.silu"


def named(changes=APART):
    content = generation_content()
    return checked(content | {"protocols": content["protocols"] | changes}, Path("tiny.yaml"))


def chosen(policy="least_traffic", **rules):
    content = generation_content()
    del content["protocols"], content["mpc"]["correlations"]
    return checked(content | {"scheduler": {"policy": policy, **rules}}, Path("tiny.yaml"))


@pytest.fixture(scope="module")
def model():
    return load_generator(generation_config()).public


@pytest.fixture(scope="module")
def searched(model):
    return plan_generation(chosen(), model)


def carried(plan, rows, past=0):
    steps = plan.of_pass(rows, past).steps
    return {s.node.name: Choice(s.operator.protocol, s.operator.multiply) for s in steps}


# -- chosen by a policy ---------------------------------------------------------------------------


def sent(plan, rows, past):
    """Bytes of one pass, its correlations among them."""
    one = plan.of_pass(rows, past)
    return (plan.offline_traffic(one) + one.cost.traffic).sent_bytes


def test_either_pass_sends_least(searched, model):
    """What prompts take costs tokens more, and the reverse, as their own plans say."""
    schedule, config = searched.schedule, generation_config()
    assert schedule.prompt
    layers = [name for name in schedule.prompt if name.endswith("silu")]
    assert layers == ["layer0.silu", "layer1.silu"]
    middle = model.capacity // 2
    for name in layers:
        prompt = {n: choice for n, choice in schedule.prompt.items() if n != name}
        as_tokens = plan_generation(config, model, replace(schedule, prompt=prompt))
        assert sent(searched, 16, 0) < sent(as_tokens, 16, 0)
        choices = {**schedule.choices, name: schedule.prompt[name]}
        as_prompts = plan_generation(config, model, replace(schedule, choices=choices))
        assert sent(searched, 1, middle) < sent(as_prompts, 1, middle)


def test_the_first_step_that_takes_keys_brings_them(model):
    search = GenerationSearch(chosen().run, model, load_catalog(), None)
    objective = search.objective(FerretSource)
    unpaid, decisions = replace(objective, keys=0.0), search.decisions(objective)
    plain = [next(o for o in one.options if not o.takes_keys) for one in decisions]
    taken = [next((o for o in one.options if o.takes_keys), one.options[0]) for one in decisions]
    places = [place for place, option in enumerate(taken) if option.takes_keys]
    assert len(places) > 2
    for count in (0, 1, 2):
        some = [o if p in places[:count] else plain[p] for p, o in enumerate(taken)]
        paid = objective.value(some)[1] - unpaid.value(some)[1]
        assert paid == pytest.approx(objective.keys if count else 0.0)
    sizes = [
        Traffic.message(
            Party.CLIENT, public_key_bytes(keys.parameters, len(keys.galois_steps), True)
        ).sent_bytes
        for keys in plan_generation(named(), model).every.key_sets
    ]
    assert objective.keys == sum(sizes)


def test_a_plan_says_what_prompts_take_otherwise(searched):
    data = generation_plan_to_dict(searched)
    silu = searched.schedule.prompt[SILU]
    assert data["schedule"]["prompt"][SILU]["protocol"] == silu.protocol
    assert f"; prompts: {silu.label}; next" in data["why"][SILU]
    rows = {part: {row["name"]: row for row in data[part]["rows"]} for part in ("prefill", "token")}
    assert rows["prefill"][SILU]["protocol"] == silu.protocol
    assert rows["token"][SILU]["protocol"] == searched.schedule.choices[SILU].protocol
    console = Console(width=220)
    with console.capture() as captured:
        print_generation_plan(console, searched)
    line = f"passes of several rows take otherwise: {SILU} and 1 alike: {silu.label}"
    assert line in captured.get()


def test_pins_of_one_kind_of_passes_leave_the_other_to_the_policy(searched, model):
    own = searched.schedule
    pin = {"silu": {"prompt": own.choices[SILU].protocol}}
    schedule = plan_generation(chosen(pin=pin), model).schedule
    silu = schedule.choice(SILU, 2)
    assert silu.protocol == own.choices[SILU].protocol != own.prompt[SILU].protocol
    assert schedule.choices == own.choices
    swapped = {"prompt": own.choices[SILU].protocol, "token": own.prompt[SILU].protocol}
    schedule = plan_generation(chosen(pin={SILU: swapped}), model).schedule
    assert schedule.choices[SILU].protocol == own.prompt[SILU].protocol
    assert schedule.prompt[SILU].protocol == own.choices[SILU].protocol
    # A pin of the other kind does not hide that of the operation.
    pins = {"silu": "cubic_pieces", SILU: {"prompt": "magnitude_polynomial"}}
    schedule = plan_generation(chosen(pin=pins), model).schedule
    assert {schedule.choices[n].protocol for n in (SILU, "layer1.silu")} == {"cubic_pieces"}
    assert schedule.prompt[SILU].protocol == "magnitude_polynomial"
    assert "layer1.silu" not in schedule.prompt


@pytest.mark.parametrize(
    ("pin", "words"),
    [
        ({"linear": {"prompt": "exact_rows"}}, "pin.linear: what .* serves all passes"),
        ({"layer1.context": {"token": "slot_correlations"}}, "what layer1.context keeps serves"),
        ({"correlations": {"prompt": "iknp"}}, "one source serves all"),
        ({"correlations": {"token": "iknp", "prompt": "ferret"}}, "one source serves all"),
        ({"silu": {"prompt": "no_such"}}, "pin.silu: nothing of that kind carries layer0.silu"),
        ({"sillu": {"prompt": "cubic_pieces"}}, "did you mean 'silu'"),
        ({"silu": {"prompt": "cubic_pieces"}, SILU: {"prompt": "cubic_pieces"},
          "layer1.silu": {"prompt": "cubic_pieces"}}, "pin.silu: would be ignored"),
    ],
)  # fmt: skip
def test_pins_that_cannot_be(pin, words, model):
    with pytest.raises(ConfigError, match=words):
        plan_generation(chosen(pin=pin), model)


@pytest.mark.parametrize("pin", [{}, {"prompts": "cubic_pieces"}])
def test_malformed_pins(pin):
    with pytest.raises(ConfigError, match="silu"):
        chosen(pin={"silu": pin})


# -- named ----------------------------------------------------------------------------------------


def test_protocols_name_either(model):
    plan, one = plan_generation(named(), model), plan_generation(generation_config(), model)
    tokens, prompts = carried(plan, 1, 9), carried(plan, 2, 9)
    assert tokens == carried(one, 1, 9)
    assert prompts[SILU] == Choice("magnitude_polynomial", "ckks")
    assert prompts["layer0.softmax"] == Choice("squared_polynomial", "ckks")
    assert prompts["layer0.qkv"] == tokens["layer0.qkv"]
    # Whose last row alone goes on: the same shape in all passes.
    assert [p["next_token"].multiply for p in (tokens, prompts)] == ["slot_triples", "ckks"]
    # Keys are for what either takes, and both parties know of them.
    assert not plan.one.key_sets
    assert plan.every.key_sets
    assert len(generation_trust_model(plan)) > len(generation_trust_model(one))
    assert plan.digest() != one.digest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cached_attention": {"prompt": "matrix_correlations", "token": "slot_correlations"}},
         "keeps serves all passes"),
        ({"silu": {"prompt": "cubic_peaces", "token": "cubic_pieces"}}, "did you mean 'cubic_pie"),
    ],
)  # fmt: skip
def test_names_that_cannot_be(changes, words, model):
    with pytest.raises(ConfigError, match=words):
        plan_generation(named(changes), model)


def test_an_encoder_has_one_kind_of_pass():
    config = shaped_config()
    public = load_model(config).public
    apart = {"prompt": "even_polynomial", "token": "bolt"}
    with pytest.raises(ConfigError, match="protocols.gelu: prompt and token are passes of dec"):
        make_plan(shaped_config(gelu=apart), public, None)
    schedule = make_plan(config, public, None).schedule
    wrong = replace(schedule, prompt={"layer0.gelu": Choice("bolt", "ot")})
    with pytest.raises(ConfigError, match="prompt: this model is no decoder"):
        wrong.check_complete(public.graph.nodes)


# -- saved and agreed on --------------------------------------------------------------------------


def test_a_saved_schedule_carries_both(searched, model, tmp_path):
    data = yaml.safe_load(yaml.safe_dump(searched.schedule.to_file()))
    content = generation_content()
    del content["protocols"], content["mpc"]["correlations"]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(data))
    config = checked(content | {"schedule": "s.yaml"}, tmp_path / "tiny.yaml")
    again = plan_generation(config, model)
    assert again.schedule.prompt == searched.schedule.prompt
    assert again.digest() == searched.digest()
    public = Schedule.from_public(json.loads(json.dumps(searched.schedule.to_public())))
    assert public == searched.schedule
    for change, words in (
        ({SILU: "cubic_pieces"}, "expected {protocol: NAME}"),
        ({"layer9.silu": {"protocol": "cubic_pieces"}}, "'layer9.silu' is in the schedule but not"),
        ({"layer0.qkv": {"protocol": "exact_rows"}}, "layer0.qkv keeps serves all passes"),
        ([], "expected the keys correlations and steps"),
    ):
        with pytest.raises(ConfigError, match=words):
            plan_generation(config, model, Schedule.from_file(data | {"prompt": change}, "s"))


def test_a_plans_digest_covers_prompts(searched, model):
    """Whichever of their steps differs, in a choice that costs the same too."""
    config, seen = chosen(), {searched.digest()}
    for name in searched.schedule.prompt:
        prompt = {n: c for n, c in searched.schedule.prompt.items() if n != name}
        plan = plan_generation(config, model, replace(searched.schedule, prompt=prompt))
        seen.add(plan.digest())
    assert len(seen) == 1 + len(searched.schedule.prompt)


def test_a_client_holds_prompts_against_its_own_config(searched, model):
    catalog, nodes = load_catalog(), model.graph(1, model.capacity - 1).nodes
    schedule = searched.schedule
    check_limits(schedule, nodes, catalog, chosen().run)
    other = schedule.choices[SILU].protocol
    pinned = chosen(pin={"silu": {"prompt": other}}).run
    with pytest.raises(ConfigError, match="pin.silu: nothing of that kind carries layer0.silu"):
        check_limits(schedule, nodes, catalog, pinned)
    # A pin of prompts alone holds where prompts take what tokens do.
    pinned = chosen(pin={"silu": {"prompt": schedule.prompt[SILU].protocol}}).run
    with pytest.raises(ConfigError, match="pin.silu: nothing of that kind carries layer0.silu"):
        check_limits(replace(schedule, prompt={}), nodes, catalog, pinned)
    free = chosen(pin={"silu": {"token": other}}).run
    check_limits(schedule, nodes, catalog, free)
    # What only prompts take may be off by too much.
    strict = chosen(max_error=0.004).run
    check_limits(replace(schedule, prompt={}), nodes, catalog, strict)
    with pytest.raises(ConfigError, match="has layer0.softmax carried by own_powers.*refuse this"):
        check_limits(schedule, nodes, catalog, strict)


def test_what_outlasts_a_pass_is_marked():
    """Whoever prepares for several passes, or keeps weights or a cache."""
    lasting = ("setup", "batch_cost", "first_batch_cost", "conversation_cost")
    found = [o for o in OPERATORS if any(getattr(o, n) != getattr(Operator, n) for n in lasting)]
    assert found
    for operator in (*found, *(o for o in OPERATORS if issubclass(o, WeightedOperator))):
        assert operator.outlasts_pass, operator
    assert not all(operator.outlasts_pass for operator in OPERATORS)


# -- run ------------------------------------------------------------------------------------------


@pytest.mark.long
def test_prompts_and_tokens_run_by_different_protocols():
    """A conversation goes on, so that several rows come behind a cache that tokens filled."""
    with LocalGeneration(named()) as session:
        list(session.generate("What is a mask?"))
        list(session.generate("And?", 3, goes_on=True))
    assert undeclared(session) == []
    for answer in session.answers:
        assert answer.tokens == plain_tokens(session, answer)
        assert smallest_cosine(session, answer) > 0.9999
    assert session.result.client.total == session.result.server.total


@pytest.mark.long
def test_parties_agree_on_both():
    other = {**APART, "silu": {"prompt": "cubic_pieces", "token": "cubic_pieces"}}
    for error in both_ends(named(), named(other)):
        assert isinstance(error, HandshakeError | ConfigError)
