"""Tutorial 1: private inference from Python, and what each side of it knows.

    python 01_run_inference.py
    python 01_run_inference.py --config ../minilm.yaml --text "Your own sentence."

Without a config a tiny random model answers, in seconds. `hybrid run` on the command line does this
and more. Here server and client are processes of this machine; on two machines the server calls
`hybrid.serve(config, "tcp://0.0.0.0:5555")` and the client, with the same config,

    with hybrid.connect(config, "tcp://SERVER:5555") as session:
        vectors = session.embed(["A text."])

What to look at:

- The plan says every step's bytes and rounds before anything runs; the report says what came.
- Set-up (keys, encoded weights) is paid once a session, then every `embed` is one request a text.
- A text that is too long is refused before anything is sent, and the session goes on.
- Only the client's process ever holds text and answer; accuracy is in the report because this
  machine plays both sides and may compare with the plain model, which in real use nobody can.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import hybrid

TINY = Path(__file__).with_name("tiny.yaml")


def main() -> None:
    """Embed sentences privately and see what that took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=TINY)
    parser.add_argument("--text", default="The server never sees this.")
    arguments = parser.parse_args()

    # 1. A config is checked when it is read; both parties have the same one.
    config = hybrid.load(arguments.config)
    print(hybrid.plan(config))

    # 2. One session, as many requests as you like.
    with hybrid.local(config) as session:
        (vector,) = session.embed([arguments.text])
        print("embedding:", " ".join(f"{value:+.4f}" for value in vector[:6]), "...")
        try:
            session.embed([f"{arguments.text} " * 200])
        except hybrid.ConfigError as error:
            print(f"as it should be, refused: {error}")
        (again,) = session.embed([arguments.text])
        print(f"the same text again: largest difference {abs(again - vector).max():.1e}")

    # 3. What was measured, one report a request.
    report = session.reports()[0]
    for phase in ("setup", "offline", "online"):
        row = report[phase]
        sent = (row["client_sent_bytes"] + row["server_sent_bytes"]) / 1e6
        print(f"{phase:8} {row['seconds']:6.2f} s {sent:8.2f} MB {row['rounds']:4} rounds")
    accuracy = report["accuracy"]
    print(f"cosine {accuracy['cosine']:.6f} to the plain model")
    print(f"chance of a wrong result: at most {report['failure_probability']:.1e}")


if __name__ == "__main__":
    main()
