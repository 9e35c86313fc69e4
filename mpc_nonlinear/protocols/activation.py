"""What activations by pieces or by a polynomial take from calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from mpc_nonlinear.protocols.base import Magnitudes, NonlinearProtocol


class Activation(NonlinearProtocol):
    """`bound`: largest |x|; `rms`: its root mean square, which lifts fail by."""

    bound: float
    rms: float

    @classmethod
    def for_operation(
        cls, width: int, bounds: Mapping[str, Magnitudes], constants: Mapping[str, float]
    ) -> Self:
        """From the bounds of "input"."""
        del width, constants
        make: Any = cls
        made: Self = make(bounds["input"].max_abs, bounds["input"].rms)
        return made
