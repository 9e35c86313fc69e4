"""`hybrid compare`: several configs measured side by side, and one report about all of them.

Belongs here: one complete config for every run, the runs one after the other, medians, reasons,
figures. May use: what `reports` may, and its reports of single sessions. Used by `cli`.
"""
