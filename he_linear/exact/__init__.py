"""Plain RLWE on integers modulo 2^l: parameters, keys, encryption and the masked way back.

Belongs here: what is exact and knows no scale and no slots. May use: `ckks`, whose key switching
and prime sets serve both schemes, and `kernels`. Used by the exact packings, and by `hybrid`
wherever it has parameters or keys of exact products.
"""
