"""Tutorial 2: a GELU of your own, held to its word, then inside a model.

    python 02_write_a_gelu.py

A protocol is one class: `run` says what the parties do with their shares, `cost` says what that
sends and consumes, `reference` what it computes. `my_gelu.py` beside this file is one, outside the
package: any importable module with a PROTOCOLS tuple is a plugin. Read it first; then run this.

- `check_protocol` runs both parties on shares of numbers that you choose and compares everything
  with the declaration. A wrong declaration is an error that says what was found.
- A planner trusts `cost`, so bytes and rounds must be exact, not roughly right.
- `max_error` is against `reference`; `approximation_error` is how far `reference` is from the true
  function. Keep them apart: the first is your protocol's, the second your mathematics'.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from my_gelu import THRESHOLD, ClippedQuadraticGelu

import hybrid
from hybrid.testing.contracts import ContractError, InsecureLocalParties, check_protocol
from mpc_nonlinear import PROTOCOLS
from mpc_nonlinear.cost import Cost

TINY = Path(__file__).with_name("tiny.yaml")
EvenPolynomialGelu = next(p for p in PROTOCOLS if (p.op, p.name) == ("gelu", "even_polynomial"))


class Forgetful(ClippedQuadraticGelu):
    """Declares no messages at all."""

    __slots__ = ()

    def cost(self, shape: tuple[int, ...], context: object) -> Cost:
        """Right correlations, no traffic."""
        whole = ClippedQuadraticGelu.cost(self, shape, context)
        return Cost(ots=whole.ots, demand=whole.demand)


def main() -> None:
    """Check, compare, use."""
    # 1. Numbers to test on: the whole range, and closely around both thresholds.
    near = np.linspace(-0.02, 0.02, 41)
    x = np.concatenate([np.linspace(-16, 16, 1001), THRESHOLD + near, -THRESHOLD + near])

    # 2. Both ways of multiplying: by oblivious transfer, and in CKKS slots.
    for multiply in ("ot", "ckks"):
        parties = InsecureLocalParties(multiply)
        for protocol in (ClippedQuadraticGelu(bound=16.0), EvenPolynomialGelu(bound=16.0)):
            check = check_protocol(protocol, x, parties)
            print(
                f"{check.name:18} products by {multiply:4}: {check.traffic.sent_bytes:8} bytes, "
                f"{check.traffic.rounds:2} rounds, {check.ots.total:6} OTs, "
                f"error {check.error:.1e} + {check.approximation_error:.1e}"
            )

    # 3. What a wrong declaration leads to.
    try:
        check_protocol(Forgetful(bound=16.0), x)
    except ContractError as error:
        print(f"as it should be, refused: {str(error)[:60]}...")

    # 4. In a model: one key names the module, one the protocol.
    for name in ("even_polynomial", ClippedQuadraticGelu.name):
        config = hybrid.load(TINY, set=["plugins=[my_gelu]", f"protocols.gelu={name}"])
        with hybrid.local(config) as session:
            session.embed(["a small test of private inference"])
        (report,) = session.reports()
        (step,) = [s for s in report["steps"] if s["op"] == "gelu"]
        measured = step["measured"]
        same = all(measured[key] == value for key, value in step["predicted"].items())
        print(
            f"model with {name:18}: cosine {report['accuracy']['cosine']:.6f}, its step sent "
            f"{measured['client_sent_bytes'] + measured['server_sent_bytes']} bytes in "
            f"{measured['rounds']} rounds, as predicted: {same}"
        )


if __name__ == "__main__":
    main()
