"""Names, texts and values from outside in Markdown, HTML and names of files."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from hybrid.cli import commands
from hybrid.config.loading import load_config
from hybrid.config.overrides import overrides_of
from hybrid.reports.comparison.configs import Options, slug
from hybrid.reports.comparison.run import run_comparison
from hybrid.reports.markdown import plain_cell, quoted, table_lines
from hybrid.reports.run_report import markdown
from tests.comparison_data import made_reports, quiet_hooks, write_pair
from transport.errors import ConfigError

EVIL = "a|b `c` <i>d</i> **e** [f](javascript:g) \\ _h_\n# i\x1b\u202e & ~~j~~"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a *b*\n<i> `c`", "a \\*b\\* \\<i\\> \\`c\\`"),
        ("_a_ b_c __d__", "\\_a\\_ b_c \\_\\_d\\_\\_"),
        ("# a", "\\# a"),
        ("- a", "\\- a"),
        ("1. a", "1\\. a"),
        ("12) a", "12\\) a"),
        ("-0.5", "-0.5"),
        ("1.5 (2 times)", "1.5 (2 times)"),
        ("[a](b)", "\\[a\\](b)"),
        ("\x1b[1m\u202e", "\\\\x1b\\[1m\\\\u202e"),
    ],
)
def test_a_cell_is_a_line_without_a_meaning(text, cell):
    assert plain_cell(text) == cell


def test_a_table_keeps_its_cells():
    lines = table_lines(["a", "b"], [["x|y", "one\ntwo\r\u2028three\x1b"]])
    assert lines[-1] == "| x\\|y | one two\\r\\u2028three\\x1b |"
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3, 3, 3]


def test_a_block_is_indented_to_its_end():
    assert quoted("a\n<b>\r\u2028c") == ["    a", "    <b>\\r\\u2028c"]


def evil_name(tiny_config):
    text = EVIL.replace("\\", "\\\\").replace("\n", "\\n").replace("\x1b", "\\e")
    return load_config(tiny_config, overrides_of([f'name="{text}"']))


def test_markdown_of_a_request(tiny_config):
    (report,) = made_reports(evil_name(tiny_config), 1)
    report |= {"model": EVIL}
    report["environment"] = {"threads": EVIL}
    text = markdown(report)
    assert "\x1b" not in text
    assert "\u202e" not in text
    lines = text.split("\n")
    assert [line for line in lines if line.startswith("# ")] == [lines[0]]
    for place in (lines[0], lines[2], lines[-2]):
        assert "a|b \\`c\\` \\<i\\>d\\</i\\> \\*\\*e\\*\\*" in place
        assert "\\_h\\_ # i\\\\x1b\\\\u202e \\& \\~\\~j\\~\\~" in place


class Tags(HTMLParser):
    """Every tag of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs):
        del attrs
        self.seen.append(tag)


def test_pages_of_a_comparison(tmp_path):
    paths = write_pair(tmp_path)
    name = "<img src=x> `a`|*b* \\e[31m\\u202e 漢"
    for path, more in zip(paths, "12", strict=True):
        text = path.read_text(encoding="utf-8").replace("name: tiny", f'name: "{name}{more}"')
        path.write_text(text, encoding="utf-8")

    def measure(session, ids):
        if session.config.run.name.endswith("2"):
            raise ConfigError(f"broken: {EVIL}")
        return made_reports(session.config, len(ids))

    run_comparison(paths, Options(tmp_path / "out", repetitions=1), quiet_hooks(measure))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert not {"img", "i"} & set(tags.seen)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for steering in ("\x1b", "\u202e"):
        assert steering not in page
        assert steering not in text
    assert "&lt;img src=x&gt;" in page
    assert not re.search(r"(?<!\\)<(img|i)\b", text)
    tables = [line for line in text.split("\n") if line.startswith("|")]
    rows = [line for line in tables if "img src" in line]
    assert rows
    assert all("\\`a\\`\\|\\*b\\*" in row for row in rows)
    assert [line for line in text.split("\n") if line.startswith("# ")] == [text.split("\n")[0]]


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "..", ".", "a/../../b", "~/x", "x\x00y", "-x", "a\\b", "\udcff"]
)
def test_a_name_is_one_part_of_a_path(name, tmp_path):
    found = slug(name)
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", found)
    assert (tmp_path / found).resolve().parent == tmp_path.resolve()


def test_a_run_writes_below_its_own_folder(tiny_config, tmp_path, monkeypatch):
    config = load_config(tiny_config, overrides_of(["name=../../x"]))
    monkeypatch.chdir(tmp_path)
    reports = [{**report, "ranges": None} for report in made_reports(config, 1)]
    monkeypatch.setattr(commands, "measured_reports", lambda *_: reports)
    before = set(tmp_path.iterdir())
    commands.run(config, ["of a"], None, False)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "runs"}
    assert {path.parent.name for path in tmp_path.glob("runs/*/report.json")} == {"x"}


def test_a_comparison_never_writes_over_the_configs_of_a_user(tmp_path):
    """With --out beside them: DIR/configs would be the user's own."""
    (tmp_path / "configs").mkdir()
    paths = write_pair(tmp_path / "configs")
    before = [path.read_bytes() for path in paths]
    options = Options(tmp_path, repetitions=1)
    with pytest.raises(ConfigError, match=r"configs/tiny.yaml is there and this program did not"):
        run_comparison(paths, options, quiet_hooks(lambda *_: []))
    assert [path.read_bytes() for path in paths] == before


def test_a_comparison_again_with_fewer_runs(tmp_path):
    paths, options = write_pair(tmp_path), Options(tmp_path / "out", repetitions=2)

    def measure(session, ids):
        return made_reports(session.config, len(ids))

    run_comparison(paths, options, quiet_hooks(measure))
    fewer, said = Options(tmp_path / "out", repetitions=1), []
    (tmp_path / "out" / "runs" / "ring" / "notes.txt").write_text("mine", encoding="utf-8")
    run_comparison(paths[:1], fewer, quiet_hooks(measure, said))
    left = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("report.*")}
    runs = {f"runs/tiny/{a}/report.{b}" for a in ("warm-up", "repetition1") for b in ("json", "md")}
    assert left == runs | {"report.json", "report.md", "report.html"}
    assert not (tmp_path / "out" / "configs" / "ring.yaml").exists()
    assert (tmp_path / "out" / "runs" / "ring" / "notes.txt").exists()
