"""Tutorial 1: private inference from Python, and what each side of it knows.

    python experiments/tutorial/01_run_inference.py
    python experiments/tutorial/01_run_inference.py --text "Your own sentence."

`hybrid run` on the command line does this and more. Here both parties are threads of one process,
joined by an in-memory channel that counts like the real one, so that you can step through them with
a debugger. On two machines the same two objects talk through `open_server` and `open_client`.

What to look at:

- `Server` opens the model folder's weights; `Client` opens its `tokenizer.json` and nothing else.
- What passes between them is the channel, and the channel counts it.
- Only the client's report holds the embedding. `PlainEncoder`, the plain float32 model, is the
  yardstick; whoever compares with it must know both sides, which in real use nobody does.
"""

from __future__ import annotations

import os

# Before numpy is imported: one thread a party. More threads fight for the cores.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from hybrid.calibration.calibrate import calibrate, needs_prices  # noqa: E402
from hybrid.config.loading import load_config  # noqa: E402
from hybrid.models.reference import PlainEncoder  # noqa: E402
from hybrid.reports.run_report import compare  # noqa: E402
from hybrid.runtime.launch import Client, Server, finish_embedding  # noqa: E402
from transport.channel import Channel  # noqa: E402
from transport.local import run_both  # noqa: E402
from transport.traffic import Party  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Embed one sentence privately and plainly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "minilm.yaml")
    parser.add_argument("--text", default="The server never sees this sentence.")
    arguments = parser.parse_args()

    # 1. A config is checked when it is read. Both parties have the same one.
    loaded = load_config(arguments.config)
    if needs_prices(loaded.run):
        print("measuring this machine once, for the schedule:")
        calibrate(lambda what: print(f"  {what}"))
    server = Server(loaded)  # Reads weights, calibrates bounds, builds the plan.
    client = Client(loaded)
    token_ids = client.encode(arguments.text, truncate=False)

    # 2. Each party runs its half of the session. Neither can reach the other's objects but
    #    through the channel.
    def party(channel: Channel) -> dict[str, Any]:
        if channel.party is Party.SERVER:
            return server.serve_session(channel)
        return client.ask(channel, [token_ids])

    asked, served, _ = run_both(party)

    # 3. The client's report holds the output, the server's does not.
    (request,) = asked["requests"]
    (other,) = served["requests"]
    assert "output" not in other
    private = np.array(request["output"])
    for phase in ("setup", "offline", "online"):
        row = request[phase]
        sent = (row["client_sent_bytes"] + row["server_sent_bytes"]) / 1e6
        print(f"{phase:8} {row['seconds']:6.2f} s {sent:8.2f} MB {row['rounds']:4} rounds")

    # 4. The plain model on the same tokens, for comparison.
    plain = PlainEncoder(server.model.weights, server.model.architecture)
    tokens = loaded.run.model.tokens
    expected = finish_embedding(plain.embed(token_ids, tokens), loaded)
    accuracy = compare(private, expected)
    print("private:", " ".join(f"{v:+.4f}" for v in private[:6]), "...")
    print("plain:  ", " ".join(f"{v:+.4f}" for v in expected[:6]), "...")
    print(f"cosine {accuracy.cosine:.6f}, largest difference {accuracy.max_abs_error:.1e}")
    print(f"chance of a wrong result: at most {request['failure_probability']:.1e}")


if __name__ == "__main__":
    main()
