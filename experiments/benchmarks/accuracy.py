"""Distance of private embeddings from the plain model, sentence by sentence.

Runs the sentences of a config and random word sequences through one session of two pinned
processes; one JSON line per sentence on standard output, a table on standard error.

    python experiments/benchmarks/accuracy.py configs/minilm.yaml --random 3
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hybrid.machine.environment import limit_threads

limit_threads()

import numpy as np  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from hybrid.config.loading import load_config  # noqa: E402
from hybrid.config.texts import read_texts  # noqa: E402
from hybrid.reports.files import json_line  # noqa: E402
from hybrid.reports.session_report import measured_reports  # noqa: E402
from hybrid.runtime.local import LocalSession  # noqa: E402


def random_texts(folder: Path, tokens: int, count: int, seed: int) -> list[str]:
    """Sequences of whole words drawn from the vocabulary, of 3 to `tokens` tokens in all."""
    rng = np.random.default_rng(seed)
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    words = sorted(word for word in vocabulary if word.isalpha())
    lengths = rng.integers(1, tokens - 1, count)
    return [" ".join(rng.choice(words, length)) for length in lengths]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--random", type=int, default=3, help="random word sequences to add")
    parser.add_argument("--seed", type=int, default=1, help="of the random words")
    arguments = parser.parse_args()
    loaded = load_config(arguments.config)
    tokens = loaded.run.model.tokens
    texts = read_texts(loaded)
    texts += random_texts(loaded.model_folder, tokens, arguments.random, arguments.seed)
    session = LocalSession(loaded)
    ids = [session.encode(text) for text in texts]
    head = f"{'tokens':>6} {'cosine':>9} {'max error':>10} {'seconds':>8} {'MB':>7}"
    print(head, file=sys.stderr)
    for text, token_ids, report in zip(texts, ids, measured_reports(session, ids), strict=True):
        total, accuracy = report["total"], report["accuracy"]
        sent_mb = (total["client_sent_bytes"] + total["server_sent_bytes"]) / 1e6
        row = {"text": text, "tokens": len(token_ids), **accuracy, "total": total}
        row["environment"] = report["environment"]
        print(json_line(row))
        print(
            f"{len(token_ids):6d} {accuracy['cosine']:9.6f} {accuracy['max_abs_error']:10.2e} "
            f"{total['seconds']:8.2f} {sent_mb:7.1f}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
