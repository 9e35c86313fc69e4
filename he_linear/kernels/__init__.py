"""Arithmetic on arrays, compiled and vectorised: no parameter sets, no keys, no scales.

Belongs here: single numbers modulo a prime (`scalars`) and vector code for 8 of them; transforms,
products and matrix products of residues; pairs of doubles; random ring elements; residues as
bytes; threads. May use: numpy, numba, and `transport` for errors, randomness and bit packing. Used
by every other room of `he_linear`, and by `hybrid` for residues, threads and what it measures.
"""
