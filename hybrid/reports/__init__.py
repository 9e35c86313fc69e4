"""What a reader gets: the report of a run, tables on a terminal, comparisons of configs.

Belongs here: JSON, Markdown, HTML, figures, sentences. May use: `runtime` (measurements),
`planning` (predictions), `machine`, `config`; no engine. Used by `api` and `cli`.
"""
