"""For authors of protocols, packings and families: contracts and tiny models.

Belongs here: checks that run both parties in one process and hold an implementation to what it
declares. May use: every room but `cli` and `reports`. Used by tests, tutorials and `hybrid check`.
"""
