"""Sessions of two processes of this machine: what is told apart, and what ends with what."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import psutil
import pytest

import hybrid
from tests.processes import ROOT, ended
from tests.waiting import GUARD_S

TINY = ROOT / "experiments" / "tutorial" / "tiny.yaml"
TEXT, OTHER = "a small test of private inference", "another"


@pytest.mark.long
def test_requests_of_several_calls_are_told_apart():
    """With two texts a request, every call starts a request of its own."""
    config = hybrid.load(TINY, set=["model.batch=2"])
    with hybrid.local(config) as session:
        first = session.embed([TEXT])
        both = session.embed([OTHER, TEXT])
        with pytest.raises(hybrid.UsageError, match="no text"):
            session.embed([])
    reports = session.reports()
    assert [len(report["outputs"]) for report in reports] == [1, 2]
    assert all(report["accuracy"]["cosine"] > 0.999 for report in reports)
    assert np.abs(first[0] - both[1]).max() < 5e-3


@pytest.mark.long
def test_a_server_ends_with_its_parent(tmp_path):
    """Killed before any client came, the parent leaves no server that waits for one."""
    script = """
import sys
from hybrid.config.loading import load_config
from hybrid.runtime.child import Task
from hybrid.runtime.processes import Processes
config = load_config(__import__("pathlib").Path(sys.argv[1]))
processes = Processes(config, print)
pipe = processes._start("server", Task(config))
processes._await(pipe, "endpoint")
print(processes._children[pipe].process.pid, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(TINY)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    parent = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)
    with ended(parent):
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait(GUARD_S)
        psutil.wait_procs([server], GUARD_S)
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


@pytest.mark.long
@pytest.mark.usefixtures("fresh_parties")
def test_a_session_whose_client_died_in_between_says_so():
    with pytest.raises(hybrid.HybridError, match="client process ended"), hybrid.local(TINY):
        (client,) = [
            child for child in psutil.Process().children(recursive=True)
            if child.cmdline()[4:5] == ["client"]
        ]  # fmt: skip
        client.kill()
        client.wait(GUARD_S)
