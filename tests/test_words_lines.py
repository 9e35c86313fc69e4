"""Files with texts: what ends a line, marks at their beginning, bytes that are no text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.config.files import read_text, text_lines
from hybrid.config.loading import load_config, parse_yaml
from hybrid.config.overrides import overrides_of
from hybrid.config.texts import read_texts
from hybrid.models.architecture import read_model_config
from hybrid.models.decoders import read_tokenizer
from hybrid.models.ranges import default_lines, read_sentences
from transport.errors import ConfigError

INSIDE = ["\u2028", "\u2029", "\x85", "\x0c", "\x0b", "\x1c", "\x1d", "\x1e"]
ENDS = ["\n", "\r\n", "\r"]
ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "experiments" / "benchmarks"
DECODER = ROOT / "tests" / "data" / "decoders" / "llama"


@pytest.mark.parametrize("inside", INSIDE)
@pytest.mark.parametrize("end", ENDS)
def test_only_ends_of_lines_end_texts(inside, end, tiny_config, tmp_path):
    whole = f"one{inside}half"
    (tiny_config.parent / "texts.txt").write_bytes(f"{whole}{end}{end}two{end}".encode())
    assert read_texts(load_config(tiny_config)) == [whole, "two"]
    samples = tmp_path / "samples.txt"
    samples.write_bytes(f"# no sample{end}{whole}{end}two".encode())
    assert read_sentences(samples) == [whole, "two"]


def test_prompts_of_the_benchmark_are_such_lines(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from prompts import prompts_of

    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffone\u2028half\r\ntwo\n".encode())
    assert prompts_of(path) == ["one\u2028half", "two"]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tiny_config, tmp_path):
    folder = tiny_config.parent
    (folder / "texts.txt").write_text("one\ntwo\n", encoding="utf-8-sig")
    assert read_texts(load_config(tiny_config)) == ["one", "two"]
    (tmp_path / "s.txt").write_text("# no sample\none\n", encoding="utf-8-sig")
    assert read_sentences(tmp_path / "s.txt") == ["one"]
    # Elsewhere it is a character like others.
    assert text_lines("a\ufeffb\n") == ["a\ufeffb"]


def test_configs_with_a_byte_order_mark_and_windows_lines(tiny_config):
    before = load_config(tiny_config).run
    text = tiny_config.read_text(encoding="utf-8")
    tiny_config.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert load_config(tiny_config).run == before
    assert parse_yaml("\ufeffa: 1\n", Path("<text>")) == {"a": 1}
    # Behind a comment PyYAML would refuse it as a character that starts no word.
    assert overrides_of(["name=\ufeffb"])[0].value == "b"


def test_settings_of_models_with_a_byte_order_mark(tmp_path):
    shutil.copytree(DECODER, tmp_path / "model")
    for path in (tmp_path / "model").glob("*.json"):
        if path.name != "tokenizer.json":
            path.write_bytes(path.read_text(encoding="utf-8").encode("utf-8-sig"))
    assert read_model_config(tmp_path / "model") == read_model_config(DECODER)
    assert read_tokenizer(tmp_path / "model").end_ids == read_tokenizer(DECODER).end_ids


def test_a_template_with_a_byte_order_mark_is_refused(tmp_path):
    shutil.copytree(DECODER, tmp_path / "model")
    template = json.loads((DECODER / "tokenizer_config.json").read_text(encoding="utf-8"))
    file = tmp_path / "model" / "chat_template.jinja"
    file.write_text(template["chat_template"], encoding="utf-8-sig")
    with pytest.raises(ConfigError, match=r"chat_template.jinja: .*byte-order mark.*; remove it"):
        read_tokenizer(tmp_path / "model")
    file.write_text(template["chat_template"], encoding="utf-16")
    with pytest.raises(ConfigError, match=r"chat_template.jinja: .*UTF-16"):
        read_tokenizer(tmp_path / "model")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("zwei Wörter\n".encode("utf-16"), "it is UTF-16, not UTF-8; save it as UTF-8"),
        (b"\xfe\xff\x00a", "it is UTF-16"),
        ("zwei Wörter\n".encode("utf-32"), "it is UTF-32"),
        ("one\ntwo\n".encode("utf-16-le"), "a NUL byte in line 1; save it as UTF-8"),
        (b"one\ntwo\r\nthr\x00ee\n", "a NUL byte in line 3"),
        ("eins\r\nzwei\rWörter\n".encode("latin-1"), "byte 0xf6 in line 3 is not UTF-8 text"),
    ],
)
def test_what_is_no_text_is_named(data, message, tiny_config, tmp_path):
    path = tiny_config.parent / "texts.txt"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"texts: .*texts.txt cannot be read \(.*{message}"):
        read_texts(load_config(tiny_config))
    with pytest.raises(ConfigError, match=message):
        read_sentences(path)
    with pytest.raises(ConfigError, match=message):
        load_config(path)
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_model_config(tmp_path)


def test_a_very_long_line_is_one_text(tiny_config):
    line = "word " * (1 << 18) + "end"
    (tiny_config.parent / "texts.txt").write_text(line, encoding="utf-8")
    assert read_texts(load_config(tiny_config)) == [line]


def test_the_samples_of_the_package_are_as_before():
    assert len(default_lines("sentences.txt")) > 8
    assert not any(line.startswith("#") for line in default_lines("sentences.txt"))


def test_files_are_read_and_written_in_utf8_whatever_the_locale(tmp_path):
    """In a process whose locale is ASCII: every `open` without an encoding warns."""
    program = (
        "import sys; from pathlib import Path\n"
        "from hybrid.testing.tiny import write_tiny_config\n"
        "import hybrid\n"
        "from hybrid.machine.prices import MachinePrices, load, save\n"
        "from hybrid.api import Plan\n"
        "path = write_tiny_config(Path(sys.argv[1]))\n"
        "path.write_text(path.read_text(encoding='utf-8').replace('name: tiny', 'name: t\\xfcny'),"
        " encoding='utf-8')\n"
        "hybrid.plan(path).save(Path(sys.argv[1]) / 'schedule.yaml')\n"
        "prices = MachinePrices({}, 0.0, 1.0, 'Prozess\\xf6r', 'today', 0.0, 0.0)\n"
        "save(prices, Path(sys.argv[1]) / 'calibration.json')\n"
        "assert load(Path(sys.argv[1]) / 'calibration.json') == prices\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-W", "always::EncodingWarning"]
        + ["-X", "utf8=0", "-c", program, str(tmp_path / "tiny")],
        env=os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        encoding="utf-8",
    )
    warned = [line for line in done.stderr.split("\n") if "EncodingWarning" in line]
    own = [line for line in warned if line.startswith(str(ROOT)) and ".venv" not in line]
    assert done.returncode == 0, done.stderr[-2000:]
    assert not own
    assert "tüny" in read_text(tmp_path / "tiny" / "schedule.yaml")
