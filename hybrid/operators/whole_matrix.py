"""Linear layers whose scaled residual is further columns of one integer matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from mpc_nonlinear.fixed_point import FixedPoint, RingArray
from transport.errors import ConfigError

_FAINTEST_UNITS = 16
"""Least root mean square of weights, in units: rounding them is 2 % of it."""


def whole_integers(linear: LinearMap, fixed_point: FixedPoint, node: str) -> NDArray[np.int64]:
    """Weights rounded to units, (in, out), or (in, out + in) with the residual's scaling.

    `ConfigError` where hardly anything of them is left.
    """
    full = linear.weight
    magnitude = float(np.sqrt((full**2).mean()))
    if 0 < magnitude < _FAINTEST_UNITS * fixed_point.unit:
        raise ConfigError(
            f"{node}: weights have a root mean square of {magnitude:g}, which vanishes in units of "
            f"{fixed_point.unit:g}; choose a protocol of linear layers that "
            "scales them, such as token_periodic, or scale them up and those before them down"
        )
    if linear.scale is not None:
        full = np.concatenate([full, np.diag(linear.scale)], axis=1)
    integers: NDArray[np.int64] = np.rint(full / fixed_point.unit).astype(np.int64)
    return integers


def split_columns(full: RingArray, node: Node) -> list[RingArray]:
    """The product and, for a diagonal node, the scaled input."""
    d_out = node.shape[2]
    outputs = [np.ascontiguousarray(full[:, :d_out])]
    if node.diagonal:
        outputs.append(np.ascontiguousarray(full[:, d_out:]))
    return outputs
