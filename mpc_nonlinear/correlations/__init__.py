"""Sources of correlated oblivious transfers."""

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
