"""Words on a console, whatever they and its encoding are; reports are on disk before them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hybrid.cli import commands, generate
from hybrid.cli.app import main
from hybrid.cli.progress import GenerationDisplay, make_console, say
from hybrid.config.loading import load_config
from hybrid.config.overrides import overrides_of
from hybrid.reports.terminal import rich_table
from tests.comparison_data import made_reports
from transport.errors import ConfigError
from transport.local import memory_pair

ROOT = Path(__file__).resolve().parent.parent
WORDS = "keys[prod] [/] :key: \x1b[31mred\x07 Ω \udcff \\"
ESCAPED = ["keys[prod] [/] :key: ", "\\x1b[31mred\\x07", "\\udcff \\"]


class Screen:
    """A standard output of some encoding, which raises at what it has no bytes for."""

    def __init__(self, encoding: str) -> None:
        self.bytes = io.BytesIO()
        self.stream = io.TextIOWrapper(self.bytes, encoding=encoding, errors="strict")

    def text(self) -> str:
        self.stream.flush()
        return self.bytes.getvalue().decode(self.stream.encoding)

    def take_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the test itself: between set-up and test the runner puts its own there."""
        monkeypatch.setattr(sys, "stdout", self.stream)


@pytest.fixture(params=["ascii", "latin-1", "utf-8"])
def screen(request):
    return Screen(request.param)


def test_a_console_shows_everything(screen, monkeypatch):
    screen.take_over(monkeypatch)
    console = make_console()
    say(console, WORDS)
    console.print(rich_table(["a"], [[WORDS]]))
    display = GenerationDisplay(console)
    display.prompt(WORDS)
    text = screen.text()
    for part in ESCAPED:
        assert text.count(part) >= 3
    assert "\x1b" not in text
    assert text.count("Ω" if screen.stream.encoding == "utf-8" else "\\u03a9") == 3


def test_a_long_line_is_one_line_in_a_file(screen, monkeypatch):
    screen.take_over(monkeypatch)
    say(make_console(), "report: " + "long " * 100)
    assert screen.text().count("\n") == 1


def test_consoles_of_others_have_no_markup_and_no_emoji_either():
    stream = io.StringIO()
    console = Console(file=stream, width=170, force_terminal=True, color_system=None)
    say(console, WORDS)
    console.print(rich_table(["a"], [[WORDS]]))
    for part in ESCAPED:
        assert stream.getvalue().count(part) == 2


def known_ranges(reports):
    """As a whole run has them."""
    return [{**report, "ranges": None} for report in reports]


def recorded_run(monkeypatch, tiny_config, tmp_path, text):
    """`hybrid run`, but for its processes."""
    config = load_config(tiny_config, overrides_of(["name='Ω [prod] :key:'"]))
    reports = known_ranges(made_reports(config, 2))
    monkeypatch.setattr(commands, "measured_reports", lambda *_: reports)
    commands.run(config, [text, text], tmp_path / "out [prod]:key:", False)


def test_a_run_ends_on_any_terminal(screen, monkeypatch, tiny_config, tmp_path):
    screen.take_over(monkeypatch)
    recorded_run(monkeypatch, tiny_config, tmp_path, "a \u2028 [/] :x:")
    out = tmp_path / "out [prod]:key:"
    text = screen.text()
    assert text.count("of 2: a \\u2028 [/] :x:") == 2
    assert f"report: {out / 'text2' / 'report.md'}" in text
    assert (out / "text2" / "report.json").is_file()


def test_reports_are_on_disk_before_anything_is_printed(monkeypatch, tiny_config, tmp_path):
    def broken(*_):
        files = {str(p.relative_to(out)) for p in out.rglob("report.*")}
        assert files == {f"{a}report.{b}" for a in ("", "text2/") for b in ("json", "md")}
        raise BrokenPipeError

    out = tmp_path / "out [prod]:key:"
    monkeypatch.setattr(commands, "print_report", broken)
    with pytest.raises(BrokenPipeError):
        recorded_run(monkeypatch, tiny_config, tmp_path, "of a")
    json.loads((out / "report.json").read_text(encoding="utf-8"))


def test_a_full_disk_does_not_take_what_was_measured(screen, monkeypatch, tiny_config, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    screen.take_over(monkeypatch)
    monkeypatch.setattr("hybrid.reports.files.write_text", full)
    with pytest.raises(ConfigError, match=r"--out .*cannot be written \(No space left"):
        recorded_run(monkeypatch, tiny_config, tmp_path, "of a")
    assert screen.text().count("cosine 0.999999") == 2


def test_a_second_run_with_fewer_texts_leaves_no_report_of_the_first(
    monkeypatch, tiny_config, tmp_path
):
    recorded_run(monkeypatch, tiny_config, tmp_path, "of a")
    config = load_config(tiny_config)
    monkeypatch.setattr(
        commands, "measured_reports", lambda *_: known_ranges(made_reports(config, 1))
    )
    out = tmp_path / "out [prod]:key:"
    commands.run(config, ["of a"], out, False)
    assert {path.name for path in out.rglob("report.*")} == {"report.json", "report.md"}
    assert not (out / "text2").exists()


def test_prompts_have_the_same_writer(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(generate, "print_generation_report", lambda *a: shown.append(a))
    monkeypatch.setattr(
        "hybrid.cli.writing.generation_markdown", lambda _r: "# Private generation: a"
    )
    for count in (2, 1):
        folder = generate.checked_folder(tmp_path, count, "prompt")
        reports = [{"config": {}, "generation": {}} for _ in range(count)]
        generate._hand_over(make_console(), folder, reports)
        assert (tmp_path / "prompt2").exists() == (count == 2)
    assert [str(place.relative_to(tmp_path)) for *_, place in shown] == [".", "prompt2", "."]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "\udcff\x1b[2J.yaml"], "hybrid: \\udcff\\x1b[2J.yaml: cannot be read"),
        (["plan", "tiny.yaml", "--set", "\udcff"], "hybrid: --set \\udcff: give KEY=VALUE"),
        (
            ["plan", "tiny.yaml", "--set", "name=\udcff"],
            "name=\\udcff: unacceptable character",
        ),
        (["run", "tiny.yaml", "--text", "of \udcff"], "text: holds characters that are no Unicode"),
        (["compare", "tiny.yaml", "--out", "out", "--text", "\ud800"], "no Unicode text"),
        (["plan", "tiny.yaml", "--link", "x" * 10**6], "link: input should be 'none', 'lan'"),
        (["plan", "tiny.yaml", "--set", f"name={'x' * 10**6}"], "name: string should have at most"),
        (["plan", "tiny.yaml", "--set", f"{'x' * 10**6}=1"], "unknown key 'xxx"),
    ],
)
def test_arguments_without_a_meaning_are_one_short_line(
    arguments, message, monkeypatch, tiny_config, capsys
):
    monkeypatch.chdir(tiny_config.parent)
    monkeypatch.setattr(sys, "argv", ["hybrid", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert len(said) < 1500
    assert said.strip().isprintable()


def test_bytes_of_no_text_and_an_ascii_terminal(tiny_config):
    """As a shell hands them over, with `--text $'\\xff'`."""
    done = subprocess.run(
        [sys.executable, "-m", "hybrid.cli", "plan", b"tiny.yaml", b"--set", b"name=\xffa"],
        cwd=tiny_config.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert b"\\udcffa" in done.stderr


def test_the_peer_is_told_words_without_bytes():
    client, server = memory_pair()
    client.abort("of \udcff")
    with pytest.raises(Exception, match=r"client stopped: of \\udcff"):
        server.recv()
