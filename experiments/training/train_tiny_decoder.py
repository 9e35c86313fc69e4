"""Trains the two small decoders of tests/data/decoders on this project's own documents.

    python experiments/training/train_tiny_decoder.py [FOLDER]

Writes a folder a family (llama, gpt2): weights in float16, config, tokenizer, chat template; and
heldout.txt, the text that neither has seen. A minute on one core, the same result
every time from the same documents; transformers is in the extra `test`.
"""

from __future__ import annotations

import io
import json
import math
import sys
import time
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("README.md", "CHANGELOG.md", "docs/*.md")
VOCABULARY, CONTEXT, BATCH, STEPS, SEED = 512, 64, 16, 1000, 3
HELD_OUT = 10
"""One block of text in so many is held out."""
BLOCK = 1200
"""Characters of a block."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou answer briefly.<|im_end|>\n{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIZES = {
    "llama": {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 160,
        "max_position_embeddings": 256, "tie_word_embeddings": True,
    },
    "gpt2": {
        "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 256, "n_positions": 256,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
}  # fmt: skip


def texts() -> tuple[str, str]:
    """What is trained on, and what is held out."""
    files = [path for source in SOURCES for path in sorted(ROOT.glob(source))]
    whole = "\n".join(path.read_text(encoding="utf-8") for path in files)
    blocks = [whole[i : i + BLOCK] for i in range(0, len(whole), BLOCK)]
    kept = [b for i, b in enumerate(blocks) if i % HELD_OUT != HELD_OUT // 2]
    return "".join(kept), "\n".join(blocks[HELD_OUT // 2 :: HELD_OUT])


def trained_tokenizer(text: str) -> Tokenizer:
    """Byte-level BPE, which can say every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(io.StringIO(text), trainer)
    return tokenizer


def trained(kind: str, ids: torch.Tensor) -> transformers.PreTrainedModel:
    """A model that has seen every token about 25 times."""
    torch.manual_seed(SEED)
    config = transformers.AutoConfig.for_model(
        kind, **SIZES[kind], vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=2, use_cache=False
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.1)
    for step in range(STEPS):
        rate = min(1.0, step / 50) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / STEPS)))
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * rate
        starts = torch.randint(len(ids) - CONTEXT - 1, (BATCH,))
        rows = torch.stack([ids[s : s + CONTEXT + 1] for s in starts])
        loss = model(input_ids=rows[:, :-1], labels=rows[:, :-1]).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def perplexity(model: transformers.PreTrainedModel, ids: torch.Tensor) -> float:
    """Of a text, in pieces of the training's length."""
    pieces = ids[: len(ids) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    with torch.no_grad():
        loss = model(input_ids=pieces, labels=pieces).loss
    return math.exp(float(loss))


def save(model: transformers.PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """In the layout of published models."""
    model.half().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[2], "chat_template": TEMPLATE}
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Train both and say how well they predict what they have not seen."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "data" / "decoders"
    torch.set_num_threads(1)
    train, held_out = texts()
    target.mkdir(parents=True, exist_ok=True)
    (target / "heldout.txt").write_text(held_out, encoding="utf-8")
    tokenizer = trained_tokenizer(train)
    ids, unseen = (torch.tensor(tokenizer.encode(text).ids) for text in (train, held_out))
    print(f"{len(ids)} tokens to train on, {len(unseen)} held out")
    for kind in SIZES:
        start = time.perf_counter()
        model = trained(kind, ids)
        print(
            f"{kind}: {sum(p.numel() for p in model.parameters())} parameters, perplexity "
            f"{perplexity(model, ids):.1f} seen, {perplexity(model, unseen):.1f} unseen, "
            f"{time.perf_counter() - start:.0f} s"
        )
        save(model, tokenizer, target / kind)


if __name__ == "__main__":
    main()
