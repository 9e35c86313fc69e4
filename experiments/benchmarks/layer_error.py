"""One encoder layer: time, bytes, and the error of every number of its output.

    python experiments/benchmarks/layer_error.py configs/pure_mpc.yaml --shape minilm-l6 --tokens 32

Seconds and bytes come from two real processes, as `hybrid run` starts them (and a dealer's, where
the config names one). The error needs both parties' shares of the layer's output, which no party
ever sees together: for that the layer runs once more with both parties in this process.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from pathlib import Path
from typing import Any

from hybrid.machine.environment import limit_threads

limit_threads()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from hybrid.cli.commands import make_console, measured_comparison  # noqa: E402
from hybrid.config.loading import Config, load_config  # noqa: E402
from hybrid.config.overrides import overrides_of  # noqa: E402
from hybrid.config.yaml_text import dumped  # noqa: E402
from hybrid.machine.prices import schedule_prices  # noqa: E402
from hybrid.models.bert import Bert  # noqa: E402
from hybrid.models.loading import load_model, text_encoder  # noqa: E402
from hybrid.models.model import Model  # noqa: E402
from hybrid.planning.catalog import load_catalog  # noqa: E402
from hybrid.planning.plan import Plan  # noqa: E402
from hybrid.planning.planner import make_plan  # noqa: E402
from hybrid.reports.comparison.configs import Options, resolved  # noqa: E402
from hybrid.reports.comparison.groups import sent  # noqa: E402
from hybrid.reports.files import json_line  # noqa: E402
from hybrid.runtime.parties import ClientSession, ServerSession  # noqa: E402
from mpc_nonlinear.correlations.dealer import run_dealer  # noqa: E402
from transport.channel import Channel  # noqa: E402
from transport.errors import HybridError  # noqa: E402
from transport.local import memory_pair, run_both  # noqa: E402
from transport.traffic import Party  # noqa: E402


def one_layer(config: Path, shape: str, tokens: int, folder: Path) -> Config:
    """The config's schedule on one layer of a shape, with random weights."""
    source = load_config(config, overrides_of(tokens=tokens))
    made = resolved(source, f"{config.stem}_layer")
    made["model"].pop("path", None)
    made["model"]["shape"] = {"like": shape, "layers": 1}
    path = folder / "layer.yaml"
    path.write_text(dumped(made), encoding="utf-8")
    return load_config(path)


def tapped(plan: Plan, shares: list[NDArray[np.uint64]]) -> None:
    """Have the last step keep its input."""
    operator = plan.steps[-1].operator
    run = operator.run

    def keeping(inputs: Any, state: Any) -> Any:
        shares.append(inputs[0].copy())
        return run(inputs, state)

    operator.run = keeping  # type: ignore[method-assign]


def shared_output(loaded: Config, model: Model, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """The last LayerNorm's result, (tokens, hidden), as both shares have it together."""
    catalog, shares = load_catalog(loaded.run.plugins), []
    plan = make_plan(loaded, model.public, schedule_prices(loaded.run))
    needs_dealer = plan.needs_dealer
    links = {Party.CLIENT: memory_pair(), Party.SERVER: memory_pair()}
    if needs_dealer:
        ends = links[Party.CLIENT][1], links[Party.SERVER][0]
        threading.Thread(target=run_dealer, args=ends, daemon=True).start()

    def party(channel: Channel) -> None:
        is_client = channel.party is Party.CLIENT
        dealer = links[channel.party][0 if is_client else 1] if needs_dealer else None
        if is_client:
            client = ClientSession(loaded, catalog, channel)
            tapped(client.setup(text_encoder(loaded), dealer), shares)
            client.query([ids])
            client.finish()
        else:
            server = ServerSession(loaded, catalog, channel)
            tapped(server.setup(model, plan.schedule, dealer), shares)
            list(server.serve())
        if dealer is not None:
            dealer.close()

    run_both(party)
    first, second = shares
    return (first + second).view(np.int64) * 2.0**-loaded.run.mpc.fraction_bits


def error_of(loaded: Config, text: str) -> dict[str, float]:
    """Largest and mean distance of the layer's output from float64, over real tokens."""
    model = load_model(loaded)
    ids = text_encoder(loaded).encode(text, truncate=True)
    seen: dict[str, NDArray[np.float64]] = {}

    def observe(edge: str, tensor: torch.Tensor) -> None:
        seen[edge] = tensor.double().numpy()

    model.plain(ids, observe, torch.float64)
    x = seen["layer0.output_norm.sum"]
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + model.public.architecture.epsilon)
    norm = model.weights.layers[0].output_norm
    expected = centred / deviation * norm.weight + norm.bias
    private = shared_output(loaded, model, ids) * norm.weight + norm.bias
    distance = np.abs(private - expected)[: len(ids)]
    return {
        "max_error": float(distance.max()),
        "mean_error": float(distance.mean()),
        "largest_value": float(np.abs(expected).max()),
    }


def main() -> None:
    """Measure, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--shape", choices=sorted(Bert.shapes), default="minilm-l6")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    text = " ".join(f"word{i}" for i in range(arguments.tokens - 2))
    try:
        with tempfile.TemporaryDirectory() as folder:
            loaded = one_layer(arguments.config, arguments.shape, arguments.tokens, Path(folder))
            error = error_of(loaded, text)
            options = Options(Path(folder) / "out", repetitions=arguments.runs, text=text)
            console = make_console()
            console.stderr = True
            made = measured_comparison([loaded.path], options, console)
            (row,) = made["runs"]
            if "error" in row:
                parser.error(row["error"])
            seconds = {p: row[p]["seconds"] for p in ("offline", "online", "total")}
            found = {
                "config": arguments.config.stem,
                "shape": arguments.shape,
                "tokens": arguments.tokens,
                **{f"{phase}_s": value for phase, value in seconds.items()},
                "spread_s": [row["total"]["seconds_min"], row["total"]["seconds_max"]],
                "MB": sent(row["total"]) / 1e6,
                "rounds": row["total"]["rounds"],
                **error,
            }
    except HybridError as error_:
        parser.error(str(error_))
    print(json_line(found))


if __name__ == "__main__":
    main()
