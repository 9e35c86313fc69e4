"""What a report and `hybrid doctor` say about the machine and the versions in use."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path

PACKAGES = ("tenseal", "numpy", "scipy", "numba", "pyzmq", "msgpack", "torch", "cryptography")
CPU_FEATURES = ("aes", "avx2", "fma", "avx512f", "avx512ifma")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def limit_threads() -> None:
    """One thread for BLAS and numba, unless the user chose; before numpy is imported."""
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> None:
    """Let glibc keep large blocks that are freed, instead of asking the kernel for new pages.

    Arrays of megabytes come and go all the time here; fresh pages would cost as much as the
    arithmetic. Does nothing on other C libraries.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def party_cores() -> list[int | None]:
    """A core for each party, the client's first, or none where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return list(available[:2]) if len(available) > 1 else [None, None]


def settle(core: int | None) -> None:
    """Core and memory of a child process."""
    keep_memory()
    if core is not None:
        os.sched_setaffinity(0, {core})


def describe() -> dict[str, str]:
    """Machine, features and versions."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores, {platform.machine()}",
        "cpu_features": " ".join(_cpu_features()) or "unknown",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "threads": " ".join(f"{n}={os.environ.get(n, 'unset')}" for n in THREAD_VARIABLES),
        **{f"version_{name}": version for name, version in versions.items()},
    }


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far, without that of whoever started it."""
    # ru_maxrss outlives exec: a child's begins at the size of the process that it was forked from.
    with suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        (line,) = [one for one in status.split("\n") if one.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _cpu_lines(key: str) -> list[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return [line.split(":", 1)[1].strip() for line in file if line.startswith(key)]
    except OSError:
        return []


def _cpu_model() -> str:
    return next(iter(_cpu_lines("model name")), platform.processor() or "unknown CPU")


def _cpu_features() -> list[str]:
    flags = next(iter(_cpu_lines("flags")), "").split()
    return [name for name in CPU_FEATURES if name in flags]
