"""Plain RLWE on integers modulo 2^l: parameters, keys, encryption and the masked way back.

Belongs here: what is exact and knows no scale. May use: `ckks` (key switching, checks of what the
network sends) and `kernels`. Used by `packings`.
"""
