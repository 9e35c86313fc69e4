"""CKKS with keys that SEAL draws: parameters, embedding, encryption, rotations, the way back.

Belongs here: what knows a scale, a slot or a CKKS key. Key switching knows neither scale nor slots;
it lies here because its parameters are CKKS's, and `exact` takes it from here. May use: `kernels`.
Used by `exact`, `packings`, and by `hybrid` wherever it has parameters or keys of CKKS.
"""
