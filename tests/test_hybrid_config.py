"""Configs are strict, and every mistake is one line that names place, value and remedy."""

import pytest

from hybrid.config.loading import checked, load_config
from transport.errors import ConfigError


def changed(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_complete_config_loads_and_hashes(tiny_config):
    agreed = load_config(tiny_config).agreed()
    assert agreed == load_config(tiny_config).agreed()
    assert agreed["model.tokens"] == "8"
    assert agreed["protocols.gelu"] == '"even_polynomial"'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("baby_steps", "babysteps", r"ckks: unknown key 'babysteps'; did you mean 'baby_steps'"),
        ("runtime:", "run_time:", r"unknown key 'run_time'; did you mean 'runtime'"),
        ("output_bits: 6", "output_bits: 99", r"mpc.output_bits: .* or equal to 6, got 99"),
        ("output_bits: 6", "output_bits: yes", r"mpc.output_bits: .*integer, got True"),
        ("margin: 4.0", "margin: 0.5", r"ranges.margin: .*got 0.5"),
        ("name: tiny", "nam: tiny", r"unknown key 'nam'|name: missing"),
        ("name: tiny", "", r"name: missing; add it"),
        ("name: tiny", "name: [", r"not valid YAML"),
        ("name: tiny", "name: tiny\nname: other", r"key 'name' stands twice; keep one"),
        ("name: tiny", "name: tiny\nlink: {bandwidth_mbps: 5, latenzy_ms: 1}", r"link"),
        ("name: tiny", "name: tiny\nlink: wan9", r"link.*'wan9'"),
    ],
)
def test_mistakes_are_named(tiny_config, old, new, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(changed(tiny_config, old, new))
    assert "\n" not in str(error.value)
    assert str(tiny_config) in str(error.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(binary)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("timeout_s: 600.0", "timeout_s: 61.0", True),
        ("model: {path: model", "model: {path: ./model", True),
        ("texts: texts.txt", "texts: other.txt", True),
        ("multiply: cheapest", "multiply: ot", False),
        ("output_bits: 6", "output_bits: 5", False),
        ("tokens: 8", "tokens: 7", False),
    ],
)
def test_parties_agree_on_protocols_but_not_on_local_matters(tiny_config, old, new, same):
    before = load_config(tiny_config).agreed()
    after = load_config(changed(tiny_config, old, new)).agreed()
    assert (before == after) == same


def test_a_missing_model_folder_is_named(tiny_config):
    loaded = load_config(changed(tiny_config, "path: model", "path: nowhere"))
    with pytest.raises(ConfigError, match="'nowhere' does not exist; run `hybrid fetch"):
        _ = loaded.model_folder


@pytest.mark.parametrize(
    "text",
    [
        "name: 2020-99-99",
        "name: 0x_",
        "name: !!float abc",
        "name: !!bool x",
        "a: &a {b: *a}",
        "a: &a [1]\nb: [*a, *a]",
        "a: " + "[" * 5000,
        "? [1]\n: 2",
    ],
)
def test_yaml_that_is_none_is_one_line(text, tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"odd.yaml") as error:
        load_config(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("value", ["a\0b", "~nosuchuser/x", "x" * 5000])
def test_words_that_are_no_path_are_named(value, tiny_config):
    config = load_config(tiny_config)
    with pytest.raises(ConfigError, match="is no path"):
        config.resolve(value)


def test_a_table_within_itself_is_refused(tiny_config):
    endless: dict[str, object] = {}
    endless["a"] = endless
    with pytest.raises(ConfigError, match="nested too deeply"):
        checked(endless, tiny_config)


def test_wrong_values_are_shown_in_part(tiny_config):
    with pytest.raises(ConfigError, match="got") as error:
        load_config(changed(tiny_config, "tokens: 8", f"tokens: {'x' * 1000}"))
    assert len(str(error.value)) < 400
