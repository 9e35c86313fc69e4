"""How matrices lie in ciphertexts, one file a packing; a packing knows shapes, not data.

Belongs here: layouts, their counted work and memory, evaluation on ciphertexts. May use: `exact`,
`ckks`, `kernels`. Used by the operators of `hybrid`; `he_linear.PACKINGS` lists them.
"""
