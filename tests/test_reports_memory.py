"""Peak memory in reports is that of the process itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from hybrid.machine.environment import peak_memory_bytes

ROOT = Path(__file__).resolve().parent.parent
SHOW = (
    "import resource, sys; from hybrid.machine.environment import peak_memory_bytes;"
    "print(peak_memory_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
)


def test_a_child_does_not_begin_with_the_memory_of_its_launcher():
    """A process of 300 MB starts one that needs a few dozen."""
    launcher = (
        "import subprocess, sys, numpy as np; a = np.ones(300 << 17);"
        f"sys.exit(subprocess.run([sys.executable, '-c', {SHOW!r}]).returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", launcher],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    own, inherited = map(int, done.stdout.split())
    assert inherited > 250e6  # Else this system would show nothing.
    assert own < 150e6


def test_it_holds_what_this_process_used():
    before = peak_memory_bytes()
    block = np.ones(200 << 17)
    assert peak_memory_bytes() >= min(before, block.nbytes)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    assert peak_memory_bytes() >= int(found[1]) * 1024
    assert peak_memory_bytes() >= block.nbytes
