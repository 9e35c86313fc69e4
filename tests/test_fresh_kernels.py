"""Machine code goes where a kernel that others take in has changed, and stays where none has."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fresh_kernels import STAMP, compiled_sources, forget_stale, shared_sources

ROOT = Path(__file__).resolve().parent.parent
INLINED = "from numba import njit\n\n@njit\ndef twice(x):\n    return 2 * x\n"
TAKES_IT_IN = """from numba import njit

from he_linear.kernels.small import twice

@njit(cache=True)
def fourfold(x):
    return twice(twice(x))
"""


@pytest.fixture
def sources(tmp_path):
    """Two compiled files, one of which takes in the other, and one that is not compiled."""
    files = {
        "he_linear/kernels/small.py": INLINED,
        "he_linear/packings/large.py": TAKES_IT_IN,
        "he_linear/packings/plain.py": "from he_linear.kernels.small import twice\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    forget_stale(tmp_path)
    return tmp_path


def compile_all(root):
    """As numba would keep it; the names of what must not go, too."""
    folders = [root / "he_linear" / room / "__pycache__" for room in ("kernels", "packings")]
    for folder in folders:
        for end in ("nbi", "1.nbc", "pyc"):
            (folder / f"large.fourfold.{end}").touch()
    return folders


def kept(folder):
    return sorted(file.suffix for file in folder.iterdir() if file.name != STAMP)


def test_what_is_made_of_the_same_kernels_stays(sources):
    folders = compile_all(sources)
    # numba sees for itself that a file is another one, and this one is nobody else's.
    own = sources / "he_linear" / "packings" / "large.py"
    own.write_text(TAKES_IT_IN + "\n# More.\n", encoding="utf-8")
    assert forget_stale(sources) == []
    assert [kept(folder) for folder in folders] == [[".nbc", ".nbi", ".pyc"]] * 2


@pytest.mark.parametrize("change", ["edit", "rename", "no stamp"])
def test_what_is_made_of_other_kernels_goes(sources, change):
    folders = compile_all(sources)
    small = sources / "he_linear" / "kernels" / "small.py"
    if change == "edit":
        small.write_text(INLINED.replace("2 *", "3 *"), encoding="utf-8")
    elif change == "rename":
        small.rename(small.with_name("other.py"))
        large = sources / "he_linear" / "packings" / "large.py"
        large.write_text(TAKES_IT_IN.replace(".small", ".other"), encoding="utf-8")
    else:
        for folder in folders:
            (folder / STAMP).unlink()
    assert forget_stale(sources) == folders
    assert [kept(folder) for folder in folders] == [[".pyc"]] * 2
    assert forget_stale(sources) == []


def test_every_file_is_judged_by_itself(sources):
    first, second = compile_all(sources)
    shutil.rmtree(second)
    assert forget_stale(sources) == [second]
    assert ".nbi" in kept(first)


@pytest.mark.long
def test_numba_alone_keeps_what_was_taken_in(sources, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(sources))
    # Python compares times and sizes, too.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def fourfold():
        code = "from he_linear.packings.large import fourfold; print(fourfold(1))"
        command = [sys.executable, "-c", code]
        return int(subprocess.run(command, check=True, capture_output=True, cwd=sources).stdout)

    assert fourfold() == 4
    small = sources / "he_linear" / "kernels" / "small.py"
    small.write_text(INLINED.replace("2 *", "3 *"), encoding="utf-8")
    assert fourfold() == 4
    forget_stale(sources)
    assert fourfold() == 9


def compiled(node):
    marks = [ast.dump(mark) for mark in getattr(node, "decorator_list", ())]
    return any(name in mark for mark in marks for name in ("njit", "intrinsic"))


def test_all_that_compiled_functions_take_in_is_watched():
    watched, seen = set(shared_sources(ROOT)), set()
    for text in compiled_sources(ROOT).values():
        tree = ast.parse(text)
        origin = {
            name.asname or name.name: ROOT / (node.module.replace(".", "/") + ".py")
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
            for name in node.names
        }
        functions = [node for node in ast.walk(tree) if compiled(node)]
        names = {n.id for f in functions for n in ast.walk(f) if isinstance(n, ast.Name)}
        seen |= {origin[name] for name in names if name in origin and origin[name].exists()}
    assert seen
    assert seen <= watched
    kernels = ("he_linear/kernels/ntt_butterflies.py", "mpc_nonlinear/correlations/vector_aes.py")
    sums = ("he_linear/kernels/sum_tiles.py", "he_linear/kernels/integer_tiles.py")
    assert {ROOT / name for name in (*kernels, *sums)} <= watched
