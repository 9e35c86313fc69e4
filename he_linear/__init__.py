"""Packed homomorphic linear algebra over residue arrays, with SEAL as its trusted base.

This file only lists the packings that a config can name. The rooms, each of which uses those
after it: `packings` (how matrices lie in ciphertexts), `exact` (RLWE on integers modulo 2^l),
`ckks` (RLWE with scales and slots), `kernels` (arithmetic on arrays). The package computes and
never sends: of `transport` it uses errors, randomness, bit packing and counted work.
"""

from he_linear.packings.coefficients import RING_LINEAR_PACKINGS
from he_linear.packings.coefficients_product import RING_PRODUCT_PACKINGS
from he_linear.packings.column_bsgs import ColumnBsgsPacking
from he_linear.packings.halevi_shoup import HaleviShoupPacking
from he_linear.packings.rotated_slots import RotatedSlotsPacking
from he_linear.packings.slot_polynomial import SlotPolynomialPacking
from he_linear.packings.slot_product import SlotProductPacking
from he_linear.packings.token_periodic import TokenPeriodicPacking

PACKINGS = (
    TokenPeriodicPacking,
    ColumnBsgsPacking,
    HaleviShoupPacking,
    RotatedSlotsPacking,
    SlotProductPacking,
    SlotPolynomialPacking,
    *RING_LINEAR_PACKINGS,
    *RING_PRODUCT_PACKINGS,
)

__all__ = ["PACKINGS"]
