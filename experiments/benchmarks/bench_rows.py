"""Rows rho W by exact slots for SmolLM2-135M's matrices: both parties' time and bytes a row.

Both parties' computation in one thread, no channel, in processor time, which other programs on the
machine disturb less than the clock: client (encryption, decryption, slots), server (parsing, moving
the inputs, encoding weights, products, giant steps, fresh zero and mask), and the online product of
one token. Best of several runs after a warm-up; one row of every batch is checked against rho W
modulo t. One JSON line a matrix on standard output, a table on standard error.

    python experiments/benchmarks/bench_rows.py
    python experiments/benchmarks/bench_rows.py --tokens 128 --shapes 576x960
"""

from __future__ import annotations

import argparse
import sys
import time

from hybrid.machine.environment import keep_memory, limit_threads

limit_threads()

import numpy as np  # noqa: E402

from he_linear.ckks.keys import ClientKeys, ServerKeys  # noqa: E402
from he_linear.exact.slot_encryption import (  # noqa: E402
    slot_encrypt,
    slot_mask_for_client,
    slot_parse,
    slot_unmask,
)
from he_linear.exact.slot_parameters import SLOT_SETS  # noqa: E402
from he_linear.kernels.row_products import IntegerMatrix  # noqa: E402
from he_linear.packings.exact_rows import ExactRowsPacking, shared_galois_steps  # noqa: E402
from he_linear.packings.row_blocks import Room  # noqa: E402
from hybrid.operators.exact_rows import rows_product_traffic  # noqa: E402
from hybrid.reports.files import json_line  # noqa: E402
from transport.randomness import SecureRandom  # noqa: E402

SHAPES = "576x960,576x576,576x3072,1536x576"
"""One layer of SmolLM2-135M: queries, keys and values; output; gate and up; down."""
PARAMETERS = SLOT_SETS["n8192_t44"]


class Bench:
    """Keys and memory of both parties, for all shapes of one batch size."""

    def __init__(self, packings: list[ExactRowsPacking]) -> None:
        steps = shared_galois_steps(packings)
        self.client = ClientKeys.generate(PARAMETERS, steps, False, SecureRandom())
        public = self.client.public_bytes()
        self.server = ServerKeys.parse(PARAMETERS, public, steps, False)
        self.room = Room()
        self.summary = f"{len(steps)} rotation keys, {len(public) / 1e6:.1f} MB"

    def batch(self, packing: ExactRowsPacking, weights: IntegerMatrix) -> dict[str, float]:
        """Milliseconds of every part of one batch; raises where a row is wrong."""
        inputs, outputs = packing.input_ciphertexts, packing.output_ciphertexts
        times = [time.process_time()]
        message, drawn = slot_encrypt(inputs, self.client, SecureRandom())
        rho = packing.rows_in(drawn)
        times.append(time.process_time())
        ciphertexts = slot_parse(message, inputs, PARAMETERS)
        results = packing.stream(ciphertexts, weights, self.server, self.room)
        answer, masks = slot_mask_for_client(results, self.server, SecureRandom())
        own = packing.rows_out(masks)
        times.append(time.process_time())
        other = packing.rows_out(slot_unmask(answer, outputs, self.client))
        times.append(time.process_time())
        t = PARAMETERS.plain_prime
        row = (own[-1] + other[-1]) % np.uint64(t)
        if (row != weights.rows_times(rho[-1:], t)[0]).any():
            raise SystemExit("a row differs from rho W modulo t")
        encrypt, server, decrypt = 1e3 * np.diff(times)
        return {"client": encrypt + decrypt, "server": server}

    def online(self, weights: IntegerMatrix) -> float:
        """Milliseconds of one token's product."""
        row = SecureRandom().uint64(weights.shape[0]) % np.uint64(PARAMETERS.plain_prime)
        start = time.process_time()
        weights.rows_times(row[None], PARAMETERS.plain_prime)
        return 1e3 * (time.process_time() - start)


def measured(bench: Bench, packing: ExactRowsPacking, runs: int) -> dict[str, float]:
    """Best of all runs after one, for a batch and for one token."""
    shape = (packing.d_in, packing.d_out)
    integers = np.random.default_rng(2).integers(-(2**14), 2**14, shape)
    weights = IntegerMatrix.from_integers(integers)
    batches = [bench.batch(packing, weights) for _ in range(runs + 1)][1:]
    best = {name: min(batch[name] for batch in batches) for name in batches[0]}
    tokens = packing.tokens
    return {
        "server_ms": best["server"],
        "client_ms": best["client"],
        "server_ms_row": best["server"] / tokens,
        "client_ms_row": best["client"] / tokens,
        "up_bytes_row": packing.upload_bytes / tokens,
        "down_bytes_row": packing.download_bytes / tokens,
        "online_ms": min(bench.online(weights) for _ in range(10 * runs)),
        "online_bytes": rows_product_traffic(packing.d_in, PARAMETERS).client_payload_bytes,
        "room_mb": packing.room_bytes / 1e6,
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    keep_memory()
    shapes = [tuple(map(int, name.split("x"))) for name in arguments.shapes.split(",")]
    packings = [ExactRowsPacking(PARAMETERS, arguments.tokens, *shape) for shape in shapes]
    bench = Bench(packings)
    print(f"{arguments.tokens} rows, {bench.summary}", file=sys.stderr)
    print("matrix | server ms | client ms | a row: server, client ms | up, down bytes | "
          "online ms, bytes | room MB", file=sys.stderr)  # fmt: skip
    for packing in packings:
        r = measured(bench, packing, arguments.runs)
        name = f"{packing.d_in}x{packing.d_out}"
        print(json_line({"matrix": name, "tokens": packing.tokens, **r}), flush=True)
        print(f"{name} | {r['server_ms']:.0f} | {r['client_ms']:.0f} | {r['server_ms_row']:.2f}, "
              f"{r['client_ms_row']:.2f} | {r['up_bytes_row']:.0f}, {r['down_bytes_row']:.0f} | "
              f"{r['online_ms']:.2f}, {r['online_bytes']:.0f} | {r['room_mb']:.0f}",
              file=sys.stderr)  # fmt: skip


if __name__ == "__main__":
    main()
