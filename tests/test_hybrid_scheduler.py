"""Schedules: optimal among all, within their limits, explained, agreed on; prices measured once."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest

from hybrid.calibration.calibrate import calibrate
from hybrid.config.loading import load_config
from hybrid.config.schema import LINK_PROFILES
from hybrid.machine.predict import predicted_seconds
from hybrid.machine.prices import cache_file, fingerprint, known_prices, save
from hybrid.models.loading import load_model
from hybrid.operators.base import Choice
from hybrid.planning.catalog import load_catalog
from hybrid.planning.plan import build_plan
from hybrid.planning.schedule import Schedule
from hybrid.planning.search import ScheduleSearch
from mpc_nonlinear.correlations import FerretSource
from tests.processes import run
from tests.schedules import with_policy
from tests.tiny_model import write_tiny_config, write_tiny_model
from transport.errors import ConfigError, FrameError

POLICIES = ("fastest", "least_traffic", "fewest_rounds")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder / "model")
    loaded = load_config(write_tiny_config(folder))
    return loaded, load_model(loaded).public


def scheduler(model, prices, **rules) -> ScheduleSearch:
    loaded, served = model
    config = loaded.run
    changed = config.model_copy(update={"scheduler": config.scheduler.model_copy(update=rules)})
    return ScheduleSearch(changed, served.graph, load_catalog(), prices)


def test_every_unit_that_plans_count_has_a_price(prices, model):
    solver = scheduler(model, prices, policy="fastest")
    for source in solver._sources.fitting():
        _, _, options, _ = solver._solve(source)
        refused = " ".join(possible.refused for possible in options)
        assert "without a price" not in refused
    assert all(price >= 0 for price in prices.units.values())
    assert sum(price > 0 for price in prices.units.values()) > 50


@pytest.mark.parametrize("policy", POLICIES)
def test_no_schedule_of_the_first_steps_is_better(policy, prices, model):
    solver = scheduler(model, prices, policy=policy)
    value, objective, options, taken = solver._solve(FerretSource)
    assert value == objective.total(taken)
    free = [o.fitting if len(o.fitting) <= 7 else o.fitting[:7] for o in options[:4]]
    rest = [(c,) for c in taken[4:]]
    totals = [objective.total(all_) for all_ in itertools.product(*free, *rest)]
    assert len(totals) > 10
    assert value <= min(totals) * (1 + 1e-9)


@pytest.mark.parametrize("link", ["none", "lan", "wan3"])
def test_never_predicted_slower_than_one_protocol_for_all(link, prices, model):
    solver = scheduler(model, prices, policy="fastest", network=link)
    value, objective, options, _ = solver._solve(FerretSource)
    labels = {c.label for possible in options for c in possible.fitting}
    for linear, other in itertools.product(labels, labels):
        uniform = []
        for possible in options:
            named = [c for c in possible.fitting if c.label in (linear, other)]
            uniform.append((named or list(possible.fitting))[0])
        assert value <= objective.total(uniform) * (1 + 1e-9)


def test_the_network_changes_the_plan(prices, model):
    loaded, served = model
    # A machine that computes slowly and one that computes in no time want different messages.
    slow = replace(prices, units={n: p * 100 for n, p in prices.units.items()})
    none = replace(prices, units=dict.fromkeys(prices.units, 0.0))
    found = [scheduler((loaded, served), p, policy="fastest", network="wan3").solve()
             for p in (slow, none)]  # fmt: skip
    assert found[0].choices != found[1].choices


@pytest.mark.parametrize("policy", POLICIES)
def test_plans_follow_the_schedule_and_say_why(policy, prices, model):
    loaded, served = model
    schedule = scheduler(model, prices, policy=policy).solve()
    plan = build_plan(loaded.run, served.graph, load_catalog(), schedule)
    for row in plan.rows():
        if row["phase"] == "online":
            choice = schedule.choices[row["name"]]
            assert row["protocol"] == choice.protocol
            assert row["multiply"] == choice.multiply
            assert row["name"] in schedule.why
    unit = {"fastest": " ms", "least_traffic": " MB", "fewest_rounds": " rounds"}[policy]
    assert any(unit in line and "next" in line for line in schedule.why.values())
    assert "above max_error" in schedule.why["layer0.gelu"]
    seconds = predicted_seconds(plan.works(), prices, LINK_PROFILES["lan"])
    assert seconds is not None
    assert list(seconds) == [row["name"] for row in plan.rows()]
    # What was chosen and why travels to the client; only the choice counts.
    received = Schedule.from_public(json.loads(json.dumps(schedule.to_public())))
    assert received == schedule
    silent = replace(received, why={})
    parts = loaded.run, served.graph, load_catalog()
    assert build_plan(*parts, silent).digest() == plan.digest()


def test_memory_is_a_limit(prices, model):
    free = scheduler(model, prices, policy="fastest")._solve(FerretSource)[3]
    used = sum(c.encoded_bytes for c in free)
    limit = used * 0.75 / 1e9
    tight = scheduler(model, prices, policy="fastest", memory_gb=limit)._solve(FerretSource)[3]
    assert 0 < sum(c.encoded_bytes for c in tight) <= limit * 1e9
    with pytest.raises(ConfigError, match=r"memory_gb: 1e-06 GB hold no schedule.*takes"):
        scheduler(model, prices, policy="fastest", memory_gb=1e-6).solve()


def test_limits_of_trust_and_error(prices, model):
    sources = {s.name for s in scheduler(model, prices, policy="fastest")._sources.fitting()}
    assert sources == {"ferret", "softspoken", "iknp"}
    allowed = scheduler(model, prices, policy="fastest", trust="dealer_allowed")
    assert "dealer" in {s.name for s in allowed._sources.fitting()}
    with pytest.raises(ConfigError, match=r"nothing can carry layer0.softmax.*max_error"):
        scheduler(model, prices, policy="least_traffic", max_error=1e-9).solve()


def test_offline_rules(prices, model):
    values = []
    for offline in ("free", "allowed", "forbidden"):
        solver = scheduler(model, prices, policy="fastest", offline=offline)
        value, _, _, taken = solver._solve(FerretSource)
        values.append(value)
    assert values == sorted(values)
    assert not any(candidate.choice.prepared for candidate in taken)


def test_fastest_needs_prices_the_others_do_not(model):
    with pytest.raises(ConfigError, match="hybrid calibrate"):
        scheduler(model, None, policy="fastest")
    assert scheduler(model, None, policy="fewest_rounds").solve().choices


def test_a_schedule_of_another_model_is_refused(model):
    loaded, served = model
    wrong = Schedule("ferret", {"layer9.gelu": Choice("even_polynomial", "ot")})
    with pytest.raises(ConfigError, match="is in the model but not in the schedule"):
        build_plan(loaded.run, served.graph, load_catalog(), wrong)


GOOD = {
    "correlations": "ferret",
    "steps": {"a": ["x", "ot", False]},
    "prompt": {},
    "why": {"a": "b"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"correlations": 5},
        {"correlations": "x" * 65},
        {"steps": []},
        {"steps": {"a": ["x", "ot"]}},
        {"steps": {"a": ["x", "ot", 1]}},
        {"steps": {"a\n": ["x", "ot", True]}},
        {"steps": {str(i): ["x", "ot", True] for i in range(5000)}},
        {"prompt": []},
        {"prompt": {"a": ["x", "ot"]}},
        {"prompt": {str(i): ["x", "ot", True] for i in range(5000)}},
        {"why": {"a": "b" * 1000}},
        {"why": {"a": 1}},
        {"why": {"a": "\x1b]0;owned\x07"}},
        {"why": {"a": "a line\nanother"}},
        {"extra": 1},
    ],
)
def test_untrusted_schedules(change):
    assert Schedule.from_public(GOOD).choices == {"a": Choice("x", "ot", False)}
    with pytest.raises(FrameError, match="schedule is malformed"):
        Schedule.from_public({**GOOD, **change})


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 1}', '{"schema": 2, "units": 3}'])
def test_broken_calibrations_are_refused(text):
    cache_file().parent.mkdir(parents=True, exist_ok=True)
    cache_file().write_text(text)
    with pytest.raises(ConfigError, match="run `hybrid calibrate`"):
        known_prices()


def test_broken_calibrations_stop_no_run_that_needs_none(tmp_path):
    cache_file().parent.mkdir(parents=True, exist_ok=True)
    cache_file().write_text("{")
    config = write_tiny_config(tmp_path)
    code, output = run("plan", config, cwd=tmp_path)
    assert code == 0
    assert "predicted seconds: none" in " ".join(output.split())
    code, output = run("doctor", cwd=tmp_path)
    assert code == 0
    assert "not a calibration" in output


def test_a_folder_that_cannot_be_written_is_told_before_measuring(monkeypatch):
    monkeypatch.setenv("HYBRID_CACHE", "/proc/nowhere")
    with pytest.raises(ConfigError, match="set HYBRID_CACHE"):
        calibrate(lambda _: pytest.fail("measured before"))


@pytest.mark.slow
def test_prices_are_measured_between_fresh_processes():
    """Those of other tests come from forked ones, and from fewer runs."""
    measured = calibrate(lambda _: None)
    assert known_prices() == measured
    assert sum(price > 0 for price in measured.units.values()) > 50


def test_prices_of_other_parameter_sets_are_not_used(monkeypatch):
    own = fingerprint()
    monkeypatch.setattr("hybrid.machine.prices._SETS", ({},))
    assert fingerprint() != own


def test_prices_of_another_machine_are_not_used(prices):
    save(replace(prices, machine="another"), cache_file())
    assert known_prices() is None
    save(replace(prices, latency_s=math.nan), cache_file())
    with pytest.raises(ConfigError, match="not a number of seconds"):
        known_prices()


def test_a_scheduled_run_between_processes(tmp_path, prices):
    write_tiny_model(tmp_path / "model")
    config = write_tiny_config(tmp_path)
    with_policy(config, policy="fastest", network="lan")
    save(prices, cache_file())
    code, output = run("run", config, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["accuracy"]["cosine"] > 0.999
    keys = ("client_sent_bytes", "server_sent_bytes", "rounds")
    for step in report["steps"]:
        assert step["predicted"] == {key: step["measured"][key] for key in keys}
        assert step["predicted_seconds"] >= 0
        assert step["why"] or step["phase"] == "offline"
    assert report["prediction"]["predicted_seconds"] > 0
    code, output = run("plan", config, cwd=tmp_path)
    assert code == 0
    assert "layer0.gelu: even_polynomial" in output


def test_plans_for_another_link_and_length(tmp_path, prices):
    write_tiny_model(tmp_path / "model")
    config = write_tiny_config(tmp_path)
    with_policy(config, policy="fastest")
    save(prices, cache_file())
    chosen = {}
    for link in ("none", "wan3"):
        code, output = run("plan", config, "--link", link, "--tokens", "5", cwd=tmp_path)
        assert code == 0, output
        assert "5x8" in output.replace(" ", "").replace("×", "x"), output
        chosen[link] = [line for line in output.splitlines() if "layer0." in line]
    assert chosen["none"] != chosen["wan3"]
    code, output = run("plan", config, "--link", "wan9", cwd=tmp_path)
    assert code == 2
    assert "--link wan9: link: input should be 'none'" in output
