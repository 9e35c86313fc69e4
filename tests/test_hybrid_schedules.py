"""Schedules as data: pins, files, overrides, and that nothing a config says is ignored."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import yaml

from hybrid.config.loading import checked, load_config
from hybrid.config.overrides import overrides_of
from hybrid.config.schema import SchedulerConfig
from hybrid.models.loading import load_model
from hybrid.planning.candidates import check_limits
from hybrid.planning.catalog import load_catalog
from hybrid.planning.planner import make_plan
from hybrid.planning.schedule import Schedule
from hybrid.runtime.session_parts import _fact
from tests.processes import run
from tests.schedules import with_policy
from tests.tiny_model import write_tiny_config
from transport.errors import ConfigError
from transport.handshake import HANDSHAKE_BYTES
from transport.link import LinkModel


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory):
    """A config whose schedule a policy chooses, without prices."""
    path = write_tiny_config(tmp_path_factory.mktemp("scheduled"))
    return with_policy(path, policy="least_traffic", max_error=1.0)


@pytest.fixture(scope="module")
def model(scheduled):
    return load_model(load_config(scheduled)).public


def plan_of(path, model, *sets):
    return make_plan(load_config(path, overrides_of(sets)), model, None)


def carried(plan):
    return {name: choice.label for name, choice in plan.schedule.choices.items()}


def test_pins_fix_some_steps_and_leave_the_rest_to_the_policy(scheduled, model):
    free = carried(plan_of(scheduled, model))
    gelu = "{protocol: even_polynomial, multiply: ckks}"
    pins = f"scheduler.pin={{softmax: bumblebee, layer0.gelu: {gelu}}}"
    pinned = plan_of(scheduled, model, pins)
    found = carried(pinned)
    assert found["layer0.softmax"].startswith("bumblebee")
    assert found["layer0.gelu"] == "even_polynomial (ckks)"
    assert free["layer0.softmax"] != found["layer0.softmax"]
    assert {n for n in free if free[n] != found[n]} <= {"layer0.softmax", "layer0.gelu"}
    protocols = {row["name"]: row["protocol"] for row in pinned.rows()}
    assert protocols["layer0.softmax"] == "bumblebee"


def test_a_steps_own_pin_goes_before_that_of_its_operation(scheduled, model):
    pins = "scheduler.pin={linear: column_bsgs, layer0.qkv: coefficients}"
    found = carried(plan_of(scheduled, model, pins))
    assert found["layer0.qkv"] == "coefficients"
    assert found["layer0.output"] == "column_bsgs"
    attention = carried(plan_of(scheduled, model, "scheduler.pin.attention=rotated_slots"))
    assert attention["layer0.scores"] == attention["layer0.context"] == "rotated_slots"


def test_a_pin_names_the_source_of_correlations(scheduled, model):
    plan = plan_of(scheduled, model, "scheduler.pin.correlations=iknp")
    assert plan.source.name == "iknp"


def test_a_pin_overrides_the_limit_of_errors(scheduled, model):
    strict = ("scheduler.max_error=0.004",)
    assert not carried(plan_of(scheduled, model, *strict))["layer0.gelu"].startswith("bumblebee")
    pinned = plan_of(scheduled, model, *strict, "scheduler.pin.gelu=bumblebee")
    assert carried(pinned)["layer0.gelu"].startswith("bumblebee")


@pytest.mark.parametrize(
    ("pin", "message"),
    [
        ("{softmx: bolt}", "scheduler.pin: 'softmx' is no step or operation; did you mean 'softm"),
        ("{layer7.gelu: bolt}", "'layer7.gelu' is no step"),
        ("{softmax: blot}", "scheduler.pin.softmax: nothing of that kind carries layer0.softmax"),
        ("{linear: {protocol: coefficients, prepared: true}}", "nothing of that kind carries"),
        ("{softmax: {protocl: bolt}}", "unknown key 'protocl'; did you mean 'protocol'"),
        ("{correlations: dealer}", "scheduler.pin.correlations: 'dealer'"),
        ("{correlations: {protocol: iknp, prepared: true}}", "give a name alone"),
        (
            "{attention: rotated_slots, scores: coefficients, context: rotated_slots}",
            "scheduler.pin.attention: would be ignored",
        ),
    ],
)
def test_pins_that_fit_nothing_are_refused(pin, message, scheduled, model):
    with pytest.raises(ConfigError) as error:
        plan_of(scheduled, model, f"scheduler.pin={pin}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["protocols={softmax: bolt}"], "protocols would be ignored, since scheduler.policy"),
        (["mpc.correlations=iknp"], "mpc.correlations would be ignored"),
        (["ckks.linear_phase=online"], "ckks.linear_phase would be ignored"),
        (["scheduler.policy=fixed"], "protocols missing; give all of"),
        (["scheduler=", "protocols.gelu=bolt"], "mpc.correlations missing"),
    ],
)
def test_nothing_that_a_policy_would_ignore_is_accepted(sets, message, scheduled):
    with pytest.raises(ConfigError, match="would be ignored|missing") as error:
        load_config(scheduled, overrides_of(sets))
    assert message in str(error.value)


def test_rules_without_a_policy_are_refused(tmp_path):
    path = write_tiny_config(tmp_path)
    with pytest.raises(ConfigError, match="scheduler.memory_gb would be ignored"):
        load_config(path, overrides_of(["scheduler.memory_gb=0.5"]))
    with pytest.raises(ConfigError, match="scheduler.pin would be ignored"):
        load_config(path, overrides_of(["scheduler.pin={gelu: bolt}"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("protocols.gleu=bolt", "unknown key 'gleu', this model has no such operation; did you me"),
        ("protocols.rmsnorm=octave_polynomial", "protocols: unknown key 'rmsnorm'"),
        ("protocols.gelu=", "protocols.gelu: missing; name one of bolt, bumblebee, even_poly"),
        ("protocols.multiply=", "protocols.multiply: missing; name one of ckks, ot, cheapest"),
        ("protocols.gelu=blot", "no gelu is called 'blot'; did you mean 'bolt'"),
        ("protocols.linear=coefficients", "packing coefficients cannot be prepared offline"),
    ],
)
def test_protocols_name_every_operation_of_the_model_and_no_other(change, message, tmp_path):
    path = write_tiny_config(tmp_path)
    config = load_config(path, overrides_of([change]))
    with pytest.raises(ConfigError) as error:
        make_plan(config, load_model(config).public, None)
    assert message in str(error.value)


def test_a_saved_schedule_runs_what_the_policy_chose(scheduled, model, tmp_path):
    folder = scheduled.parent
    code, output = run("plan", scheduled, "--save", folder / "saved.yaml", cwd=tmp_path)
    assert code == 0, output
    chosen = plan_of(scheduled, model)
    data = yaml.safe_load((folder / "saved.yaml").read_text())
    assert Schedule.from_file(data, "test").choices == chosen.schedule.choices
    fixed = yaml.safe_load(scheduled.read_text())
    fixed.pop("scheduler")
    config = checked({**fixed, "schedule": "saved.yaml"}, folder / "fixed.yaml")
    plan = make_plan(config, model, None)
    assert plan.digest() == chosen.digest()
    assert "schedule" in config.agreed()
    # A name changed by hand is what runs then.
    data["steps"]["layer0.softmax"] = {"protocol": "bumblebee", "multiply": "ot"}
    (folder / "edited.yaml").write_text(yaml.safe_dump(data))
    edited = checked({**fixed, "schedule": "edited.yaml"}, folder / "fixed.yaml")
    assert carried(make_plan(edited, model, None))["layer0.softmax"] == "bumblebee (ot)"
    assert edited.agreed()["schedule"] != config.agreed()["schedule"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correlations": 3}, "correlations: expected a name"),
        ({"steps": []}, "expected the keys correlations and steps"),
        ({"extra": 1}, "expected the keys correlations and steps"),
        ({"steps": {"layer0.gelu": "bolt"}}, "layer0.gelu: expected {protocol: NAME}"),
        ({"steps": {"a": {"protocol": "b", "multply": "c"}}}, "did you mean 'multiply'"),
        ({"steps": {"a": {"protocol": "b", "prepared": 1}}}, "a: prepared: expected bool"),
        ({"steps": {"a": {"protocol": "b"}}}, "step 'a' is in the schedule but not in the model"),
    ],
)
def test_wrong_schedule_files_are_named(change, message, scheduled, model, tmp_path):
    good = {"correlations": "ferret", "steps": {}}
    fixed = yaml.safe_load(scheduled.read_text())
    fixed.pop("scheduler")
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({**good, **change}))
    config = checked({**fixed, "schedule": "s.yaml"}, tmp_path / "fixed.yaml")
    with pytest.raises(ConfigError) as error:
        make_plan(config, model, None)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("step", "key", "value", "message"),
    [
        ("layer0.qkv", "multiply", "ot", "layer0.qkv: multiply: 'ot' would be ignored"),
        ("layer0.softmax", "prepared", True, "layer0.softmax: prepared: True would be ignored"),
        ("layer0.scores", "prepared", True, "layer0.scores: prepared: True would be ignored"),
        ("pool", "prepared", True, "pool: prepared: True would be ignored"),
        ("layer0.softmax", "multiply", "none_such", "no engine of products is called 'none_such'"),
    ],
)
def test_a_schedule_says_nothing_that_would_be_ignored(
    step, key, value, message, scheduled, model, tmp_path
):
    data = plan_of(scheduled, model).schedule.to_file()
    data["steps"][step][key] = value
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(data))
    fixed = yaml.safe_load(scheduled.read_text())
    fixed.pop("scheduler")
    config = checked({**fixed, "schedule": "s.yaml"}, tmp_path / "fixed.yaml")
    with pytest.raises(ConfigError) as error:
        make_plan(config, model, None)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_error": 1e-6}, "above max_error"),
        ({"offline": "forbidden"}, "works before the input"),
        ({"pin": {"softmax": "bumblebee"}}, "scheduler.pin.softmax: nothing of that kind"),
        ({"pin": {"correlations": "iknp"}}, "scheduler.pin.correlations"),
    ],
)
def test_a_servers_schedule_is_held_to_the_clients_limits(rules, message, scheduled, model):
    plan = plan_of(
        scheduled, model, "scheduler.pin.linear={protocol: token_periodic, prepared: true}"
    )
    mine = SchedulerConfig(policy="least_traffic", **{"max_error": 1.0, **rules})
    loose = SchedulerConfig(policy="least_traffic", max_error=1.0)
    nodes, catalog, run = model.graph.nodes, load_catalog(), load_config(scheduled).run
    check_limits(plan.schedule, nodes, catalog, run.model_copy(update={"scheduler": loose}))
    with pytest.raises(ConfigError) as error:
        check_limits(plan.schedule, nodes, catalog, run.model_copy(update={"scheduler": mine}))
    assert message in str(error.value)


def test_long_values_are_compared_whole_and_many_pins_fit(tiny_config):
    """Facts of a handshake are short; what is longer is compared by its hash."""
    names = [f"a_module_with_a_long_name_{i}" for i in range(20)]
    facts = []
    for last in ("x", "y"):
        config = load_config(tiny_config, overrides_of([f"plugins=[{', '.join(names)}, {last}]"]))
        facts.append(_fact(config.agreed()["plugins"]))
    assert facts[0] != facts[1]
    pins = {f"layer{i}.gelu": {"protocol": "bolt", "multiply": "ot"} for i in range(1000)}
    raw = yaml.safe_load(with_policy(tiny_config, policy="least_traffic", pin=pins).read_text())
    agreed = checked(raw, tiny_config).agreed()
    assert sum(len(k) + len(_fact(v)) for k, v in agreed.items()) < HANDSHAKE_BYTES // 2


def test_a_reports_config_is_a_config(tiny_config):
    dumped = load_config(tiny_config).run.model_dump(mode="json")
    assert checked(dumped, tiny_config).agreed() == load_config(tiny_config).agreed()


def test_a_missing_schedule_file_is_named(scheduled):
    fixed = yaml.safe_load(scheduled.read_text())
    fixed.pop("scheduler")
    with pytest.raises(ConfigError, match=r"schedule: .*none.yaml: cannot be read"):
        checked({**fixed, "schedule": "none.yaml"}, scheduled)


def test_plans_as_json_hold_every_row(scheduled, tmp_path):
    code, output = run("plan", scheduled, "--json", "--tokens", 5, cwd=tmp_path)
    assert code == 0, output
    data = json.loads(output)
    assert {row["name"] for row in data["rows"]} >= {"correlations", "layer0.qkv", "pool"}
    assert [r["shape"] for r in data["rows"] if r["name"] == "layer0.softmax"] == [[3, 5, 5]]
    assert data["total"]["rounds"] == data["offline"]["rounds"] + data["online"]["rounds"]
    assert data["schedule"]["steps"]["pool"]["protocol"] == "masked_sum"
    assert data["predicted_seconds"] is None


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["model.tokens"], "--set model.tokens: give KEY=VALUE"),
        (["model.tokns=5"], "--set model.tokns=5: unknown key 'tokns'; did you mean 'tokens'"),
        (["model.tokens=many"], "--set model.tokens=many: model.tokens: input should be a valid"),
        (["model.tokens.x=1"], "model.tokens has no keys below it"),
        (["name=[1"], "quote the value or mend it"),
        (["link=wan9"], "--set link=wan9: link: input should be 'none'"),
        (["model.tokens=8", "model.tokens=9"], "--set model.tokens=8 sets 'model.tokens' already"),
        (["model.tokens=8", "model={tokens: 9}"], "--set model.tokens=8 sets 'model.tokens' alr"),
        (["ranges={margin: 2.0, margin: 3.0}"], "key 'margin' stands twice"),
    ],
)
def test_wrong_overrides_name_the_option(sets, message, tiny_config):
    with pytest.raises(ConfigError) as error:
        load_config(tiny_config, overrides_of(sets))
    assert message in str(error.value)


def test_overrides_are_as_if_the_file_said_so(tiny_config):
    found = load_config(tiny_config, overrides_of(["ckks.exact=true"], tokens=6, link="lan")).run
    assert (found.model.tokens, found.link, found.ckks.exact) == (6, "lan", True)
    custom = load_config(tiny_config, overrides_of(["link={bandwidth_mbps: 50, latency_ms: 1}"]))
    assert custom.run.link_model() == LinkModel("custom", 50e6, 1e-3)
    sized = load_config(tiny_config, overrides_of(["model.path=", "model.shape.hidden=24"])).run
    assert sized.model.shape is not None
    assert sized.model.shape.sizes() == {"hidden": 24}


def test_the_old_name_of_ranges_is_read_with_a_warning(tiny_config):
    text = tiny_config.read_text()
    tiny_config.write_text(text.replace("ranges:", "calibration:"))
    with pytest.warns(FutureWarning, match="calibration is now called ranges"):
        found = load_config(tiny_config)
    assert found.run.ranges.margin == 4.0
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, output = run("plan", tiny_config, cwd=tiny_config.parent)
    assert code == 0
    assert "calibration is now called ranges" in " ".join(output.split())
    both = text + "\ncalibration: {margin: 2.0}\n"
    tiny_config.write_text(both)
    with pytest.raises(ConfigError, match="calibration and ranges: the first is the old name"):
        load_config(tiny_config)


@pytest.mark.long
def test_a_pinned_schedule_between_two_processes(scheduled, tmp_path):
    sets = ["--set", "scheduler.pin.gelu=bolt", "--set", "model.tokens=5"]
    code, output = run("run", scheduled, *sets, "--truncate", "--out", "out", cwd=tmp_path)
    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {s["protocol"] for s in report["steps"] if s["op"] == "gelu"} == {"bolt"}
    assert np.isfinite(report["output"]).all()
    assert report["accuracy"]["cosine"] > 0.99
