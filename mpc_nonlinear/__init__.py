"""Two-party protocols on additive shares modulo 2^64, for everything that is not linear."""

from mpc_nonlinear.protocols.gelu import EvenPolynomialGelu
from mpc_nonlinear.protocols.layernorm import OctaveLayerNorm
from mpc_nonlinear.protocols.softmax import SquaredPolynomialSoftmax

PROTOCOLS = (EvenPolynomialGelu, SquaredPolynomialSoftmax, OctaveLayerNorm)

__all__ = ["PROTOCOLS"]
