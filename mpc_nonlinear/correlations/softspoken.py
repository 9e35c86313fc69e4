"""OT extension of [Roy22] (SoftSpokenOT): less traffic than IKNP for more local work."""

from __future__ import annotations

from typing import ClassVar

from mpc_nonlinear.correlations.extension import ExtensionSource


class SoftSpokenSource(ExtensionSource):
    """31 bits of traffic per OT, from the OT's receiver; the assumptions of IKNP.

    A subclass with another k (1, 2, 4 or 8) moves 128/k - 1 bits and computes 2^k/k times as much.
    """

    name: ClassVar[str] = "softspoken"
    source: ClassVar[str] = "[Roy22] eprint 2022/192, section 3, semi-honest"
    trust: ClassVar[str] = (
        "Oblivious transfers: SoftSpokenOT extension, semi-honest; base OTs under CDH on "
        "edwards25519, AES as a pseudorandom generator, fixed-key AES as an ideal permutation."
    )
    k: ClassVar[int] = 4
