"""Machine code that numba keeps beside its sources, thrown away where a kernel changed since.

numba compares the file of a compiled function alone, not those whose kernels it takes in. An
installed release is never edited, so this concerns those who work on the sources.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

PACKAGES = ("transport", "he_linear", "mpc_nonlinear", "hybrid")
STAMP = "kernels.sha256"
"""Beside the machine code: what it was made of."""
_COMPILED = re.compile(r"^\s*(?:from|import) (?:numba|llvmlite)\b", re.MULTILINE)
_IMPORTED = re.compile(r"^\s*(?:from|import) ([\w.]+)", re.MULTILINE)


def compiled_sources(root: Path) -> dict[Path, str]:
    """Files of the packages that are compiled or make machine code, and their text."""
    files = sorted(file for package in PACKAGES for file in (root / package).rglob("*.py"))
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    return {file: text for file, text in texts.items() if _COMPILED.search(text)}


def shared_sources(root: Path) -> list[Path]:
    """Those of them that others of them import."""
    sources = compiled_sources(root)
    imported = {name for text in sources.values() for name in _IMPORTED.findall(text)}
    return [f for f in sources if ".".join(f.relative_to(root).with_suffix("").parts) in imported]


def forget_stale(root: Path) -> list[Path]:
    """Remove what was compiled of other shared sources than these; the folders of that."""
    parts = [(file.relative_to(root), file.read_bytes()) for file in shared_sources(root)]
    named = (f"{name.as_posix()} {sha256(data).hexdigest()}\n" for name, data in parts)
    digest, forgotten = sha256("".join(named).encode()).hexdigest(), []
    for folder in sorted({file.parent / "__pycache__" for file in compiled_sources(root)}):
        stamp = folder / STAMP
        if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
            continue
        for kept in folder.glob("*.nb[ic]"):
            kept.unlink(missing_ok=True)
        forgotten.append(folder)
        folder.mkdir(exist_ok=True)
        # Last: who is interrupted begins again.
        stamp.write_text(digest, encoding="utf-8")
    return forgotten
