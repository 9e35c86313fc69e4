"""For authors of protocols, packings and families: contracts and tiny models.

Belongs here: checks that run both parties in one process and hold an implementation to what it
declares, so that they see ciphertexts and shares. May use: `operators`, `models`, `config`, both
engines. Used by tests, tutorials and `hybrid check`.
"""
