"""Plain RLWE on integers, exact: modulo 2^l in coefficients (`ring_*`), modulo a prime in slots.

Belongs here: parameters, keys, encryption and the masked way back of what knows no scale. May use:
`ckks`, whose keys, key switching and prime sets serve these schemes too, and `kernels`. Used by the
exact packings, and by `hybrid` wherever it has parameters or keys of exact products.
"""
