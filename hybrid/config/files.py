"""Text files from outside: UTF-8, with or without a byte-order mark, whatever ends their lines."""

from __future__ import annotations

import codecs
from pathlib import Path

from transport.errors import ConfigError
from transport.foreign import cut

_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
"""Longer marks first: one begins with another."""


class NoTextError(ValueError):
    """Bytes that are no text in UTF-8; the message says what they are instead."""


def read_text(path: Path) -> str:
    r"""The text of a file, its lines ended by \n; `OSError`, or `NoTextError`.

    A byte-order mark at its beginning is no part of it.
    """
    return decoded(path.read_bytes())


def decoded(data: bytes) -> str:
    """The same of bytes."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            raise NoTextError(f"it is {name}, not UTF-8; save it as UTF-8")
    nul = data.find(b"\0")
    if nul >= 0:
        raise NoTextError(f"a NUL byte in line {_line(data, nul)}; save it as UTF-8 text")
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        # Counted in what was decoded, but a mark at the beginning ends no line.
        place = f"byte 0x{error.object[error.start]:02x} in line {_line(error.object, error.start)}"
        raise NoTextError(f"{place} is not UTF-8 text; save it as UTF-8") from None
    return unified(text)


def _line(data: bytes, at: int) -> int:
    return len(data[:at].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))


def unified(text: str) -> str:
    r"""Lines ended by \n, as files read in text mode have them."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_lines(text: str, *, comments: bool = False) -> list[str]:
    r"""Lines that are not blank, without white space at their ends.

    Only \n, \r and \r\n end a line: a text may hold a line separator, a form feed or the like.
    comments: lines that start with # are skipped.
    """
    lines = unified(text.removeprefix("\ufeff")).split("\n")
    kept = (line for line in lines if not (comments and line.startswith("#")))
    return [line.strip() for line in kept if line.strip()]


def read_lines(path: Path, place: str, remedy: str, *, comments: bool = False) -> list[str]:
    """Texts of a file, one a line, at least one.

    `ConfigError` begins with place, which is the key or option that names the file, and says why
    the file cannot be read, with the remedy.
    """
    try:
        lines = text_lines(read_text(path), comments=comments)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place}: {path} cannot be read ({reason(error)}); {remedy}") from None
    if not lines:
        raise ConfigError(f"{place}: {path} is empty; write one text a line")
    return lines


def reason(error: OSError | ValueError) -> str:
    """Why a file could not be read, in a few words."""
    return (isinstance(error, OSError) and error.strerror) or cut(str(error))
