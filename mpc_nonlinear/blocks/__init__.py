"""What two parties compute together from shares, in the pieces that protocols are made of.

Belongs here: a session, oblivious transfers of chosen inputs, comparisons, selections, truncations,
products, functions of one number, extrema, decoding; beside every function its exact cost. May use:
`correlations` and the files of the package itself. Used by `protocols` and the operators
of `hybrid`.
"""
