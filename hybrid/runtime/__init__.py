"""The two parties of a session, as threads or processes: set-up, requests, measurements.

Belongs here: key exchange, the runner of a plan, sessions, processes and who starts them. May use:
`planning` and what it uses. Used by `calibration`, `reports` and `cli`.
"""
