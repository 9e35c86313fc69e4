"""Tutorial 4: a run as one YAML file: write it, check it, read its plan, vary it.

    python 04_write_a_schedule.py
    python 04_write_a_schedule.py --out schedules

The YAML file says which implementation carries each operation, or by which policy one is chosen for
each step. From it, the model's sizes and bounds both parties derive the same plan: every step with
its engine, protocol and exact bytes and rounds, before anything runs. So schedules can be compared
without running them.

- The bytes and rounds below are exact: what a run sends is the same to the byte (tutorial 5).
- The seconds below are the network's share alone, by counting: all bytes at the link's bandwidth,
  plus one latency a round. `hybrid calibrate` measures this machine once; then `Plan.seconds` has
  computing too. To measure a run, set `link:`: then every frame is really held back.
- Mistakes are found when the file is read or the plan is made: place, value and remedy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import hybrid

TINY = Path(__file__).with_name("tiny.yaml")
VARIATIONS: dict[str, list[str]] = {
    "prepared": [],
    "online": ["ckks.linear_phase=online"],
    "softspoken": ["mpc.correlations=softspoken"],
    "products_by_ot": ["protocols.multiply=ot"],
    "exact_products": [
        "protocols.linear=coefficients", "protocols.attention=coefficients",
        "ckks.linear_phase=online",
    ],
    "bolt_functions": ["protocols.gelu=bolt", "protocols.softmax=bolt"],
}  # fmt: skip
CHOSEN = [
    "protocols=null", "ckks.linear_phase=null", "mpc.correlations=null",
    "scheduler.policy=least_traffic",
]  # fmt: skip
LINKS = {"lan": (1e9, 0.3e-3), "wan2": (100e6, 4e-3), "wan3": (100e6, 80e-3)}
"""Bits a second each direction, seconds one way."""


def sizes(plan: hybrid.Plan) -> tuple[int, int, int]:
    """Bytes offline, bytes online, rounds."""
    found = {"offline": 0, "online": 0}
    rounds = 0
    for row in plan.to_dict()["rows"]:
        predicted = row["predicted"]
        found[row["phase"]] += predicted["client_sent_bytes"] + predicted["server_sent_bytes"]
        rounds += predicted["rounds"]
    return found["offline"], found["online"], rounds


def main() -> None:
    """Plan every variation of one schedule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write every schedule into this folder")
    out = parser.parse_args().out

    # 1. Read and planned: what `hybrid plan tiny.yaml` prints.
    print(hybrid.plan(TINY).table())

    # 2. Variations, each one or two words away, and what a policy chooses.
    print(f"{'schedule':15} {'offline MB':>10} {'online MB':>10} {'rounds':>6}", end="")
    print("".join(f" {link + ' s':>8}" for link in LINKS))
    for name, changes in (VARIATIONS | {"least_traffic": CHOSEN}).items():
        plan = hybrid.plan(hybrid.load(TINY, set=changes))
        offline, online, rounds = sizes(plan)
        print(f"{name:15} {offline / 1e6:10.2f} {online / 1e6:10.2f} {rounds:6}", end="")
        for bits_per_s, latency_s in LINKS.values():
            print(f" {8 * (offline + online) / bits_per_s + rounds * latency_s:8.2f}", end="")
        print()
        if out:  # The key `schedule` of a config runs such a file instead of `protocols`.
            plan.save(out / f"{name}.yaml")

    # 3. A misspelt word.
    try:
        hybrid.plan(hybrid.load(TINY, set=["protocols.gelu=even_polinomial"]))
    except hybrid.ConfigError as error:
        print(f"\nas it should be, refused: {error}")


if __name__ == "__main__":
    main()
