"""What a person says of a run: one strict YAML file, its texts, options of the command line.

Belongs here: the schema, reading and checking, changes by `--set`, where caches lie. May use:
`transport` for errors and link models, no room of `hybrid`. Used by rooms above it.
"""
