"""OT extension of [Ishai03]."""

from __future__ import annotations

from typing import ClassVar

from mpc_nonlinear.correlations.extension import ExtensionSource


class IknpSource(ExtensionSource):
    """127 bits of traffic per OT, from the OT's receiver; no assumption beyond AES and CDH."""

    name: ClassVar[str] = "iknp"
    source: ClassVar[str] = "[Ishai03]; first column free as in [Roy22] with k = 1"
    trust: ClassVar[str] = (
        "Oblivious transfers: IKNP extension, semi-honest; base OTs under CDH on edwards25519, "
        "AES as a pseudorandom generator, fixed-key AES as an ideal permutation."
    )
    k: ClassVar[int] = 1
