"""What the tutorials share: a tiny random model, and a session between two threads."""

from __future__ import annotations

import os

# Before numpy is imported: one thread a party. More threads fight for the cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from hybrid.config.loading import Config  # noqa: E402
from hybrid.models.reference import PlainEncoder  # noqa: E402
from hybrid.reports.run_report import compare  # noqa: E402
from hybrid.runtime.launch import Client, Server, finish_embedding  # noqa: E402
from transport.channel import Channel  # noqa: E402
from transport.local import run_both  # noqa: E402
from transport.traffic import Party  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.tiny_model import TEXT, write_tiny_config  # noqa: E402

__all__ = ["ROOT", "TEXT", "run_session", "tiny_yaml"]


def tiny_yaml(folder: Path) -> Path:
    """A random one-layer encoder (hidden size 24) in `folder`, with a config; its path."""
    os.environ["HYBRID_CACHE"] = str(folder / "cache")
    return write_tiny_config(folder)


def run_session(loaded: Config, text: str) -> dict[str, Any]:
    """The client's report of one private inference, with accuracy against the plain model.

    Both parties run as threads over an in-memory channel; tutorial 1 explains each step.
    """
    server, client = Server(loaded), Client(loaded)
    token_ids = client.encode(text, truncate=False)

    def party(channel: Channel) -> dict[str, Any]:
        if channel.party is Party.SERVER:
            return server.serve_session(channel)
        return client.ask(channel, [token_ids])

    asked, _, _ = run_both(party)
    (request,) = asked["requests"]
    plain = PlainEncoder(server.model.weights, server.model.architecture)
    expected = finish_embedding(plain.embed(token_ids, loaded.run.model.tokens), loaded)
    accuracy = compare(np.array(request["output"]), expected)
    report: dict[str, Any] = request | {"cosine": accuracy.cosine}
    return report
