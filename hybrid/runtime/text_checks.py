"""What the client's texts and token ids have to be before anything is sent."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.models.embedding import types_of, words_of
from hybrid.models.tokenizing import TextEncoder
from transport.errors import ConfigError, FrameError, UsageError

_SHOWN = 40


class TextWarning(UserWarning):
    """What a user should know of a model folder or a text; nothing is wrong with the run."""


def warn_of_folder(encoder: TextEncoder) -> None:
    """Say what the client's model folder leaves open."""
    for note in encoder.notes:
        warnings.warn(note, TextWarning, stacklevel=3)


def encoded(encoder: TextEncoder, text: str, *, truncate: bool) -> NDArray[np.int64]:
    """Token ids of a text; said where its vector will mean nothing."""
    ids = encoder.encode(text, truncate=truncate)
    note = encoder.note(text)
    if note is not None:
        warnings.warn(note, TextWarning, stacklevel=3)
    return ids


def check_same_texts(encoder: TextEncoder, theirs: object, rows: int) -> None:
    """`ConfigError` where a text would mean something else to the server.

    theirs: facts of the server's encoder, from untrusted plain data; rows: ids of its model.
    """
    if not isinstance(theirs, dict) or any(type(fact) is not str for fact in theirs.values()):
        raise FrameError("handshake: the server's description is malformed; same version?")
    if encoder.vocabulary > rows:
        raise ConfigError(
            f"tokenizer: ids reach {encoder.vocabulary - 1}, the server's model has {rows} rows "
            "for them; use the model folder that belongs to it"
        )
    mine = encoder.facts()
    wrong = next((name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)), None)
    if wrong is not None:
        raise ConfigError(
            f"handshake: {str(wrong)[:_SHOWN]!r} of this model folder is not what the server's "
            "folder says; use the same model folder and version of tokenizers at both parties"
        )


def checked_ids(
    token_ids: Sequence[NDArray[Any]], tokens: int, vocabulary: int, *, pairs: bool = False
) -> list[NDArray[np.int64]]:
    """Token ids of texts, once each is one row of 1 to `tokens` ids of the model.

    pairs: whether ids may carry the type of a second text.
    """
    types = 2 if pairs else 1
    if isinstance(token_ids, str | bytes) or not isinstance(token_ids, Iterable):
        raise UsageError(f"query: {type(token_ids).__name__}; give a list of texts' token ids")
    found = [_checked(i + 1, ids, tokens, vocabulary, types) for i, ids in enumerate(token_ids)]
    if not found:
        raise UsageError("query: no text; give at least one")
    return found


def _checked(
    number: int, given: Any, tokens: int, vocabulary: int, types: int
) -> NDArray[np.int64]:
    place = f"query: text {number}"
    try:
        ids = np.asarray(given)
    except ValueError:
        raise UsageError(f"{place}: token ids of several lengths; give one row of them") from None
    if ids.ndim != 1:
        raise UsageError(f"{place}: token ids with {ids.ndim} axes; give one row of them")
    if not 1 <= len(ids) <= tokens:
        raise UsageError(f"{place}: {len(ids)} tokens; give 1 to {tokens}")
    if ids.dtype.kind not in "iu":
        raise UsageError(f"{place}: token ids of type {ids.dtype}; give integers")
    wrong = foreign_id(ids, vocabulary, types)
    if wrong is not None:
        raise UsageError(f"{place}: token id {wrong}; the model's are 0 to {vocabulary - 1}")
    return ids.astype(np.int64)


def foreign_id(ids: NDArray[Any], vocabulary: int, types: int = 1) -> int | None:
    """The first id that is none of the model's; types: how many kinds of tokens there may be."""
    if ids.dtype.kind == "u":
        large = ids[ids > np.iinfo(np.int64).max]
        if len(large):
            return int(large[0])
    ids = ids.astype(np.int64)
    words, kinds = words_of(ids), types_of(ids)
    wrong = ids[(words < 0) | (words >= vocabulary) | (kinds < 0) | (kinds >= types)]
    return int(wrong[0]) if len(wrong) else None
