"""The contract of linear packings, checked in one process; see `hybrid.testing.contracts`."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from he_linear.packings.base import LinearPacking
from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from hybrid.models.ranges import Bound
from hybrid.operators.base import Choice, EncodedLinear, RunState
from hybrid.operators.linear import LinearOperator
from hybrid.testing.local_parties import (
    FIXED_POINT,
    ContractError,
    InsecureLocalParties,
    both,
    magnitude,
    place_of,
    require,
    same_traffic,
    share_out,
    within,
)
from mpc_nonlinear.cost import NO_COST, OtCount
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from transport.channel import Channel
from transport.errors import UsageError
from transport.traffic import Traffic

PACKING_RMS_ERROR = 2.0**-12
"""Of a packed product, relative to the largest output or to one."""
_RUN, _OFFLINE = "run", "offline"


@dataclass(frozen=True, slots=True)
class PackingCheck:
    """What a linear packing declared and did, once it kept its contract."""

    name: str
    shape: tuple[int, int, int]
    traffic: Traffic
    """Declared and measured, ciphertexts after the input is known."""
    ciphertexts: tuple[int, int]
    """In and out."""
    rotations: int
    unused_steps: tuple[int, ...]
    """Rotation keys that were declared, sent and never used."""
    encoded_bytes: int
    rms_error: float
    max_error: float
    seconds: float
    """Of the slower party: encryption, evaluation, both conversions; keys and weights apart."""
    prepared_seconds: float | None
    """Online half of the layer prepared offline; None where the packing cannot be."""


def check_packing(
    packing: type[LinearPacking],
    tokens: int,
    d_in: int,
    d_out: int,
    *,
    diagonal: bool = False,
    baby_steps: int | None = None,
    parties: InsecureLocalParties | None = None,
) -> PackingCheck:
    """Multiply shares of (tokens, in) by weights (in, out) and hold the packing to its contract.

    Checked: packed shapes, exact bytes and rounds, that the declared rotation keys suffice, memory
    of encoded weights, an error of at most `PACKING_RMS_ERROR` rms, refusal of wrong weights; and
    the same again for a layer prepared offline where the packing evaluates plaintexts.
    """
    place = place_of(packing, ("source", "input_scale_bits", "weight_scale_bits"))
    parties = parties or InsecureLocalParties()
    case = _LinearCase(packing, (tokens, d_in, d_out), diagonal, baby_steps, parties, place)
    made, encoded_bytes = case.check_shapes()
    online = case.run(offline=False)
    prepared = case.run(offline=True) if packing.evaluates_plaintexts else None
    unused = sorted({s % parties.parameters.slots for s in made.galois_steps} - online.used_steps)
    return PackingCheck(
        packing.name,
        (tokens, d_in, d_out),
        online.traffic,
        (made.input_ciphertexts, made.output_ciphertexts),
        made.rotations,
        tuple(unused),
        encoded_bytes,
        max(online.rms_error, prepared.rms_error if prepared else 0.0),
        max(online.max_error, prepared.max_error if prepared else 0.0),
        online.seconds,
        prepared.seconds if prepared else None,
    )


class _RecordingKeys(dict[int, Any]):
    """Rotation keys that note which of them were asked for."""

    def __init__(self, keys: dict[int, Any]) -> None:
        super().__init__(keys)
        self.used: set[int] = set()

    def get(self, step: int, default: Any = None) -> Any:
        """The key, noted."""
        self.used.add(step)
        return super().get(step, default)


@dataclass(frozen=True, slots=True)
class _LinearRun:
    traffic: Traffic
    used_steps: set[int]
    rms_error: float
    max_error: float
    seconds: float


class _LinearCase:
    """One packing, shape and set of numbers."""

    def __init__(
        self,
        packing: type[LinearPacking],
        shape: tuple[int, int, int],
        diagonal: bool,
        baby_steps: int | None,
        parties: InsecureLocalParties,
        place: str,
    ) -> None:
        self._packing, self._shape, self._diagonal = packing, shape, diagonal
        self._baby_steps, self._parties, self._place = baby_steps, parties, place
        tokens, d_in, d_out = shape
        rng = np.random.default_rng(tokens + d_in + d_out)
        x = rng.normal(0, 2, (tokens, d_in))
        self._x = FIXED_POINT.decode(FIXED_POINT.encode(x))
        scale = rng.normal(size=d_in) if diagonal else None
        shift = np.zeros(d_in) if diagonal else None
        weights = rng.normal(0, d_in**-0.5, (d_in, d_out))
        self._linear = LinearMap(weights, np.zeros(d_out), scale, shift)

    def check_shapes(self) -> tuple[LinearPacking, int]:
        """The packing, and the memory that its encoded weights really take."""
        made = self._packing(
            self._parties.parameters,
            *self._shape,
            diagonal=self._diagonal,
            baby_steps=self._baby_steps,
        )
        wanted = (made.input_ciphertexts, made.parameters.slots)
        packed = made.pack(FIXED_POINT.encode(self._x).view(np.int64))
        for part in packed:
            require(
                part.shape == wanted and part.dtype == np.int64,
                f"{self._place}: pack() gave {part.dtype} {part.shape}, expected int64 {wanted}",
            )
        encoded = made.encode_weights(self._linear.weight, self._linear.scale)
        size = getattr(encoded, "nbytes", None)
        require(
            size == made.encoded_bytes,
            f"{self._place}: encoded weights take {size} bytes (nbytes), encoded_bytes declares "
            f"{made.encoded_bytes}",
        )
        try:
            made.encode_weights(self._linear.weight[:, :0], self._linear.scale)
        except UsageError:
            return made, made.encoded_bytes
        raise ContractError(f"{self._place}: weights of a wrong shape pass; call check_weights()")

    def run(self, *, offline: bool) -> _LinearRun:
        """Through the operator that a plan would use."""
        bounds = dict.fromkeys(("input", "output"), Bound(0.0, 2.0, 16.0))
        if self._diagonal:
            bounds["diagonal"] = Bound(0.0, 2.0, 16.0)
        node = Node("layer", 0, "linear", ("x",), ("y",), self._shape, bounds, self._diagonal)
        parties = self._parties
        choice = Choice(self._packing.name, prepared=offline)
        context = parties.plan_context(self._baby_steps)
        operator = LinearOperator(node, self._packing, choice, context)
        client, server = parties.keys(parties.parameters, operator.galois_steps)
        recording = _RecordingKeys(dict(server.rotation_keys))
        pairs = [(client, replace(server, rotation_keys=recording))]
        encoded = {node.name: operator.encode(self._linear)}
        shares = share_out(FIXED_POINT.encode(self._x))

        def role(channel: Channel) -> tuple[list[RingArray], float]:
            return _run_linear(operator, parties.state(channel, pairs, OtCount()), encoded, shares)

        (ours, client_s), (theirs, server_s), channel = both(role, self._place)
        same_traffic(operator.cost().traffic, channel.traffic(_RUN), self._place)
        same_traffic(operator.offline_cost().traffic, channel.traffic(_OFFLINE), self._place)
        outputs = [FIXED_POINT.decode(a + b) for a, b in zip(ours, theirs, strict=True)]
        rms, largest = self._errors(outputs)
        return _LinearRun(
            operator.cost().traffic, recording.used, rms, largest, max(client_s, server_s)
        )

    def _errors(self, outputs: list[FloatArray]) -> tuple[float, float]:
        wanted = [self._x @ self._linear.weight]
        if self._linear.scale is not None:
            wanted.append(self._x * self._linear.scale)
        shapes = [y.shape for y in outputs]
        require(
            shapes == [y.shape for y in wanted],
            f"{self._place}: unpack() gave shapes {shapes}, expected {[y.shape for y in wanted]}",
        )
        rms = 0.0
        for got, true in zip(outputs, wanted, strict=True):
            relative = float(np.sqrt(((got - true) ** 2).mean())) / max(1.0, magnitude(true))
            within(relative, PACKING_RMS_ERROR, f"{self._place}: error rms", "PACKING_RMS_ERROR")
            rms = max(rms, relative)
        return rms, max(magnitude(y - true) for y, true in zip(outputs, wanted, strict=True))


def _run_linear(
    operator: LinearOperator,
    state: RunState,
    encoded: dict[str, EncodedLinear],
    shares: tuple[RingArray, RingArray],
) -> tuple[list[RingArray], float]:
    """One party's outputs and the seconds of its online half."""
    channel = state.session.channel
    state = replace(state, encoded={} if state.is_client else encoded)
    if operator.offline_cost() != NO_COST:
        with channel.step(_OFFLINE):
            operator.prepare(state)
    start = time.perf_counter()
    with channel.step(_RUN):
        outputs = operator.run([shares[channel.party]], state)
    return outputs, time.perf_counter() - start
