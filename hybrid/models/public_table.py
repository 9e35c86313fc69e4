"""How the client gets the embedding table of `embedding: public_table`.

It travels once; the client keeps it by its SHA-256 in its cache folder, and says in the next
session's set-up that it has it.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hybrid.config.places import cache_folder
from hybrid.models.architecture import Architecture
from hybrid.models.family import PublicTable
from transport.channel import Channel
from transport.errors import FrameError

MAX_TABLE_BYTES = 1 << 30
"""A server that announces more is refused before anything is received."""
_WANTED, _KNOWN = b"\x01", b"\x00"


class HasTable(Protocol):
    """A model whose family makes tables of arrays."""

    @property
    def family(self) -> Any:
        """Has `public_shapes` and `public_table`."""

    @property
    def architecture(self) -> Architecture:
        """Public sizes."""


def send_table(channel: Channel, table: PublicTable) -> None:
    """Server: send the table if the client asks for it."""
    if channel.recv(1) == _KNOWN:
        return
    for array in table.arrays():
        channel.send_array(array)


def receive_table(channel: Channel, model: HasTable, digest: str) -> PublicTable:
    """Client: the table with this digest, from the cache or from the server."""
    path = cache_folder() / f"embedding-{digest}.bin"
    shapes = model.family.public_shapes(model.architecture)
    sizes = [math.prod(shape) * 4 for shape in shapes]
    if sum(sizes) > MAX_TABLE_BYTES:
        raise FrameError(
            f"setup: the server announces an embedding table of {sum(sizes)} bytes, more than "
            f"{MAX_TABLE_BYTES}; is it the right server?"
        )
    cached = _read(path, sum(sizes))
    if cached is not None:
        table = _build(cached, shapes, model)
        if table.digest() == digest:
            channel.send(_KNOWN)
            return table
    channel.send(_WANTED)
    data = b"".join(channel.recv(size) for size in sizes)
    table = _build(data, shapes, model)
    if table.digest() != digest:
        raise FrameError("setup: the embedding table does not have the announced SHA-256")
    _write(path, data)
    return table


def _build(data: bytes, shapes: tuple[tuple[int, ...], ...], model: HasTable) -> PublicTable:
    arrays, start = [], 0
    for shape in shapes:
        count = math.prod(shape)
        array = np.frombuffer(data, np.float32, count, start).reshape(shape)
        if not np.isfinite(array).all():
            raise FrameError("setup: the embedding table holds values that are not finite numbers")
        arrays.append(array)
        start += 4 * count
    table: PublicTable = model.family.public_table(arrays, model.architecture)
    return table


def _read(path: Path, size: int) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if len(data) == size else None


def _write(path: Path, data: bytes) -> None:
    """Keep the table; a folder that cannot be written only costs the next transfer."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                file.write(data)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError:
        return
