"""This machine: what it is, and what it takes for a unit of counted work.

Belongs here: environment, prices and where they are kept, seconds predicted from them. May use:
`config`. Used by what plans, runs, measures and reports.
"""
