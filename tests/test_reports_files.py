"""Reports on disk: strict JSON, nothing of earlier runs beside, nothing of other people's lost."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import pytest

from hybrid.cli.writing import checked_folder
from hybrid.reports.comparison.summary import _accuracy
from hybrid.reports.files import (
    LISTED,
    ReportError,
    ReportFolder,
    check_numbers,
    json_line,
    json_text,
    strict,
    write_json,
    write_text,
)
from hybrid.reports.run_report import Accuracy, worst
from transport.errors import ConfigError


def refuse(word):
    raise AssertionError(f"{word} is no JSON")


def parsed(text):
    return json.loads(text, parse_constant=refuse)


# -- numbers --------------------------------------------------------------------------------

REPORT = {
    "config": {"name": "tiny"},
    "accuracy": {"cosine": math.nan, "max_abs_error": 0.5},
    "steps": [{"predicted_seconds": math.inf}, {"predicted_seconds": 1.0}],
    "outputs": ((1.0, 2.0),),
}


@pytest.mark.parametrize("write", [json_text, json_line])
def test_what_is_no_number_is_null_and_said(write):
    found = parsed(write(REPORT))
    assert found["accuracy"] == {"cosine": None, "max_abs_error": 0.5}
    assert found["steps"][0]["predicted_seconds"] is None
    assert found["not_finite"] == ["accuracy.cosine is nan", "steps.0.predicted_seconds is inf"]
    assert strict(strict(REPORT)) == strict(REPORT)
    assert "not_finite" not in parsed(write({"a": 1.0}))


def test_files_are_strict_and_whole(tmp_path):
    write_json(REPORT, tmp_path / "new" / "report.json")
    parsed((tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.json"]


def test_a_comparison_and_a_measured_zero_are_no_fault():
    check_numbers(strict(REPORT))


@pytest.mark.parametrize("place", ["output", "failure_probability", "seconds"])
def test_numbers_that_cannot_be_are_named(place):
    report = {**REPORT, "online": {place: [1.0, -math.inf] if place == "output" else math.nan}}
    with pytest.raises(ReportError, match=rf"online\.{place}.* is (nan|-inf), which cannot be"):
        check_numbers(strict(report))


def test_what_is_no_number_is_no_others_least():
    undefined, known = Accuracy("r", math.nan, 0.1), Accuracy("r", 0.9, math.nan)
    for order in ([undefined, known], [known, undefined]):
        assert math.isnan(worst(order).cosine)
        assert math.isnan(worst(order).max_abs_error)


def test_a_comparison_says_which_accuracy_is_not_known():
    def of(cosine):
        return {"accuracy": {"reference": "r", "cosine": cosine, "max_abs_error": 0.1}}

    for order in ([of(math.nan), of(0.9)], [of(0.9), of(math.nan)]):
        found = _accuracy(order)
        assert found is not None
        assert math.isnan(found["cosine"])


# -- folders --------------------------------------------------------------------------------


def write_run(out: Path, *texts: str) -> list[str]:
    folder = ReportFolder(out)
    for index, text in enumerate(texts):
        place = f"text{index + 1}/" if index else ""
        folder.write(f"{place}report.json", json_text({"config": {"name": text}}))
        folder.write(f"{place}report.md", f"# Private inference: {text}\n")
    return folder.finish()


def files(out: Path) -> set[str]:
    found = (str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir())
    return {name for name in found if name != LISTED}


BOTH = {"report.json", "report.md"}


def test_what_an_earlier_run_wrote_and_this_one_did_not_is_removed(tmp_path):
    assert write_run(tmp_path, "a", "b", "c") == []
    assert files(tmp_path) == BOTH | {f"text{n}/{name}" for n in (2, 3) for name in BOTH}
    assert write_run(tmp_path, "d") == []
    assert files(tmp_path) == BOTH
    assert not (tmp_path / "text2").exists()


def test_until_a_run_has_ended_everything_stays(tmp_path):
    write_run(tmp_path, "a", "b")
    folder = ReportFolder(tmp_path)
    folder.write("report.json", "{}")
    assert len(files(tmp_path)) == 4
    # The run that was broken off is known to the next one.
    folder = ReportFolder(tmp_path)
    folder.write("report.md", "# Private inference: c\n")
    assert folder.finish() == []
    assert files(tmp_path) == {"report.md"}


def test_what_somebody_changed_or_added_stays_and_is_said(tmp_path):
    write_run(tmp_path, "a", "b", "c")
    (tmp_path / "text2" / "report.md").write_text("my remarks", encoding="utf-8")
    (tmp_path / "text3" / "notes.txt").write_text("mine", encoding="utf-8")
    said = write_run(tmp_path, "d")
    assert files(tmp_path) == BOTH | {"text2/report.md", "text3/notes.txt"}
    assert len(said) == 2
    assert "text2/report.md was changed since" in said[0]
    assert "text3 is not marked as this program's" in said[1]


def test_folders_that_nobody_marked_stay_and_are_said(tmp_path):
    (tmp_path / "prompt7").mkdir()
    (tmp_path / "prompt7" / "report.json").write_text('{\n "config": {}}', encoding="utf-8")
    (tmp_path / "texts").mkdir()
    (said,) = write_run(tmp_path, "a")
    assert "prompt7 is not marked" in said
    assert (tmp_path / "prompt7" / "report.json").exists()


@pytest.mark.parametrize(
    "name",
    ["../other/report.json", "/etc/report.json", "text2/../../other/report.json", "notes.txt"],
)
def test_a_list_cannot_name_files_of_others(name, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.mkdir()
    for path in (other / "report.json", out / "notes.txt"):
        path.write_text("mine", encoding="utf-8")
    digest = hashlib.sha256(b"mine").hexdigest()
    listed = {"schema": 1, "files": {name: digest}}
    (out / LISTED).write_text(json.dumps(listed), encoding="utf-8")
    write_run(out, "a")
    assert (other / "report.json").exists()
    assert (out / "notes.txt").exists()


def test_links_are_not_followed(tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    write_run(out, "a", "b")
    (out / "text2").rename(other)
    os.symlink(other, out / "text2")
    write_run(out, "c")
    assert files(other) == BOTH
    with pytest.raises(ConfigError, match=r"text2/report.json is there"):
        write_run(out, "c", "d")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": 1}', '{"files": {"report.md": 1}}'])
def test_a_list_that_is_none_is_nothing(content, tmp_path):
    (tmp_path / LISTED).write_text(content, encoding="utf-8")
    write_run(tmp_path, "a")
    assert files(tmp_path) == BOTH


def test_files_of_others_are_never_written_over(tmp_path):
    (tmp_path / "report.md").write_text("# My own report\n", encoding="utf-8")
    (tmp_path / ".write-test").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"report.md is there and this program did not write it"):
        checked_folder(tmp_path, 2, "text")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "# My own report\n"
    assert (tmp_path / ".write-test").read_text(encoding="utf-8") == "mine"


def test_reports_of_older_versions_are_written_over(tmp_path):
    (tmp_path / "report.md").write_text("# Private inference: old\n", encoding="utf-8")
    (tmp_path / "report.json").write_text('{\n "config": {\n', encoding="utf-8")
    checked_folder(tmp_path, 1, "text")
    write_run(tmp_path, "new")
    assert "new" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_words_without_bytes_are_written_by_their_numbers(tmp_path):
    write_text("name \udcff", tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "name \\udcff"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--out .*file/x: cannot be written"):
        ReportFolder(tmp_path / "file" / "x").check([])


def test_what_is_there_already_word_for_word_is_no_ones_loss(tmp_path):
    """As configs of a comparison by an older version, which listed nothing."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.yaml").write_text("name: a\n", encoding="utf-8")
    ReportFolder(tmp_path).write("configs/a.yaml", "name: a\n")
    (tmp_path / "configs" / "b.yaml").write_text("name: b  # mine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"configs/b.yaml is there"):
        ReportFolder(tmp_path).write("configs/b.yaml", "name: b\n")
