"""The example test of docs/extending.md runs as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

from tests.shaped_config import shaped_config

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"
MY_LAB = """
from he_linear.packings.column_bsgs import ColumnBsgsPacking
from mpc_nonlinear.protocols.gelu import EvenPolynomialGelu

class MyGelu(EvenPolynomialGelu):
    name = "my_gelu"

class MyPacking(ColumnBsgsPacking):
    name = "my_packing"

PROTOCOLS, PACKINGS = (MyGelu,), (MyPacking,)
"""


def test_the_example_test_passes(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(\"\"\"test_my_lab.*?)```", DOCS.read_text(), re.S)
    (tmp_path / "my_lab.py").write_text(MY_LAB)
    run = shaped_config().run.model_dump(mode="json", exclude_unset=True)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(run))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_lab", raising=False)
    names: dict = {}
    exec(compile(example, "test_my_lab.py", "exec"), names)
    names["test_gelu"]("ot", 8.0)
    names["test_gelu_in_my_model"]()
    names["test_packing"]((3, 5, 7), True)
