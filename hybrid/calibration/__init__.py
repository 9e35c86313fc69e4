"""`hybrid calibrate`: what a unit of every kind of work takes on this machine, measured.

Belongs here: timings of kernels, of blocks between two processes, of whole steps, and the fit of
prices to them. May use: `runtime` and what it uses. Used by `cli` and by tests.
"""
