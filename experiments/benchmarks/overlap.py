"""What overlapping buys: the same trips with both parties and the link taking turns.

`overlapped` is what the library does: a ciphertext is on the wire while the next one is worked on.
`in turn` encrypts everything, sends, receives everything, evaluates everything, and so on, with the
same frames and bytes. One JSON line a case and link on standard output, a table on standard error.

    python experiments/benchmarks/overlap.py
    python experiments/benchmarks/overlap.py --link wan2 --runs 5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pair import Outcome, measure

import bench_linear  # isort: skip
import bench_nonlinear  # isort: skip
from nonlinear_cases import Case as NonlinearCase  # isort: skip

from he_linear.ckks import ciphertexts as he
from hybrid.config.schema import LINK_PROFILES
from hybrid.operators.conversion import Conversion, Operand
from hybrid.operators.homomorphic import Evaluate, HomomorphicClient, HomomorphicServer
from hybrid.reports.files import json_line
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations import SOURCES
from mpc_nonlinear.fixed_point import RingArray
from transport.channel import Channel

CASES = {
    "linear 32x384 @ 384x1536": bench_linear.Case("matmul", (32, 384, 1536), "token_periodic"),
    "attention 12 x (32x32 @ 32x32)": bench_linear.Case(
        "attention", (12, 32, 32, 32), "rotated_slots"
    ),
    "GELU 32x1536": NonlinearCase(
        "gelu", (32, 1536), "even_polynomial", SOURCES[0].name, "cheapest", 0
    ),
}


@dataclass(frozen=True)
class Case:
    """One trip and how it goes."""

    name: str
    overlapped: bool


class ClientInTurn(HomomorphicClient):
    """Encrypts everything, then sends; receives everything, then decrypts."""

    def apply(
        self,
        operands: Sequence[Operand],
        conversion: Conversion,
        evaluate: Evaluate,  # noqa: ARG002
        session: Session,
    ) -> tuple[RingArray, RingArray]:
        """As the overlapped one, step after step."""
        keys, channel = self._keys[conversion.parameters], session.channel
        channel.next_round()
        at, messages = [0] * len(operands), []
        for counts in conversion.uploads():
            parts = [o.part(i, n) for o, i, n in zip(operands, at, counts, strict=True)]
            encoded = [self.encode(part, conversion.parameters) for part in parts]
            messages.append(b"".join(he.encrypt_seeded(e, keys, self._randomness) for e in encoded))
            at = [i + n for i, n in zip(at, counts, strict=True)]
        for message in messages:
            channel.send(message)
        counts = conversion.downloads()
        answers = [channel.recv(he.masked_bytes(n, conversion.parameters)) for n in counts]
        parts = [he.unmask(a, n, keys) for a, n in zip(answers, counts, strict=True)]
        return self._finish(parts, conversion, session)


class ServerInTurn(HomomorphicServer):
    """Receives everything, then evaluates everything, then sends."""

    def apply(
        self,
        operands: Sequence[Operand],
        conversion: Conversion,
        evaluate: Evaluate,
        session: Session,
    ) -> tuple[RingArray, RingArray]:
        """As the overlapped one, step after step."""
        keys, channel = self._keys[conversion.parameters], session.channel
        channel.next_round()
        uploads = list(self._uploads(None, conversion, channel))
        own = [self.encode(operand, conversion.parameters) for operand in operands]
        at = [0] * len(own)
        for frame in uploads:
            for index, parsed in enumerate(frame):
                part = own[index][at[index] : at[index] + len(parsed)]
                frame[index] = he.add_plain(parsed, part, conversion.parameters)
                at[index] += len(parsed)
        masked = [
            he.mask_for_client(result, keys, self._randomness)
            for result in list(evaluate(iter(uploads), keys))
        ]
        for message, _ in masked:
            channel.send(message)
        return self._finish([mask for _, mask in masked], conversion, session)


def factory(channel: Channel, case: Case) -> Any:
    """One party's side."""
    kinds = (HomomorphicClient, HomomorphicServer)
    client, server = kinds if case.overlapped else (ClientInTurn, ServerInTurn)
    inner = CASES[case.name]
    module: Any = bench_linear if isinstance(inner, bench_linear.Case) else bench_nonlinear
    module.HomomorphicClient, module.HomomorphicServer = client, server
    return module.factory(channel, inner)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", choices=["none", *LINK_PROFILES], action="append")
    parser.add_argument("--runs", type=int, default=5, help="after one warm-up; median reported")
    arguments = parser.parse_args()
    cases = [Case(name, overlapped) for name in CASES for overlapped in (False, True)]
    for link in arguments.link or ["none", "lan", "wan2"]:
        in_turn: dict[str, float] = {}

        def report(
            case: Case, outcome: Outcome, link: str = link, in_turn: dict[str, float] = in_turn
        ) -> None:
            seconds = outcome.seconds["online"]
            if not case.overlapped:
                in_turn[case.name] = seconds
                return
            before = in_turn[case.name]
            row = {"case": case.name, "link": link, "in_turn_s": before, "overlapped_s": seconds}
            print(json_line(row), flush=True)
            print(
                f"{link:<5} {case.name:<32} in turn {before * 1e3:7.1f} ms  overlapped "
                f"{seconds * 1e3:7.1f} ms  gain {1 - seconds / before:.0%}",
                file=sys.stderr,
            )

        profile = LINK_PROFILES.get(link)
        measure(factory, cases, runs=arguments.runs, report=report, link=profile)


if __name__ == "__main__":
    main()
