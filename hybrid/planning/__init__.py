"""From a graph to a plan: who carries every step, and what it will cost.

Belongs here: the catalog, binding, candidates, the search for a schedule, the plan itself. May use:
`operators`, `machine` (prices), `models` (graphs), `config`, and what the engines list and declare.
Used by `runtime` and rooms above it.
"""
