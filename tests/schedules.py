"""Configs of which a policy chooses the schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def with_policy(path: Path, **rules: Any) -> Path:
    """The config's file without what names a schedule, with these keys of `scheduler`."""
    config = yaml.safe_load(path.read_text())
    for table, key in ((config, "protocols"), (config["ckks"], "linear_phase"),
                       (config["mpc"], "correlations")):  # fmt: skip
        table.pop(key, None)
    path.write_text(yaml.safe_dump({**config, "scheduler": rules}, sort_keys=False))
    return path
