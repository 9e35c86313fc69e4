"""The command line: arguments, progress, errors as one line and exit code 2.

Belongs here: what only a person at a terminal needs. May use: everything. Used by no other room.
"""
