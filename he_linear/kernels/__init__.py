"""Arithmetic on arrays of residues and of doubles, in vectorised code: no keys, no scales.

Belongs here: transforms, modular products, double-double arithmetic, random ring elements, threads.
May use: numpy, numba, `transport` for randomness and errors. Used by every other room of
`he_linear`.
"""
