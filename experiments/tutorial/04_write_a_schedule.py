"""Tutorial 4: a run as one YAML file: write it, check it, read its plan, vary it.

    python experiments/tutorial/04_write_a_schedule.py
    python experiments/tutorial/04_write_a_schedule.py --out runs/tutorial

The YAML file says which implementation carries each operation. From it, the architecture and the
calibrated bounds both parties derive the same plan: every step with its engine, protocol and exact
bytes and rounds, before anything runs. So schedules can be compared without running them.

- The bytes and rounds below are exact: what a run sends is the same to the byte (tutorial 5).
- The seconds below are the network's share alone, by counting: all bytes at the link's bandwidth,
  plus one latency a round. Computing comes on top and partly overlaps. To measure, set `link:` and
  run: then every frame is really held back.
- Mistakes are found when the file is read or the plan is made: place, value and remedy.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tiny import tiny_yaml

from hybrid.config.loading import load_config
from hybrid.config.schema import LINK_PROFILES
from hybrid.planning.plan import Plan
from hybrid.runtime.launch import make_plan
from transport.errors import ConfigError

SCHEDULE = """
name: {name}
model: {{path: model, tokens: 8, embedding: public_table, pooling: mean, normalize: true}}
texts: texts.txt
ckks: {{parameters: n8192_q88, linear_phase: {phase}, baby_steps: auto}}
mpc: {{fraction_bits: 16, output_bits: 6, correlations: {correlations}}}
protocols: {{linear: {linear}, attention: {attention}, gelu: {gelu}, softmax: {softmax},
             layernorm: octave_polynomial, multiply: {multiply}}}
calibration: {{sentences: samples.txt, margin: 4.0}}
link: none
"""
OURS = {
    "phase": "offline", "correlations": "ferret", "linear": "token_periodic",
    "attention": "rotated_slots", "gelu": "even_polynomial", "softmax": "squared_polynomial",
    "multiply": "cheapest",
}  # fmt: skip
VARIATIONS: dict[str, dict[str, str]] = {
    "prepared": {},
    "online": {"phase": "online"},
    "softspoken": {"correlations": "softspoken"},
    "products_by_ot": {"multiply": "ot"},
    "exact_products": {"linear": "coefficients", "attention": "coefficients"},
    "bolt_functions": {"gelu": "bolt", "softmax": "bolt"},
}


def network_seconds(plan: Plan, link: str) -> float:
    """Bytes at the bandwidth and rounds at the latency, the directions one after the other."""
    model = LINK_PROFILES[link]
    predicted = [row["predicted"] for row in plan.rows()]
    sent = sum(p["client_sent_bytes"] + p["server_sent_bytes"] for p in predicted)
    rounds = sum(p["rounds"] for p in predicted)
    return 8 * sent / model.bandwidth_bps + rounds * model.latency_s


def main() -> None:
    """Plan every variation of one schedule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="keep model and schedules in this folder")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        tiny_yaml(folder)

        # 1. Written, read back, planned.
        path = folder / "prepared.yaml"
        path.write_text(SCHEDULE.format(name="prepared", **OURS))
        for row in make_plan(load_config(path)).rows():
            sent = row["predicted"]["client_sent_bytes"] + row["predicted"]["server_sent_bytes"]
            print(
                f"{row['phase']:8} {row['name']:28} {row['engine']:14} {row['protocol']:20} "
                f"{sent:9} bytes {row['predicted']['rounds']:3} rounds"
            )

        # 2. Variations, each one or two words away.
        links = list(LINK_PROFILES)
        print(f"\n{'schedule':15} {'offline MB':>10} {'online MB':>10} {'rounds':>6}", end="")
        print("".join(f" {link + ' s':>8}" for link in links))
        for name, change in VARIATIONS.items():
            path = folder / f"{name}.yaml"
            path.write_text(SCHEDULE.format(name=name, **(OURS | change)))
            plan = make_plan(load_config(path))
            size = {"offline": 0.0, "online": 0.0}
            for row in plan.rows():
                both = row["predicted"]["client_sent_bytes"] + row["predicted"]["server_sent_bytes"]
                size[row["phase"]] += both / 1e6
            rounds = sum(row["predicted"]["rounds"] for row in plan.rows())
            print(f"{name:15} {size['offline']:10.2f} {size['online']:10.2f} {rounds:6}", end="")
            print("".join(f" {network_seconds(plan, link):8.2f}" for link in links))

        # 3. A misspelt word.
        path = folder / "misspelt.yaml"
        path.write_text(SCHEDULE.format(name="misspelt", **(OURS | {"gelu": "even_polinomial"})))
        try:
            make_plan(load_config(path))
        except ConfigError as error:
            print(f"\nas it should be, refused: {error}")


if __name__ == "__main__":
    main()
