"""Figures of other systems, for orientation; only such as their sources print."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_BERT = "BERT-base, 128 tokens"
_BOLT = "BOLT, S&P 2024, eprint 2023/1893"
_BOLT_URL = "https://eprint.iacr.org/2023/1893"


@dataclass(frozen=True, slots=True)
class Published:
    """One line of the reference table; None where nothing is quoted."""

    system: str
    shape: str
    seconds: float | None
    gigabytes: float | None
    machine: str
    source: str
    url: str


PUBLISHED = (
    Published(
        "BOLT without word elimination", _BERT, None, 59.61, "CPU",
        f"{_BOLT}, as later papers quote it", _BOLT_URL,
    ),
    Published(
        "BOLT", _BERT, None, 25.74, "CPU; drops tokens on the way, so it computes less",
        f"{_BOLT}, as later papers quote it; its abstract says 10.91 times less than Iron",
        _BOLT_URL,
    ),
    Published(
        "NEXUS", "BERT-base", 37.3, 0.164, "GPU; one message each way",
        "NEXUS, NDSS 2025, eprint 2024/136, abstract", "https://eprint.iacr.org/2024/136",
    ),
    Published(
        "SecretFlow SPU 0.9.5, protocol CHEETAH", "shape of all-MiniLM-L6-v2, 32 tokens", 132.0,
        0.863, "2 cores of an AMD EPYC, one a party, loopback",
        "measured with this project's scripts, not published by its authors",
        "https://github.com/secretflow/spu",
    ),
)  # fmt: skip

RELATIVE = (
    "BOLT's abstract: 4.8 to 9.5 times faster than Iron, over various networks.",
    "BumbleBee's abstract (NDSS 2025, eprint 2023/1678): over an order of magnitude faster than "
    "Iron; three times faster than BOLT with a tenth of its communication.",
    "BLB's abstract (arXiv 2508.19525): 21 times less traffic than BOLT and 2 times less than "
    "BumbleBee, 13 and 1.8 times faster with a GPU; BERT-base, BERT-large, GPT2-base.",
    "EncFormer's abstract (arXiv 2604.09975): 1.4 to 30.4 times less online traffic and 1.3 to 9.8 "
    "times faster than earlier hybrids; GPT and BERT models, GPU.",
)
"""What abstracts say of each other, in our words."""


def published_rows() -> list[dict[str, Any]]:
    """The table as plain data."""
    return [asdict(row) for row in PUBLISHED]
