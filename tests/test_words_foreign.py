"""Values of configs, files and peers in messages: cut, and without codes for terminals."""

from __future__ import annotations

import pytest

import hybrid
from hybrid.config.loading import checked, load_config, parse_yaml
from hybrid.config.overrides import overrides_of
from hybrid.models.architecture import read_model_config
from hybrid.models.bert import BertArchitecture
from hybrid.models.loading import load_model
from hybrid.models.ranges import ranges_from_public
from hybrid.planning.schedule import Schedule
from transport.endpoint import Endpoint
from transport.errors import ConfigError, HybridError
from transport.foreign import cut, printable, shown

HUGE = "\x1b[2J" + "x" * 100_000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"), (5, "5"), (None, "None"), ([1, "b"], "[1, 'b']"), ({"b": 1, "a": 2.5},
        "{'b': 1, 'a': 2.5}"), (True, "True"), ("\x1b[2J\n\u202e", "'\\x1b[2J\\n\\u202e'"),
        ("\udcff", "'\\udcff'"), (b"\x00", "b'\\x00'"), ({}, "{}"), ((), "()"), (1e400, "inf"),
    ],
)  # fmt: skip
def test_short_values_are_shown_whole(value, text):
    assert shown(value) == text


class Hostile:
    def __repr__(self):
        return "\x1b[31m" + "y" * 1000


class Broken:
    def __repr__(self):
        raise RuntimeError("\x1b")


LONG = [HUGE, [HUGE] * 50, {HUGE: HUGE}, list(range(10**5)), 10**10_000, [[[[[[1]]]]]]]
LONG += [b"\xff" * 10**5, {i: [i] * 100 for i in range(1000)}, Hostile(), Broken()]
LONG += ["\U0010ffff" * 200]


@pytest.mark.parametrize("value", LONG, ids=range(len(LONG)))
def test_long_values_are_cut(value):
    text = shown(value)
    assert len(text) <= 122
    assert text.isprintable()


def test_words_are_cut_as_they_are():
    assert cut("a\x1b b") == "a\\x1b b"
    assert cut("x" * 121) == "x" * 120 + ".."
    assert cut("x" * 120) == "x" * 120
    assert len(cut("\x1b" * 120)) <= 122
    assert printable("a\n\tb\u3000\xa0c", keep="\n") == "a\n\\tb\u3000\xa0c"


def message(call):
    with pytest.raises(HybridError) as error:
        call()
    text = str(error.value)
    assert len(text) < 1500
    assert "\x1b" not in text
    return text


def with_value(tiny_config, key, value):
    """The config as plain data, with this value."""
    raw = parse_yaml(tiny_config.read_text(encoding="utf-8"), tiny_config)
    table = raw
    *outer, last = key.split(".")
    for name in outer:
        table = table.setdefault(name, {})
    table[last] = value
    return raw


KEYS = ["name", "model.path", "model.tokens", "model.pooling", "texts", "ckks.parameters", "link"]
KEYS += ["mpc.correlations", "protocols.gelu", "protocols.multiply", "ranges.sentences"]
KEYS += ["plugins", "scheduler.policy", HUGE, f"protocols.{HUGE}", f"model.{HUGE}"]


@pytest.mark.parametrize(
    "value", [HUGE, [HUGE], {HUGE: 1}, 10**5000], ids=["text", "list", "table", "int"]
)
@pytest.mark.parametrize("key", KEYS, ids=[key[:20].replace("\x1b", "") for key in KEYS])
def test_values_of_a_config(key, value, tiny_config):
    raw = with_value(tiny_config, key, value)

    def whole():
        config = checked(raw, tiny_config)
        hybrid.plan(config)
        from hybrid.config.texts import read_texts

        read_texts(config)

    message(whole)


def test_words_of_yaml():
    for text in (f"a: !<{'x' * 10**5}> 1", f"a: *{'x' * 10**5}", f"{'x' * 900}: 1\n{'x' * 900}: 2"):
        message(lambda text=text: parse_yaml(text, "<text>"))
        message(lambda text=text: overrides_of([f"name={text}"]))


def test_values_of_model_files(tiny_config, tmp_path):
    import json
    import shutil

    for key, value in (("model_type", HUGE), ("hidden_act", HUGE), ("hidden_size", HUGE)):
        folder = tmp_path / key
        shutil.copytree(tiny_config.parent / "model", folder)
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**content, key: value}), encoding="utf-8")
        read_model_config(folder)
        config = load_config(tiny_config, overrides_of([f"model.path={folder}"]))
        message(lambda config=config: load_model(config))


def test_values_of_peers():
    message(lambda: ranges_from_public({HUGE: 1}))
    message(lambda: BertArchitecture.from_public({}, "handshake"))
    message(lambda: Endpoint.parse(HUGE))


def test_values_of_a_schedule():
    def file(step):
        return {"correlations": "ferret", "steps": step}

    for step in ({HUGE: 1}, {"a": {"protocol": "b", HUGE: 1}}, {"a": {"protocol": [HUGE]}},
                 {"a": HUGE}):  # fmt: skip
        message(lambda step=step: Schedule.from_file(file(step), "schedule"))
    with pytest.raises(ConfigError, match=r"step 'xxx.*\.\..* is in the schedule"):
        Schedule("ferret", {"x" * 500: None}).check_complete([])
