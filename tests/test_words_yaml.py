"""Numbers and words of YAML: as a user means them, or refused where nobody can tell."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

import hybrid
from hybrid.config.loading import load_config, parse_yaml
from hybrid.config.overrides import overrides_of
from hybrid.config.yaml_text import dumped, parsed
from transport.errors import ConfigError

PLACE = Path("<text>")


FLOATS = ["1e-3", "1e3", "1E3", "1e+3", ".5e-2", "0.5e2", "1.5e3", "-1e-3", "+1e3", "-.5", "+.5"]
FLOATS += ["1.", "1.e2", "0.0", "2.5", "1.0e-9", "12e4"]


@pytest.mark.parametrize("word", FLOATS)
def test_floats_are_those_of_yaml_1_2(word):
    found = parsed(f"a: {word}")["a"]
    assert type(found) is float
    assert found == float(word)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1", 1), ("-17", -17), ("0", 0), ("00", 0), ("07", 7), ("0x1f", 31), ("1_000", 1000),
        ("1_000.5", 1000.5), ("yes", True), ("off", False), ("On", True), ("no", False),
        ("true", True), ("~", None), ("null", None), ("", None), ("e3", "e3"), ("1e", "1e"),
        ("1e3x", "1e3x"), ("1.2.3", "1.2.3"), ("08", "08"), ("0o17", "0o17"), ("y", "y"),
        ("-", [None]), ("a:b", "a:b"), ("tcp://h:80", "tcp://h:80"), ("'1e3'", "1e3"),
        ('"010"', "010"), ("'1:30'", "1:30"), ("1e-3 s", "1e-3 s"),
    ],
)  # fmt: skip
def test_everything_else_is_as_before(word, value):
    found = parsed(f"a: {word}" if word != "-" else "a:\n-")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("010", "'010' is 8 in YAML 1.1 and another number in YAML 1.2"),
        ("-0_10", "'-0_10' is -8 in YAML 1.1 and another number"),
        ("1:30", "'1:30' is 90 in YAML 1.1 and a text in YAML 1.2"),
        ("1:30.5", "'1:30.5' is 90.5 in YAML 1.1 and a text"),
        ("-190:20:30", "'-190:20:30' is -685230 in YAML 1.1 and a text"),
    ],
)
def test_what_has_two_values_is_refused(word, message):
    with pytest.raises(ConfigError, match=f"<text>:2: not valid YAML; {message}.*; write the num"):
        parse_yaml(f"b: 1\na: {word}\n", PLACE)
    with pytest.raises(ConfigError, match=message):
        overrides_of([f"model.tokens={word}"])


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029"])
def test_ends_of_lines_of_one_yaml_alone_are_refused(end):
    """To YAML 1.1 the comment has ended and a key begins."""
    message = f"U\\+{ord(end):04X} in line 2 ends a line in YAML 1.1 and none in YAML 1.2"
    with pytest.raises(ConfigError, match=message):
        parse_yaml(f"name: a\n# comment{end}link: wan3\n", PLACE)
    with pytest.raises(ConfigError, match=f"U\\+{ord(end):04X} in line 1 .*double quotes"):
        overrides_of([f"generation.system=one{end}two"])
    escaped = f'system: "one\\u{ord(end):04x}two"'
    assert parse_yaml(escaped, PLACE) == {"system": f"one{end}two"}


def test_numbers_of_a_config(tiny_config):
    assert load_config(tiny_config, overrides_of(["ranges.margin=1e1"])).run.ranges.margin == 10.0
    with pytest.raises(ConfigError, match=r"model.tokens: .*integer, got 16.0; write it without"):
        load_config(tiny_config, overrides_of(["model.tokens=1.6e1"]))


@pytest.mark.parametrize("word", ["no", "12", "1e5", "2026-11-27"])
def test_words_that_yaml_takes_for_something_else_are_explained(word, tiny_config):
    with pytest.raises(ConfigError, match=r"name: .*valid string, got .*; quote it, since YAML"):
        load_config(tiny_config, overrides_of([f"name={word}"]))
    assert load_config(tiny_config, overrides_of([f"name='{word}'"])).run.name == word


@pytest.mark.parametrize("word", [".inf", "1e400", "-.inf", ".nan"])
@pytest.mark.parametrize("key", ["runtime.weights_memory_gb", "link.latency_ms"])
def test_numbers_that_are_not_finite_are_refused(word, key, tiny_config):
    sets = [f"{key}={word}", *(["link.bandwidth_mbps=1.0"] if "link" in key else [])]
    with pytest.raises(ConfigError, match=r"finite number|greater than"):
        load_config(tiny_config, overrides_of(sets))


WORDS = ["1e3", ".5e-2", "-.5", "010", "1:30", "yes", "08", "~", "2026-11-27", "a: b", "1_000"]
WORDS += ["a\u2028b", "a\x85b", "\ufeffa", "\udcff", "é", "'", "#", "x" * 200, "a\nb", ""]


@pytest.mark.parametrize("word", WORDS)
def test_what_is_written_is_read_as_the_same_word(word):
    data = {"b": word, "a": [word, {word: 1.5}]}
    assert parsed(dumped(data)) == data


@pytest.mark.parametrize("number", [1e-9, 1e300, 0.1, 5, -3.0, math.pi])
def test_what_is_written_is_read_as_the_same_number(number):
    found = parsed(dumped({"a": number}))["a"]
    assert found == number
    assert type(found) is type(number)


def test_others_loaders_are_not_changed():
    assert yaml.safe_load("a: 1e3") == {"a": "1e3"}


def test_a_name_is_no_yaml_of_the_schedule_that_it_is_in(tiny_config, tmp_path):
    config = hybrid.load(tiny_config, set=['name="tiny\\nsteps: {}\\n# \\u2028x: 1"'])
    hybrid.plan(config).save(tmp_path / "schedule.yaml")
    other = ["protocols: ~", "mpc.correlations: ~", "ckks.linear_phase: ~"]
    sets = [line.replace(": ", "=") for line in other]
    again = hybrid.load(tiny_config, set=[*sets, f"schedule={tmp_path / 'schedule.yaml'}"])
    assert hybrid.plan(again).to_dict()["plan_hash"]
