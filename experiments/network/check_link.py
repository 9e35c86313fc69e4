"""The link model beside an emulated network: the same work over both.

Needs root. One JSON line a link and case on standard output, a table on standard error. `model`
delays frames inside the channel, on loopback; `network` runs the parties in two network namespaces
(see network.py), encrypted, without a model.

    python experiments/network/check_link.py
    python experiments/network/check_link.py --link wan2 --inference configs/minilm.yaml
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from network import network

from hybrid.config.files import read_lines
from hybrid.config.loading import read_yaml
from hybrid.config.schema import LINK_PROFILES
from hybrid.config.yaml_text import dumped
from hybrid.reports.files import json_line
from transport.channel import Channel
from transport.curve import generate_keys, load_client_keys, load_server_keys
from transport.errors import HybridError
from transport.link import LinkModel
from transport.traffic import Party
from transport.zmq_channel import connect, listen

PINGS, BULK_BYTES, FRAMES, PORT = 20, 20_000_000, 20, 5557
HYBRID = [sys.executable, "-m", "hybrid.cli"]


def channel_times(channel: Channel) -> dict[str, float]:
    """Seconds of a round trip, of a bulk transfer to the server, and of one each way at once."""
    client = channel.party is Party.CLIENT
    trips = []
    for _ in range(PINGS):
        start = time.perf_counter()
        channel.next_round()
        if client:
            channel.send(b"x")
        channel.recv(1)
        if not client:
            channel.send(b"x")
        trips.append(time.perf_counter() - start)
    size = BULK_BYTES // FRAMES
    found = {"round trip": statistics.median(trips)}
    for name, both in (("20 MB one way", False), ("20 MB each way at once", True)):
        channel.next_round()
        start = time.perf_counter()
        if client or both:
            for _ in range(FRAMES):
                channel.send(bytes(size))
        if not client or both:
            for _ in range(FRAMES):
                channel.recv(size)
        # An empty word back: the client's clock stops when all has arrived.
        channel.exchange(b"x", 1)
        found[name] = time.perf_counter() - start
    return found


def party(arguments: argparse.Namespace) -> None:
    """One end of the channel, in a process of its own."""
    link = LINK_PROFILES.get(arguments.model)
    keys = Path(arguments.keys)
    if arguments.party == "server":
        curve = load_server_keys(keys) if arguments.keys else None
        channel = listen(arguments.endpoint, Party.SERVER, timeout_s=120.0, curve=curve, link=link)
    else:
        curve = load_client_keys(keys) if arguments.keys else None
        channel = connect(arguments.endpoint, Party.CLIENT, timeout_s=120.0, curve=curve, link=link)
    found = channel_times(channel)
    if channel.party is Party.CLIENT:
        print(json_line(found))
    channel.close()


def pair(server: list[str], client: list[str]) -> str:
    """Both processes; the client's standard output."""
    first = subprocess.Popen(server, stdout=subprocess.DEVNULL)
    try:
        done = subprocess.run(client, stdout=subprocess.PIPE, encoding="utf-8", timeout=600)
        if done.returncode or first.wait(timeout=60):
            sys.exit("a party failed; its words are above")
    finally:
        first.kill()
    return done.stdout


def channel_case(link: LinkModel, keys: Path) -> dict[str, dict[str, float]]:
    """Times of the bare channel over both."""
    me = [sys.executable, str(Path(__file__).resolve())]
    local = ["--endpoint", f"tcp://127.0.0.1:{PORT}", "--model", link.name]
    ends = [[*me, "--party", who, *local] for who in ("server", "client")]
    model = json.loads(pair(*ends))
    with network(link) as net:
        away = ["--endpoint", f"tcp://{net.addresses[0]}:{PORT}", "--keys", str(keys)]
        ends = [
            net.command(end, [*me, "--party", who, *away])
            for end, who in enumerate(("server", "client"))
        ]
        return {"model": model, "network": json.loads(pair(*ends)), "kind": net.kind}  # type: ignore[dict-item]


def inference_case(
    link: LinkModel, config: Path, keys: Path, folder: Path
) -> dict[str, dict[str, float]]:
    """Offline, online and total seconds of one private inference over both."""
    raw = read_yaml(config)
    raw["model"]["path"] = str((config.parent / raw["model"]["path"]).resolve())
    raw["texts"] = str((config.parent / raw["texts"]).resolve())
    text = read_lines(Path(raw["texts"]), f"{config}: texts", "name a UTF-8 file")[0]
    found: dict[str, Any] = {}
    with network(link) as net:
        for name in ("model", "network"):
            raw["link"] = link.name if name == "model" else "none"
            # The same schedule over both.
            raw["scheduler"] = {**raw.get("scheduler", {}), "network": link.name}
            raw["runtime"]["curve_keys"] = None if name == "model" else str(keys)
            path = folder / f"{link.name}_{name}.yaml"
            path.write_text(dumped(raw), encoding="utf-8")
            host = "127.0.0.1" if name == "model" else net.addresses[0]
            out = folder / f"{link.name}_{name}"
            serve = [*HYBRID, "serve", str(path), "--listen", f"tcp://{host}:{PORT}"]
            query = [*HYBRID, "query", str(path), "--connect", f"tcp://{host}:{PORT}"]
            # The first request warms both parties up.
            query += ["--text", text, "--text", text, "--out", str(out)]
            ends = [["taskset", "-c", str(1 - end), *c] for end, c in enumerate((serve, query))]
            if name == "network":
                ends = [net.command(end, command) for end, command in enumerate(ends)]
            pair(*ends)
            report = json.loads((out / "text2" / "report.json").read_text(encoding="utf-8"))
            found[name] = {p: report[p]["seconds"] for p in ("offline", "online", "total")}
        found["kind"] = net.kind
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", choices=sorted(LINK_PROFILES), action="append")
    parser.add_argument("--inference", help="a config; its first text is sent over both")
    parser.add_argument("--party", choices=["server", "client"], help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    parser.add_argument("--model", default="", help=argparse.SUPPRESS)
    parser.add_argument("--keys", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.party:
        party(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        generate_keys(keys)
        for name in arguments.link or sorted(LINK_PROFILES):
            link = LINK_PROFILES[name]
            found: dict[str, Any] = channel_case(link, keys)
            if arguments.inference:
                more = inference_case(link, Path(arguments.inference), keys, Path(folder))
                for kind in ("model", "network"):
                    found[kind].update(more[kind])
            report(name, found)


def report(link: str, found: dict[str, Any]) -> None:
    """One line a case."""
    for case, model in found["model"].items():
        real = found["network"][case]
        row = {"link": link, "case": case, "model_s": model, "network_s": real}
        print(json_line({**row, "ratio": model / real, "network": found["kind"]}), flush=True)
        print(
            f"{link:<6}{case:<24} model {model:8.4f} s  network {real:8.4f} s  "
            f"model / network {model / real:.2f}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    try:
        main()
    except HybridError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
