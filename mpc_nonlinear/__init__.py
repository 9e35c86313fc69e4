"""Two-party protocols on additive shares modulo 2^64, for everything that is not linear.

This file only lists the protocols that a config can name. The rooms, each of which uses those after
it: `protocols` (a transformer's operations), `blocks` (what they are made of), `correlations`
(oblivious transfers and what a dealer gives). Ground files under them all: `cost` (what is declared
before it runs), `ring_matmul` (exact matrix products), `fixed_point` (numbers and shares).
"""

from mpc_nonlinear.protocols.bolt import BoltGelu, BoltSoftmax
from mpc_nonlinear.protocols.bumblebee import BumbleBeeGelu, BumbleBeeSoftmax
from mpc_nonlinear.protocols.causal_softmax import SquaredPolynomialCausalSoftmax
from mpc_nonlinear.protocols.gelu import EvenPolynomialGelu
from mpc_nonlinear.protocols.gelu_tanh import CubicPiecesGeluTanh, EvenPolynomialGeluTanh
from mpc_nonlinear.protocols.layernorm import OctavePolynomialLayerNorm
from mpc_nonlinear.protocols.own_powers import OwnPowersCausalSoftmax, OwnPowersSoftmax
from mpc_nonlinear.protocols.pieces import PiecesLayerNorm, PiecesRmsNorm
from mpc_nonlinear.protocols.relu import ExactRelu
from mpc_nonlinear.protocols.rmsnorm import OctavePolynomialRmsNorm
from mpc_nonlinear.protocols.silu import CubicPiecesSilu, MagnitudePolynomialSilu
from mpc_nonlinear.protocols.softmax import SquaredPolynomialSoftmax
from mpc_nonlinear.protocols.tanh import MagnitudePolynomialTanh

PROTOCOLS = (
    EvenPolynomialGelu,
    SquaredPolynomialSoftmax,
    OctavePolynomialLayerNorm,
    EvenPolynomialGeluTanh,
    BoltGelu,
    BumbleBeeGelu,
    SquaredPolynomialCausalSoftmax,
    BoltSoftmax,
    BumbleBeeSoftmax,
    ExactRelu,
    MagnitudePolynomialSilu,
    MagnitudePolynomialTanh,
    OctavePolynomialRmsNorm,
    OwnPowersSoftmax,
    OwnPowersCausalSoftmax,
    PiecesRmsNorm,
    PiecesLayerNorm,
    CubicPiecesSilu,
    CubicPiecesGeluTanh,
)

__all__ = ["PROTOCOLS"]
