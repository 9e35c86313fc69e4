"""`hybrid calibrate`: what a unit of every kind of work takes on this machine, measured.

Belongs here: timings of kernels, of blocks between two processes, of whole steps, and the fit of
prices to them. May use: `runtime` and below, both engines; it builds a small `Bert` of its own, and
sees ciphertexts and shares, which it times. Used by `cli`.
"""
