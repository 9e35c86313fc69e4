"""Words from outside in Markdown: neither formatting nor HTML, in paragraphs, tables and blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from transport.foreign import printable

_SPECIAL = re.compile(
    r"([\\`*\[\]<>~&$]|(?<![^\W_])_|_(?![^\W_])|^[-+=#](?![0-9.])"
    r"|(?<=^[0-9])[.)](?=\s)|(?<=^[0-9]{2})[.)](?=\s))"
)
"""Underscores inside a word and brackets without a link mean nothing."""


def plain_cell(text: str) -> str:
    """A line of a paragraph or table in which no character has a meaning."""
    return _SPECIAL.sub(r"\\\1", " ".join(printable(text, keep="\n").split()))


def quoted(text: str) -> list[str]:
    """An indented block, in which nothing has a meaning."""
    return [f"    {line}" for line in printable(text, keep="\n").split("\n")]


def table_lines(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Of Markdown; cells are one line each, and may be formatted."""
    align = ["---"] + ["---:"] * (len(head) - 1)
    escaped = ([_cell(cell) for cell in cells] for cells in (head, align, *rows))
    return ["| " + " | ".join(cells) + " |" for cells in escaped]


def _cell(text: str) -> str:
    return " ".join(printable(text, keep="\n").split()).replace("|", "\\|")


def environment_lines(environment: Mapping[str, str]) -> list[str]:
    """A list; what variables and the machine say of themselves comes from outside."""
    return [f"- {key}: {plain_cell(text)}" for key, text in environment.items()]
