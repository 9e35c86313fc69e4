"""One name for a thing: what configs call it, its class and its file agree."""

import inspect

import pytest

import he_linear
import mpc_nonlinear
from mpc_nonlinear.correlations import SOURCES


def camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def label(cls: type) -> str:
    return f"{cls.op}/{cls.name}"


@pytest.mark.parametrize("packing", he_linear.PACKINGS, ids=label)
def test_a_packing_is_called_as_its_class_and_its_file(packing):
    # The coefficient packings carry two operations under one name.
    product = "Product" * (packing.op == "attention" and "coefficients" in packing.name)
    assert packing.__name__ == camel(packing.name) + product + "Packing"
    file = packing.__module__.rpartition(".")[2]
    assert packing.__module__ == f"he_linear.packings.{file}"
    family = file.removesuffix("_product") if product else file
    assert packing.name == family or packing.name.startswith(family + "_")


@pytest.mark.parametrize("protocol", mpc_nonlinear.PROTOCOLS, ids=label)
def test_a_protocol_is_called_as_its_class(protocol):
    assert protocol.__name__.lower() == (protocol.name + protocol.op).replace("_", "")
    file = protocol.__module__.rpartition(".")[2]
    assert protocol.__module__ == f"mpc_nonlinear.protocols.{file}"
    # One file for an operation, or one for a paper.
    assert file in {protocol.op, protocol.name}


@pytest.mark.parametrize("source", [s for s in SOURCES if s.name != "dealer"])
def test_a_source_is_called_as_its_class_and_its_file(source):
    assert source.__name__.lower() == source.name + "source"
    assert source.__module__ == f"mpc_nonlinear.correlations.{source.name}"


@pytest.mark.parametrize(
    ("package", "kind"), [(he_linear, "PACKINGS"), (mpc_nonlinear, "PROTOCOLS")]
)
def test_a_package_offers_its_list_and_lists_all_it_names(package, kind):
    assert package.__all__ == [kind]
    classes = {value for value in vars(package).values() if inspect.isclass(value)}
    assert classes <= set(getattr(package, kind))
