"""What correlations made in bulk cost: one question and one answer, in frames that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from he_linear.packings.evaluation_work import EvaluationWork
from mpc_nonlinear.cost import Cost
from transport.computing import Trip, Units, Work, add_units, units
from transport.traffic import FRAME_HEADER_BYTES, Traffic


class BulkPacking(Protocol):
    """What a frame each way carries."""

    input_ciphertexts: int
    output_ciphertexts: int

    @property
    def download_bytes(self) -> int:
        """Of the answer."""

    @property
    def wrong_probability(self) -> float:
        """That any of its results is wrong."""

    @property
    def hint_distance(self) -> float:
        """Of its hints from simulated ones."""

    @property
    def work(self) -> EvaluationWork:
        """The server's on ciphertexts."""

    def unit(self, operation: str) -> str:
        """Name of a unit of work."""


def bulk_cost(
    packings: Sequence[BulkPacking], upload_bytes: int, block: str, own: Units = ()
) -> Cost:
    """A frame each way for every packing: exact traffic, chance of a wrong result, what hints tell.

    own: what either party computes on what it holds. 2 rounds.
    """
    frames, named = len(packings), packings[0].unit
    down = sum(p.download_bytes for p in packings)
    inputs = sum(p.input_ciphertexts for p in packings)
    outputs = sum(p.output_ciphertexts for p in packings)
    trip = Trip(
        units({named("slot_encrypt"): inputs}),
        (),
        units({named("slot_parse"): inputs}),
        (),
        add_units(*(p.work.leaving for p in packings), units({named("slot_mask"): outputs})),
        add_units(units({named("slot_unmask"): outputs}), own),
        own,
        frames,
        frames,
        upload_bytes + frames * FRAME_HEADER_BYTES,
        down + frames * FRAME_HEADER_BYTES,
        stages=frames,
    )
    failing = Cost.failing(block, sum(p.wrong_probability for p in packings))
    traffic = Traffic(upload_bytes, down, frames, frames, 2)
    squares = sum(p.hint_distance**2 for p in packings)
    return failing + Cost(traffic, work=Work((trip,)), distance_squares=squares)
