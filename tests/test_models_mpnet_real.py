"""all-mpnet-base-v2: the vectors of sentence-transformers, in the clear and in private."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hybrid.models.tokenizing import FileTokenizer
from hybrid.reports.session_report import outputs_of
from tests.model_parts import folder_model
from tests.processes import KEYS, ROOT, run

LONG = (
    "A private encoder answers questions about a text that nobody but its reader may see, and the "
    "server that holds the weights learns neither the words nor the vector, only how many texts "
    "there were and how long the longest of them was allowed to be in this particular run."
)
"""57 tokens."""
TEXTS = (LONG, "Hello", f"{LONG} {LONG} {LONG}", "A text with <pad> inside, and <pad> <pad>")


def published(folder: Path, texts: tuple[str, ...]) -> np.ndarray:
    """Vectors of sentence-transformers, which tests are not pinned to."""
    import sentence_transformers as library

    vectors: np.ndarray = library.SentenceTransformer(str(folder)).encode(list(texts))
    return vectors.astype(np.float64)


@pytest.mark.slow
def test_the_plain_model_gives_the_published_vectors(mpnet):
    model, tokenizer = folder_model(mpnet, 200), FileTokenizer(mpnet, 200)
    for text, wanted in zip(TEXTS, published(mpnet, TEXTS), strict=True):
        found = model.plain(tokenizer.encode(text))
        found /= np.linalg.norm(found)
        assert np.abs(found - wanted).max() < 2e-6
        assert float(found @ wanted) > 1 - 1e-6


@pytest.mark.slow
def test_a_private_vector_is_the_published_one(mpnet, tmp_path):
    (wanted,) = published(mpnet, (LONG,))
    (tmp_path / "texts.txt").write_text(LONG + "\n")
    config, texts = ROOT / "configs" / "mpnet.yaml", f"texts={tmp_path / 'texts.txt'}"
    code, output = run("run", config, "--out", "out", "--set", texts, cwd=tmp_path)
    assert code == 0, output
    (path,) = (tmp_path / "out").rglob("report.json")
    report = json.loads(path.read_text())
    (found,) = outputs_of(report)
    assert float(np.array(found) @ wanted) >= 0.9999
    for step in report["steps"]:
        assert step["predicted"] == {key: step["measured"][key] for key in KEYS}
        if step["op"] == "score_bias":
            assert step["measured"]["server_sent_bytes"] == 0
