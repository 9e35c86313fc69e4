"""Two-party protocols on additive shares modulo 2^64, for everything that is not linear."""

from mpc_nonlinear.protocols.gelu import EvenPolynomialGelu
from mpc_nonlinear.protocols.layernorm import NewtonLayerNorm
from mpc_nonlinear.protocols.softmax import SquaringSoftmax

PROTOCOLS = (EvenPolynomialGelu, SquaringSoftmax, NewtonLayerNorm)

__all__ = ["PROTOCOLS"]
