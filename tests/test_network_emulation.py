"""Arithmetic of the emulated network; building one needs root and is checked by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.link import LinkModel

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments" / "network"


@pytest.fixture(autouse=True)
def experiments_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))


@given(st.floats(1e3, 1e10), st.floats(0, 1), st.integers(1, 9000))
def test_one_packet_takes_its_bits_and_the_latency(bandwidth, latency, size):
    from network import Wire

    arrival = Wire(LinkModel("x", bandwidth, latency)).arrival(100.0, size)
    assert arrival == pytest.approx(100.0 + 8 * size / bandwidth + latency)


def test_packets_queue_behind_each_other():
    from network import Wire

    wire = Wire(LinkModel("x", 8e3, 0.5))
    # A thousand bytes a second.
    assert wire.arrival(0.0, 1000) == pytest.approx(1.5)
    assert wire.arrival(0.25, 1000) == pytest.approx(2.5)
    # After a pause the wire is free again.
    assert wire.arrival(10.0, 500) == pytest.approx(11.0)


def test_unknown_links_are_refused():
    command = [sys.executable, str(EXPERIMENTS / "check_link.py"), "--link", "moon"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'moon'" in done.stderr
