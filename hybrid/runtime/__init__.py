"""The two parties of a session, as threads or processes: set-up, requests, measurements.

Belongs here: key exchange, the runner of a plan, sessions, processes and who starts them. May use:
`planning` and below, and of the engines keys, sessions and sources. Used by rooms above it.
"""
