"""Single-use results of the offline phase of a linear layer; see docs/architecture.md."""

from __future__ import annotations

from mpc_nonlinear.fixed_point import RingArray
from transport.errors import UsageError


class LinearPad:
    """What one party keeps of one prepared linear layer, for one input.

    The client: a uniform mask of its input share, and its share of the results. The server: the
    masks of the result's coefficients.
    """

    def __init__(self, layer: str, *arrays: RingArray) -> None:
        self._layer = layer
        self._arrays: tuple[RingArray, ...] | None = arrays

    def take(self) -> tuple[RingArray, ...]:
        """The contents; consumed before anything that depends on them is sent."""
        if self._arrays is None:
            raise UsageError(
                f"{self._layer}: its pad was used already, and a second input under the same pad "
                "would leak their difference; prepare one pad for every input"
            )
        arrays, self._arrays = self._arrays, None
        return arrays
