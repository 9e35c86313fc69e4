"""CKKS through SEAL: parameters, keys, rotations, embedding, encryption, the masked way back.

Belongs here: what knows a scale or a CKKS key. May use: `kernels`. Used by `exact`, which
shares its key switching and serialisation, and by `packings`.
"""
