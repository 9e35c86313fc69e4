"""What a new protocol or packing must keep, checked before it is trusted with a model.

`check_protocol` and `check_packing` run both parties inside this process, on plain numbers that
they share out themselves, and compare what happened with what was declared: bytes, rounds,
correlations, rotation keys, memory, error. The first broken promise raises `ContractError`; a
question that makes no sense raises `MisuseError`, which is one too.
One process holds both shares and all keys, so nothing here is private: `InsecureLocalParties`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from hybrid.config.loading import Config, load_config
from hybrid.config.schema import RunConfig
from hybrid.models.graph import Node
from hybrid.models.loading import load_model
from hybrid.testing.cases import CASES, ROW_OPS, SOFTMAXES, Case, Domain, cases_for
from hybrid.testing.local_parties import (
    FIXED_POINT,
    ContractError,
    InsecureLocalParties,
    MisuseError,
    magnitude,
    place_of,
    require,
    share_out,
    within,
)
from hybrid.testing.packing_contract import PACKING_RMS_ERROR, PackingCheck, check_packing
from hybrid.testing.protocol_run import (
    ProtocolRun,
    Shares,
    called,
    declared_cost,
    run_protocol,
    shared_bits,
)
from mpc_nonlinear.cost import Cost, OtCount
from mpc_nonlinear.fixed_point import FloatArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.row_softmax import MASK_GAP
from transport.foreign import shown
from transport.randomness import SecureRandom
from transport.traffic import Traffic

__all__ = [
    "MAX_FAILURE_PROBABILITY",
    "PACKING_RMS_ERROR",
    "CaseCheck",
    "ContractError",
    "InsecureLocalParties",
    "MisuseError",
    "PackingCheck",
    "ProtocolCheck",
    "check_packing",
    "check_protocol",
    "checked_cases",
    "nodes_of",
    "protocols_of_config",
]

MAX_FAILURE_PROBABILITY = 2.0**-20
_GIVEN = "x"


@dataclass(frozen=True, slots=True)
class CaseCheck:
    """What a protocol declared and did on one input, once it kept its contract there."""

    protocol: NonlinearProtocol
    case: str
    shape: tuple[int, ...]
    traffic: Traffic
    """Declared and measured: they are equal."""
    ots: OtCount
    """Declared and consumed: they are equal."""
    error: float
    """Largest distance from `reference`."""
    approximation_error: float
    """Largest distance of `reference` from the true function, on these inputs."""
    seconds: float
    """Of the slower party, correlations made before."""
    output: FloatArray


@dataclass(frozen=True, slots=True)
class ProtocolCheck:
    """All cases of a protocol that kept its contract; sizes are those of the last case."""

    name: str
    cases: tuple[CaseCheck, ...]
    remark: str = ""
    """What the check could not know."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the input."""
        return self.cases[-1].shape

    @property
    def traffic(self) -> Traffic:
        """Declared and measured."""
        return self.cases[-1].traffic

    @property
    def ots(self) -> OtCount:
        """Declared and consumed."""
        return self.cases[-1].ots

    @property
    def seconds(self) -> float:
        """Of the slower party."""
        return self.cases[-1].seconds

    @property
    def output(self) -> FloatArray:
        """The result."""
        return self.cases[-1].output

    @property
    def error(self) -> float:
        """Largest distance from `reference` in any case."""
        return max(case.error for case in self.cases)

    @property
    def approximation_error(self) -> float:
        """Largest distance of `reference` from the true function in any case."""
        return max(case.approximation_error for case in self.cases)


def check_protocol(
    protocol: NonlinearProtocol | type[NonlinearProtocol],
    x: FloatArray | None = None,
    parties: InsecureLocalParties | None = None,
    *,
    config: Config | Path | str | None = None,
) -> ProtocolCheck:
    """Run on shares, twice a case, and hold the protocol to everything it declares.

    x: numbers inside the protocol's bounds, in a shape it takes; without it, cases follow from the
    operation, padding of a softmax among them (`hybrid.testing.cases`). config: a run whose model
    says the bounds and lengths of rows; then `protocol` is the class, made for every step of its
    operation. Checked: shape, distance from `reference` (protocol_error), of that from the true
    function (approximation_error of rows this long) and of the result from it (error), zeros for
    hidden columns, exact bytes and rounds, exact correlations both raw and prepared, failure
    probability, and that no message repeats when the same shares come again.
    """
    checks = tuple(checked_cases(protocol, x, parties, config=config))
    return ProtocolCheck(protocol.name, checks, remark_of(protocol.op) if x is None else "")


def remark_of(op: str) -> str:
    """What to say where an operation has no cases of its own."""
    if op in CASES:
        return ""
    return f"no cases are known for the operation {op!r}: generic ones were run, give x= for others"


def checked_cases(
    protocol: NonlinearProtocol | type[NonlinearProtocol],
    x: FloatArray | None = None,
    parties: InsecureLocalParties | None = None,
    *,
    config: Config | Path | str | None = None,
) -> Iterator[CaseCheck]:
    """As `check_protocol`, case by case."""
    parties = parties or InsecureLocalParties()
    if config is None:
        made = _instance(protocol)
        given = None if x is None else [Case(_GIVEN, _checked_numbers(made, x))]
        every = [(made, given or list(cases_for(made.op, Domain.of_protocol(made))))]
    else:
        if x is not None:
            raise MisuseError("check_protocol: x= and config= at once; give one of them")
        every = [
            (found, list(cases_for(found.op, domain)))
            for found, domain in protocols_of_config(protocol, config)
        ]
    for made, cases in every:
        _require_engine(made, parties)
        for case in cases:
            yield _check_case(made, case, parties)


def _require_engine(protocol: NonlinearProtocol, parties: InsecureLocalParties) -> None:
    allowed, given = protocol.product_engines, parties.context.products.name
    if allowed and given not in allowed:
        raise MisuseError(
            f"{protocol.op}/{protocol.name}: works with products by {' or '.join(allowed)}, not by "
            f"{shown(given)}; give parties=InsecureLocalParties({allowed[0]!r})"
        )


def _instance(protocol: object) -> NonlinearProtocol:
    if isinstance(protocol, type):
        name = protocol.__name__
        raise MisuseError(
            f"check_protocol: {name} is a class; give an instance, as {name}(bound=8.0), or config="
        )
    if not isinstance(protocol, NonlinearProtocol):
        raise MisuseError(
            f"check_protocol: {shown(protocol)} is no protocol; derive its class from "
            "NonlinearProtocol"
        )
    place_of(protocol, ("source", "max_error", "approximation_error"))
    return protocol


def protocols_of_config(
    protocol: NonlinearProtocol | type[NonlinearProtocol], config: Config | Path | str
) -> list[tuple[NonlinearProtocol, Domain]]:
    """The protocol as made for every step of a config's model, each set of parameters once."""
    if not isinstance(protocol, type):
        raise MisuseError(
            f"check_protocol: {type(protocol).__name__} is an instance; with config= give the "
            "class, which is made for every step of the model"
        )
    loaded = config if isinstance(config, Config) else load_config(Path(config))
    nodes = nodes_of(loaded)
    found: list[tuple[NonlinearProtocol, Domain]] = []
    for node in nodes:
        if node.key == protocol.op:
            made = _for_node(protocol, node)
            entry = _instance(made), Domain.of_node(node, protocol.breakpoints)
            if entry not in found:
                found.append(entry)
    if not found:
        ops = ", ".join(dict.fromkeys(node.key for node in nodes))
        raise MisuseError(
            f"{protocol.op}/{protocol.name}: the model of {loaded.path} has no {protocol.op}; it "
            f"has {ops}"
        )
    return found


def nodes_of(config: Config) -> tuple[Node, ...]:
    """The steps of a config's model; kept, since a model is slow to load."""
    return _nodes_of(config.path.resolve(), config.run.model_dump_json())


@lru_cache(maxsize=1)
def _nodes_of(path: Path, run: str) -> tuple[Node, ...]:
    return load_model(Config(RunConfig.model_validate_json(run), path)).public.graph.nodes


def _for_node(protocol: type[NonlinearProtocol], node: Node) -> object:
    what = f"{protocol.op}/{protocol.name}: for_operation() for {node.name}"
    width = node.shape[-1]
    return called(lambda: protocol.for_operation(width, node.bounds, node.constants), what)


def _checked_numbers(protocol: NonlinearProtocol, x: FloatArray) -> FloatArray:
    """X as float64, rounded to units; `MisuseError` where a protocol promises nothing for it."""
    place = f"{protocol.op}/{protocol.name}: x"
    try:
        numbers = np.asarray(x, np.float64)
    except (TypeError, ValueError):
        raise MisuseError(f"{place} is no array of real numbers") from None
    if not np.isfinite(numbers).all():
        raise MisuseError(f"{place} has numbers that are not finite; give real ones")
    if not numbers.size:
        raise MisuseError(f"{place} of shape {numbers.shape} is empty; give some numbers")
    if protocol.op in ROW_OPS and numbers.ndim < 2:
        raise MisuseError(
            f"{place} has shape {numbers.shape}; {protocol.op} works on rows: give (rows, columns)"
        )
    bound = getattr(protocol, "bound", None)
    if isinstance(bound, int | float):
        # Scores of padding come lowered.
        lowers = protocol.op in SOFTMAXES and not protocol.takes_mask
        least = -(3 * bound + MASK_GAP) if lowers else -bound
        wrong = numbers[(numbers > bound) | (numbers < least)]
        if wrong.size:
            raise MisuseError(
                f"{place} has {wrong[0]:g}, outside {least:g} to {bound:g}, where the bound is "
                f"{bound:g}; give numbers inside it or an instance with a larger one"
            )
    return FIXED_POINT.decode(FIXED_POINT.encode(numbers))


# -- one case -------------------------------------------------------------------------------


def _check_case(
    protocol: NonlinearProtocol, case: Case, parties: InsecureLocalParties
) -> CaseCheck:
    place = f"{protocol.op}/{protocol.name}"
    if case.name != _GIVEN:
        place += f", {case.name}"
    x = case.x if protocol.takes_mask else case.lowered(getattr(protocol, "bound", 0.0))
    cost = declared_cost(protocol, x.shape, parties, place)
    require(
        0 <= cost.failure_probability < MAX_FAILURE_PROBABILITY,
        f"{place}: failure probability {cost.failure_probability:.1e}; stay below "
        f"{MAX_FAILURE_PROBABILITY:.1e} for one operation",
    )
    runs = _runs(protocol, case, x, cost, parties, place)
    seen = case.masked() if protocol.takes_mask else x
    reference = _in_the_clear(protocol, "reference", seen, place)
    true = _in_the_clear(protocol, "true_function", seen, place)
    length = x.shape[-1]
    declared = protocol.approximation_error_within(length)
    own, name = _own_error(protocol, length, parties)
    if case.visible is not None:
        hidden = ~np.broadcast_to(case.visible, x.shape)
        largest = max(magnitude(run.output[hidden]) for run in runs)
        within(
            largest,
            own + declared,
            f"{place}: the result for columns of padding, which must be zero,",
            f"{name} with approximation_error",
        )
    error = max(_away(protocol, run.output, reference) for run in runs)
    within(error, own, f"{place}: distance from reference()", name)
    far = _away(protocol, reference, true)
    label = f"{place}: distance of reference() from true_function()"
    within(far, declared, label, "approximation_error")
    whole = max(_away(protocol, run.output, true) for run in runs)
    allowed = protocol.error(length, parties.context)
    within(whole, allowed, f"{place}: distance from true_function()", "error()")
    last = runs[-1]
    return CaseCheck(
        protocol, case.name, x.shape, cost.traffic, cost.ots, error, far, last.seconds, last.output
    )


def _own_error(
    protocol: NonlinearProtocol, length: int, parties: InsecureLocalParties
) -> tuple[float, str]:
    """What it declares against `reference` by the engine at hand, and where."""
    what = f"{protocol.op}/{protocol.name}: protocol_error()"
    error = called(lambda: protocol.protocol_error(length, parties.context), what)
    require(isinstance(error, int | float) and error >= 0, f"{what} returned {error!r}")
    inherits = type(protocol).protocol_error is NonlinearProtocol.protocol_error
    return float(error), "max_error" if inherits else "protocol_error()"


def _away(protocol: NonlinearProtocol, found: FloatArray, wanted: FloatArray) -> float:
    """As the protocol measures it."""
    return magnitude(protocol.distance(found, wanted))


def _in_the_clear(
    protocol: NonlinearProtocol, function: str, x: FloatArray, place: str
) -> FloatArray:
    what = f"{place}: {function}()"
    found = np.asarray(called(lambda: getattr(protocol, function)(x), what))
    require(found.shape == x.shape, f"{what} returned shape {found.shape} for {x.shape}")
    return found


def _runs(
    protocol: NonlinearProtocol,
    case: Case,
    x: FloatArray,
    cost: Cost,
    parties: InsecureLocalParties,
    place: str,
) -> list[ProtocolRun]:
    """Two runs on the same shares; where bits of a mask are taken, one as a model shares them."""
    shares = share_out(FIXED_POINT.encode(x))
    masks: list[Shares | None] = [None, None]
    if protocol.takes_mask:
        visible = case.visible
        if visible is None:
            visible = np.ones((*x.shape[:-2], 1, x.shape[-1])[-x.ndim :], bool)
        drawn = shared_bits(visible, SecureRandom().bits(visible.shape))
        # A client knows its mask: then the server's share is zero.
        masks = [drawn, drawn, shared_bits(visible)]
    runs = [
        run_protocol(protocol, shares, mask, cost, parties, place, prepare=index > 0)
        for index, mask in enumerate(masks)
    ]
    repeated = runs[0].messages & runs[1].messages
    require(
        not repeated,
        f"{place}: {len(repeated)} messages were the same in two runs on the same shares; mask "
        "whatever leaves a party with fresh randomness",
    )
    return runs
