"""The comparison's page in a real browser: every figure has a size and nothing is loaded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from hybrid.reports.comparison.configs import Options
from hybrid.reports.comparison.run import run_comparison
from tests.comparison_data import made_reports, quiet_hooks, write_pair
from tests.waiting import GUARD_S

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip

pytestmark = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")


def dom(page, profile, *, width: int = 1200) -> str:
    """The page's elements after its scripts have run."""
    command = [
        str(BROWSER), *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},1600",
        "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=GUARD_S, check=True)
    return done.stdout


@pytest.mark.parametrize("width", [1200, 420])
def test_every_declared_figure_is_drawn_and_nothing_is_loaded(tmp_path, width):
    options = Options(tmp_path / "out", links=("none", "wan1"), repetitions=2)

    def measure(session, ids):
        return made_reports(session.config, len(ids), slowness=len(session.config.run.name) / 5)

    run_comparison(write_pair(tmp_path), options, quiet_hooks(measure))
    declared = json.loads((tmp_path / "out" / "report.json").read_text())["figures"]
    seen = dom(tmp_path / "out" / "report.html", tmp_path / "profile", width=width)
    body = re.search(r"<body[^>]*>", seen)
    assert body
    assert f'data-figures="{len(declared)}"' in body[0]
    assert 'data-loads="0"' in body[0]
    for figure in declared:
        frame = re.search(rf'<figure [^>]*data-figure="{figure["id"]}"[^>]*>', seen)
        assert frame, figure
        assert 'data-rendered="true"' in frame[0]
    assert not re.search(r'(?:\bsrc|<link[^>]*href)="?https?://', seen)
