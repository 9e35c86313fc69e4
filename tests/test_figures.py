"""What the project's configs send has not changed by accident.

`data/figures.json` holds, for 16 tokens, what the steps of an operation add up to: how many there
are, bytes from the client and the server, rounds, correlations. A change that means to save some of
them changes the file as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid.config.loading import load_config
from hybrid.config.overrides import overrides_of
from hybrid.models.loading import load_model
from hybrid.planning.planner import make_plan
from tests.processes import ROOT

FIGURES = json.loads((Path(__file__).parent / "data" / "figures.json").read_text())


@pytest.mark.usefixtures("minilm")
@pytest.mark.parametrize("name", FIGURES)
def test_bytes_rounds_and_correlations_are_what_they_were(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml", overrides_of(tokens=16))
    found: dict[str, list[int]] = {}
    for row in make_plan(config, load_model(config).public, None).rows():
        sums = found.setdefault(f"{row['op']} ({row['phase']})", [0] * 5)
        for index, count in enumerate(_counts(row)):
            sums[index] += count
    assert found == FIGURES[name]


def _counts(row: dict[str, Any]) -> tuple[int, ...]:
    sent = row["predicted"]
    bytes_ = sent["client_sent_bytes"], sent["server_sent_bytes"]
    return 1, *bytes_, sent["rounds"], row["correlations"]
