"""Two-party protocols on additive shares modulo 2^64, for everything that is not linear."""

from mpc_nonlinear.protocols.bolt import BoltGelu, BoltSoftmax
from mpc_nonlinear.protocols.bumblebee import BumbleBeeGelu, BumbleBeeSoftmax
from mpc_nonlinear.protocols.causal_softmax import CausalSoftmax
from mpc_nonlinear.protocols.gelu import EvenPolynomialGelu
from mpc_nonlinear.protocols.gelu_tanh import TanhFormGelu
from mpc_nonlinear.protocols.layernorm import OctaveLayerNorm
from mpc_nonlinear.protocols.relu import ExactRelu
from mpc_nonlinear.protocols.rmsnorm import OctaveRmsNorm
from mpc_nonlinear.protocols.silu import MagnitudePolynomialSilu
from mpc_nonlinear.protocols.softmax import SquaredPolynomialSoftmax
from mpc_nonlinear.protocols.tanh import MagnitudePolynomialTanh

PROTOCOLS = (
    EvenPolynomialGelu,
    SquaredPolynomialSoftmax,
    OctaveLayerNorm,
    TanhFormGelu,
    BoltGelu,
    BumbleBeeGelu,
    CausalSoftmax,
    BoltSoftmax,
    BumbleBeeSoftmax,
    ExactRelu,
    MagnitudePolynomialSilu,
    MagnitudePolynomialTanh,
    OctaveRmsNorm,
)

__all__ = ["PROTOCOLS"]
