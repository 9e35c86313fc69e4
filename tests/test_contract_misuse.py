"""Misuse of the contract, and mistakes that once ended in a traceback, end in a sentence."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pytest
from typer.testing import CliRunner

from hybrid.cli import check as check_command
from hybrid.cli.app import app
from hybrid.testing.contracts import (
    ContractError,
    InsecureLocalParties,
    MisuseError,
    check_protocol,
)
from mpc_nonlinear.blocks.select import select_cost
from mpc_nonlinear.protocols.relu import ExactRelu
from mpc_nonlinear.protocols.softmax import SquaredPolynomialSoftmax
from tests.shaped_config import shaped_config
from transport.errors import ConfigError

X = np.linspace(-8, 8, 17)
ROWS = np.ones((2, 3))


@pytest.fixture(scope="module")
def parties() -> InsecureLocalParties:
    return InsecureLocalParties()


# -- questions that make no sense ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WithoutABound(ExactRelu):
    bound: None


@pytest.mark.parametrize(
    ("protocol", "x", "words"),
    [
        (
            ExactRelu,
            X,
            r"ExactRelu is a class; give an instance, as ExactRelu\(bound=8.0\), or con",
        ),
        (ExactRelu, None, r"give an instance, as ExactRelu\(bound=8.0\), or config="),
        ("relu", X, "'relu' is no protocol"),
        (SquaredPolynomialSoftmax(bound=8.0), X, r"shape \(17,\); softmax works on rows: give"),
        (ExactRelu(bound=8.0), X + 1, r"x has 9, outside -8 to 8"),
        (ExactRelu(bound=8.0), X - 1, r"x has -9, outside -8 to 8"),
        (SquaredPolynomialSoftmax(bound=4.0), 5 * ROWS, r"x has 5, outside -28 to 4"),
        (SquaredPolynomialSoftmax(bound=4.0), -29 * ROWS, r"x has -29, outside -28 to 4"),
        (ExactRelu(bound=8.0), [1.0, np.nan], "not finite"),
        (ExactRelu(bound=8.0), [1.0, np.inf], "not finite"),
        (ExactRelu(bound=8.0), ["one"], "no array of real numbers"),
        (ExactRelu(bound=8.0), [], "is empty"),
        (WithoutABound(bound=None), None, "no number `bound` from which cases could be made"),
    ],
)
def test_misuse_ends_in_a_sentence(protocol, x, words, parties):
    with pytest.raises(MisuseError, match=words):
        check_protocol(protocol, x, parties)


def test_misuse_of_a_config_ends_in_a_sentence(parties):
    with pytest.raises(MisuseError, match="ExactRelu is an instance; with config= give the class"):
        check_protocol(ExactRelu(bound=8.0), None, parties, config=shaped_config())
    with pytest.raises(MisuseError, match="x= and config= at once"):
        check_protocol(ExactRelu, X, parties, config=shaped_config())


# -- protocols that fail in other ways than by a wrong number ------------------------------


@dataclass(frozen=True, slots=True)
class DeclaresTooFew(ExactRelu):
    """In `ots` and in `demand`."""

    def cost(self, shape, context):
        whole, missing = ExactRelu.cost(self, shape, context), select_cost(1)
        counts = dict(whole.demand.counts)
        for kind, count in missing.demand.counts:
            counts[kind] -= count
        demand = type(whole.demand)(tuple(counts.items()))
        return type(whole)(whole.traffic, demand.ots, 0.0, demand)


@dataclass(frozen=True, slots=True)
class ReturnsNothing(ExactRelu):
    def run(self, x, session):
        ExactRelu.run(self, x, session)


@dataclass(frozen=True, slots=True)
class ReturnsReals(ExactRelu):
    def run(self, x, session):
        return ExactRelu.run(self, x, session).astype(float)


@dataclass(frozen=True, slots=True)
class Raises(ExactRelu):
    def run(self, x, session):
        return ExactRelu.run(self, x, session)[None:"one"]


@dataclass(frozen=True, slots=True)
class CostRaises(ExactRelu):
    def cost(self, shape, context):  # noqa: ARG002
        return {}[shape]


@dataclass(frozen=True, slots=True)
class CostIsNothing(ExactRelu):
    def cost(self, shape, context):  # noqa: ARG002
        return None


@dataclass(frozen=True, slots=True)
class ReferenceRaises(ExactRelu):
    def reference(self, x):
        raise NotImplementedError("later")


@dataclass(frozen=True, slots=True)
class ReferenceOfAnotherShape(ExactRelu):
    def reference(self, x):
        return np.maximum(x, 0.0).reshape(1, -1)


@dataclass(frozen=True, slots=True)
class CannotBeMade(ExactRelu):
    @classmethod
    def for_operation(cls, width, bounds, constants):  # noqa: ARG003
        return cls(bound=bounds["inputs"].max_abs)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (DeclaresTooFew, r"relu/exact.*: cost\(\) declares too few correlations: .*product of 64 "),
        (ReturnsNothing, r"run\(\) returned NoneType for uint64 \(17,\)"),
        (ReturnsReals, r"run\(\) returned float64 \(17,\) for uint64"),
        (Raises, "the run ended with: TypeError"),
        (CostRaises, r"relu/exact: cost\(\) raised KeyError: \(17,\)"),
        (CostIsNothing, r"cost\(\) returned None; return a Cost"),
        (ReferenceRaises, r"reference\(\) raised NotImplementedError: later"),
        (ReferenceOfAnotherShape, r"reference\(\) returned shape \(1, 17\) for \(17,\)"),
    ],
)
def test_what_a_protocol_does_wrong_ends_in_a_sentence(cls, words, parties):
    with pytest.raises(ContractError, match=words) as raised:
        check_protocol(cls(bound=8.0), X, parties)
    assert not isinstance(raised.value, MisuseError)


def test_a_protocol_that_cannot_be_made_for_a_model_is_named(parties):
    class Gelu(CannotBeMade):
        op = "gelu"

    with pytest.raises(ContractError, match=r"for_operation\(\) for layer0.gelu raised KeyError"):
        check_protocol(Gelu, None, parties, config=shaped_config())


def test_parties_serve_again_after_a_broken_run(parties):
    with pytest.raises(ContractError):
        check_protocol(DeclaresTooFew(bound=8.0), X, parties)
    assert check_protocol(ExactRelu(bound=8.0), X, parties).error == 0


# -- hybrid check --------------------------------------------------------------------------

PLUGIN = """
from dataclasses import dataclass
from mpc_nonlinear.protocols.relu import ExactRelu
{more}

@dataclass(frozen=True, slots=True)
class Mine(ExactRelu):
    name = "[bold]mine[/bold]"
{body}
PROTOCOLS = (Mine,)
"""
WRONG = """
    def cost(self, shape, context):
        return 1 / 0
"""


def checked(name, folder, monkeypatch, body="", more="", options=()):
    """Exit code, and what was printed; the plugin lies in the current folder."""
    (folder / f"{name}.py").write_text(PLUGIN.format(body=body, more=more))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(check_command, "MULTIPLY", ("ot",))
    monkeypatch.delitem(sys.modules, name, raising=False)
    result = CliRunner().invoke(app, ["check", name, *options])
    return result, " ".join(result.output.split())


def test_a_plugin_of_the_current_folder_is_checked(tmp_path, monkeypatch):
    result, output = checked("plugin_good", tmp_path, monkeypatch)
    assert result.exit_code == 0, output
    assert "relu/[bold]mine[/bold], bound 8.0, products by ot, a dense grid" in output
    assert "relu/[bold]mine[/bold], bound 64.0" in output
    assert "every contract is kept" in output


def test_a_plugin_is_checked_by_the_engine_that_it_names(tmp_path, monkeypatch):
    body = '    product_engines = ("slot_triples",)'
    result, output = checked("plugin_choosy", tmp_path, monkeypatch, body)
    assert result.exit_code == 0, output
    assert "products by slot_triples" in output
    assert "products by ot" not in output


def test_a_broken_plugin_ends_with_its_sentence(tmp_path, monkeypatch):
    result, output = checked("plugin_bad", tmp_path, monkeypatch, WRONG)
    assert result.exit_code == 1
    assert "broken: relu/[bold]mine[/bold]" in output
    assert "cost() raised ZeroDivisionError" in output


def test_misuse_of_the_command_is_a_user_error(tmp_path, monkeypatch):
    result, _ = checked("plugin_raises", tmp_path, monkeypatch, more="1 / 0")
    assert isinstance(result.exception, ConfigError)  # `main` makes it exit code 2
    assert "fails on import (ZeroDivisionError" in str(result.exception)
    (tmp_path / "plugin_models.py").write_text("MODELS = (1,)\n")
    for name, words in (
        ("plugin_models", "neither PROTOCOLS nor PACKINGS"),
        ("no_such_plugin", "cannot be imported"),
    ):
        error = CliRunner().invoke(app, ["check", name]).exception
        assert isinstance(error, ConfigError)
        assert words in str(error)


def test_packings_of_a_plugin_are_checked(tmp_path, monkeypatch):
    (tmp_path / "plugin_packings.py").write_text(
        "from he_linear.packings.halevi_shoup import HaleviShoupPacking\n"
        "from he_linear.packings.rotated_slots import RotatedSlotsPacking\n"
        "class MyLinear(HaleviShoupPacking):\n    name = 'my_linear'\n"
        "class MyAttention(RotatedSlotsPacking):\n    name = 'my_attention'\n"
        "PACKINGS = (MyLinear, MyAttention)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(check_command, "_SHAPES", ((2, 5, 7),))
    result = CliRunner().invoke(app, ["check", "plugin_packings"])
    output = " ".join(result.output.split())
    assert result.exit_code == 0, output
    assert "2 rows, 5 to 7, with the scaled input" in output
    assert "attention/my_attention: skipped, there is no contract for its kind" in output
