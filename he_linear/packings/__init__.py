"""How matrices lie in ciphertexts: a packing knows shapes, not data and not parties.

Belongs here: layouts, the rotations they need, their counted work and memory, their evaluation on
ciphertexts; one file a packing or a family of them, and their base classes: `base` for packings in
slots, `ring_base` for exact ones. May use: `exact`, `ckks`, `kernels`. Used by `hybrid`: its
catalog finds packings through `he_linear.PACKINGS`, operators take base classes and products in
slots.
"""
