"""What two parties compute together from shares, in the pieces that protocols are made of.

Belongs here: the session of two parties, oblivious transfers of chosen inputs, comparisons,
selections, truncations, products, functions of one number, extrema, decoding; beside every
function its exact cost. May use: `correlations`, which a session hands out, and the ground files.
Used by `protocols` and by `hybrid`, for sessions, engines of products and operators of its own.
"""
