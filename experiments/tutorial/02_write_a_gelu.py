"""Tutorial 2: a GELU of your own, held to its word, then inside a model.

    python experiments/tutorial/02_write_a_gelu.py

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

import tempfile
from pathlib import Path

from tiny import TEXT, run_session, tiny_yaml

import numpy as np  # isort: skip
from my_gelu import THRESHOLD, ClippedQuadraticGelu

from hybrid.config.loading import load_config
from hybrid.testing.contracts import ContractError, InsecureLocalParties, check_protocol
from mpc_nonlinear import PROTOCOLS
from mpc_nonlinear.cost import Cost

EvenPolynomialGelu = PROTOCOLS[0]


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

    # 4. In a model: one line names the module, one the protocol.
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_yaml(Path(folder))
        text = path.read_text()
        for name in ("even_polynomial", ClippedQuadraticGelu.name):
            path.write_text(text.replace("even_polynomial", name) + "plugins: [my_gelu]\n")
            report = run_session(load_config(path), TEXT)
            (step,) = [s for s in report["steps"] if s["op"] == "gelu"]
            same = all(step["predicted"][k] == step["measured"][k] for k in step["predicted"])
            sent = step["measured"]["client_sent_bytes"] + step["measured"]["server_sent_bytes"]
            print(
                f"model with {step['protocol']:18}: cosine {report['cosine']:.6f}, its step sent "
                f"{sent} bytes in {step['measured']['rounds']} rounds, as predicted: {same}"
            )


if __name__ == "__main__":
    main()
