"""Tutorial 3: a packing of your own for linear layers, beside the built-in ones.

    python experiments/tutorial/03_write_a_packing.py

A packing says where numbers stand in ciphertexts (`pack`, `unpack`), what the weights become
(`encode_weights`) and what the server does (`evaluate`). Everything else, encryption, masking and
the ways from shares to ciphertexts and back, is the library's, and safe whatever a packing does:
results leave the server masked, in every coefficient. `my_packing.py` beside this file is one,
outside the package: any importable module with a PACKINGS tuple is a plugin. Read it first.

- Slots that hold partial sums are no leak: the client sees a uniform share of them.
- Sums that can wait should wait: on shares they cost nothing, under encryption each halving is a
  rotation of 0.5 ms, and a rotation key of 0.3 MB.
- What waits must be sent: see how the bytes grow with the layer, and which side they come from.
- A packing that can do its map on plaintexts too (`evaluate_plain`) also serves layers prepared
  before the input is known; online that then sends 8 bytes a number, whatever the packing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tiny import TEXT, run_session, tiny_yaml

from my_packing import RepeatedTokenPacking  # isort: skip

from he_linear.packings.base import LinearPacking
from he_linear.packings.halevi_shoup import HaleviShoupPacking
from he_linear.packings.token_periodic import TokenPeriodicPacking
from hybrid.config.loading import load_config
from hybrid.testing.contracts import InsecureLocalParties, check_packing

PACKINGS: tuple[type[LinearPacking], ...] = (
    RepeatedTokenPacking,
    TokenPeriodicPacking,
    HaleviShoupPacking,
)
SHAPES = [(1, 24, 72), (1, 256, 256), (8, 64, 64)]


def main() -> None:
    """Check, compare, use."""
    # 1. Each run multiplies real shares by real weights and compares with numpy; sizes, bytes,
    #    rounds, memory and keys with what the packing declares.
    parties = InsecureLocalParties()
    for packing in PACKINGS:
        check_packing(packing, 1, 4, 4, parties=parties)  # Loads compiled kernels.
    print("shape         packing          ciphertexts  rotations  client MB  server MB      ms")
    for shape in SHAPES:
        for packing in PACKINGS:
            check = check_packing(packing, *shape, parties=parties)
            print(
                f"{'x'.join(map(str, shape)):13} {check.name:16} {check.ciphertexts!s:>11}  "
                f"{check.rotations:9}  {check.traffic.client_sent_bytes / 1e6:9.3f}  "
                f"{check.traffic.server_sent_bytes / 1e6:9.3f}  {check.seconds * 1e3:6.1f}"
            )
    # 2. Odd shapes and the residual's factors too: padding is where packings go wrong.
    for shape in [(1, 1, 1), (3, 5, 7), (2, 65, 130)]:
        for diagonal in (False, True):
            check_packing(RepeatedTokenPacking, *shape, diagonal=diagonal, parties=parties)
    print("odd shapes: as declared")

    # 3. In a model: one line names the module, one the packing.
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_yaml(Path(folder))
        text = path.read_text()
        for name in (TokenPeriodicPacking.name, RepeatedTokenPacking.name):
            path.write_text(text.replace("token_periodic", name) + "plugins: [my_packing]\n")
            report = run_session(load_config(path), TEXT)
            steps = [s for s in report["steps"] if s["op"] == "linear"]
            sent = {"offline": 0, "online": 0}
            for step in steps:
                measured = step["measured"]
                sent[step["phase"]] += measured["client_sent_bytes"] + measured["server_sent_bytes"]
            print(
                f"model with {name:15}: cosine {report['cosine']:.6f}; linear layers sent "
                f"{sent['offline'] / 1e6:.2f} MB offline, {sent['online'] / 1e6:.3f} MB online"
            )


if __name__ == "__main__":
    main()
