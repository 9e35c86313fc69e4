"""Correlations: randomness of two parties that hangs together, made before inputs are known.

Belongs here: sources of random oblivious transfers, one file each, and what they are made of; what
is precomputed from them (`preprocessing`); the dealer's end and what it deals. This file lists the
sources that a config can name. May use: the ground files of the package and `transport`,
but not what carries its frames. Used by `blocks`, and by `hybrid`, which chooses sources and sets
them up.
"""

from __future__ import annotations

from mpc_nonlinear.correlations.base import CorrelationSource, OtReceiver, OtSender
from mpc_nonlinear.correlations.dealer import TrustedDealer, run_dealer
from mpc_nonlinear.correlations.ferret import FerretSource
from mpc_nonlinear.correlations.iknp import IknpSource
from mpc_nonlinear.correlations.softspoken import SoftSpokenSource

__all__ = [
    "SOURCES",
    "CorrelationSource",
    "FerretSource",
    "IknpSource",
    "OtReceiver",
    "OtSender",
    "SoftSpokenSource",
    "TrustedDealer",
    "run_dealer",
]

SOURCES: tuple[type[CorrelationSource], ...] = (
    FerretSource,
    SoftSpokenSource,
    IknpSource,
    TrustedDealer,
)
"""Every source a config can name."""
