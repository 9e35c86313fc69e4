"""What sessions on one machine and between two check and refuse alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.models.folding import FloatArray
from hybrid.models.generator import PublicGenerator
from hybrid.models.ranges import Bound
from hybrid.runtime.generation_words import RefusedError
from hybrid.runtime.text_checks import foreign_id
from transport.errors import FrameError, UsageError
from transport.foreign import cut


def checked_texts(texts: Sequence[str]) -> Sequence[str]:
    """The texts, once they are a list of at least one and nothing else."""
    if isinstance(texts, str):
        raise UsageError("embed: give a list of texts, not one string")
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | bytes):
        raise UsageError(f"embed: {type(texts).__name__}; give a list of texts")
    found = list(texts)
    if not found:
        raise UsageError("embed: no text; give at least one")
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise UsageError(f"embed: text {index + 1} is of type {type(text).__name__}; give str")
    return found


def checked_description(data: object, parts: Set[str]) -> dict[str, Any]:
    """What a server says of itself: these parts, each yet to be checked, and no others."""
    if not isinstance(data, dict):
        raise FrameError("handshake: the server's description is malformed; same version?")
    if wrong := sorted(data.keys() ^ parts):
        who = "server" if wrong[0] in parts else "client"
        raise FrameError(
            f"handshake: the server's description: {cut(wrong[0])!r} is unknown to the {who}; "
            "install the same release at both"
        )
    return data


def check_rows(rows: FloatArray, edge: str, bound: Bound, place: str) -> None:
    """Refuse what a client sends in and the ranges do not hold, before anything is sent.

    It is all that a client can see of ranges: nobody sees the edges inside the model, which other
    words may exceed all the same. `hybrid run` and `hybrid generate`, which know both sides, do.
    rows: values of the edge as the table has them.
    """
    largest = float(np.abs(rows).max())
    if not largest <= bound.max_abs:
        raise RefusedError(
            f"{place}: a token's embedding reaches {largest:g} on edge {edge!r}, the server's "
            f"ranges hold {bound.max_abs:g}, so the answer would be wrong; use other words, or "
            "have the server raise ranges.margin or name samples of such words in ranges.sentences"
        )


def check_ids(
    model: PublicGenerator, ids: Sequence[int] | NDArray[np.int64], padding: int, past: int
) -> None:
    """Refuse ids behind so many rows of padding, and of the past, that the model does not hold."""
    vocabulary, count = model.architecture.vocabulary, len(ids) + padding
    if not len(ids) or past + count > model.capacity:
        raise RefusedError(
            f"generation: {len(ids)} tokens and {padding} rows of padding, the conversation has "
            f"room for {model.capacity - past}; raise generation.positions or begin a new one"
        )
    wrong = foreign_id(np.asarray(ids), vocabulary)
    if wrong is not None:
        raise RefusedError(f"generation: token id {wrong}; the model's are 0 to {vocabulary - 1}")


def not_open(*, has_failed: bool) -> str:
    """Why a session takes no texts."""
    if has_failed:
        return "session: it has failed or was interrupted before; open a new one"
    return "session: not open; use it in a with statement"
