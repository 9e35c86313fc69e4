"""Linear layers whose scaled residual is further columns of one integer matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from mpc_nonlinear.fixed_point import FixedPoint, RingArray


def whole_integers(linear: LinearMap, fixed_point: FixedPoint) -> NDArray[np.int64]:
    """Weights rounded to units, (in, out), or (in, out + in) with the residual's scaling."""
    full = linear.weight
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
