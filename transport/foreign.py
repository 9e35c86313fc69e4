"""Values from outside in sentences of our own: cut, and harmless to a terminal."""

from __future__ import annotations

import reprlib
import unicodedata

SHOWN = 120
"""Characters of a value that a sentence holds at most."""
_ENTRIES, _LEVELS = 12, 3
_CUT = ".."


def printable(text: str, keep: str = "") -> str:
    """Control codes, lone surrogates and the like by their numbers, but for those of `keep`."""
    if text.isprintable():
        return text
    return "".join(c if _is_harmless(c) or c in keep else _number(c) for c in text)


def _is_harmless(character: str) -> bool:
    # Spaces of other scripts are no print to Python.
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _number(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def cut(text: str, most: int = SHOWN) -> str:
    """Words as they are, printable, at most so many characters and two dots."""
    shown = printable(text[:most])
    return shown[:most] + _CUT if len(text) > most or len(shown) > most else shown


def shown(value: object, most: int = SHOWN) -> str:
    """A value as its `repr`, printable and cut; a long one is not written out whole first."""
    return cut(_Short(most).repr(value), most)


class _Short(reprlib.Repr):
    """Few entries, few levels, no long words."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxlevel = _LEVELS
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = _ENTRIES
        self.maxstring = self.maxother = most
        self.fillvalue = _CUT

    def repr_int(self, value: int, level: int) -> str:
        """Python writes no integer of thousands of digits."""
        del level
        return repr(value) if value.bit_length() < 4 * SHOWN else _bits(value)

    def repr_dict(self, value: dict[object, object], level: int) -> str:
        """In the order of the file."""
        if level <= 0:
            return "{..}"
        kept = list(value.items())[:_ENTRIES]
        parts = [f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in kept]
        return f"{{{', '.join(parts + [_CUT] * (len(value) > _ENTRIES))}}}"

    def repr_bytes(self, value: bytes, level: int) -> str:
        """Their beginning."""
        del level
        return repr(value[: self.maxstring])


def _bits(value: int) -> str:
    return f"an integer of {value.bit_length()} bits"
