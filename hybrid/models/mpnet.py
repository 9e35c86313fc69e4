"""MPNet: BERT's encoder with a bias of every score by head and relative position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid.models.bert import Bert, BertArchitecture
from hybrid.models.bert_names import MPNET
from hybrid.models.relative_positions import Buckets
from transport.errors import ConfigError
from transport.foreign import shown


class Mpnet(Bert):
    """As `Bert`; one table of biases serves all layers, positions count from padding id 1.

    Song et al., "MPNet", arXiv 2004.09297.
    """

    name = "mpnet"
    names = {"mpnet": MPNET}  # noqa: RUF012
    model_types = tuple(names)
    shapes = {"mpnet-base": {"hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072}}
    buckets = Buckets(32, 128)

    def read_architecture(self, raw: Mapping[str, Any], place: str) -> BertArchitecture:
        """From config.json; refuses whatever would be computed otherwise than it says."""
        count = raw.get("relative_attention_num_buckets", self.buckets.count)
        if count != self.buckets.count:
            raise ConfigError(
                f"{place}: relative_attention_num_buckets is {shown(count)}; only "
                f"{self.buckets.count} is supported: use an encoder that was trained with it"
            )
        return super().read_architecture(raw, place)
