"""Small model folders as sentence-transformers and transformers write them."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from hybrid.models.tokenizing import FileTokenizer

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "Hello", "hello", "caf", "##e",
    "##\u00e9", "query", ":", "\u4e2d", "\u6587", "w", "##x", "##y", "e", "\u00e9", "!", "'", "##s",
    "\u03c3", "##\u03c3", "##\u03c2", "0", "##1", "search", "_", "document",
]  # fmt: skip
NASTY = [
    "Hello hello", "caf\u00e9 CAF\u00c9 cafe\u0301", "\u4e2d\u6587a\u4e2d", "a\tb\nc",
    "a\u00a0b\u3000c",
    "wxyx wzy", "a\u0000b\ufffdc", "\u200ba\u200d b", "it's a!!", "\u03c3\u03a3\u03c2 \u03a3",
    "[MASK] a[SEP]b [UNK]", "\U0001f600 a", "\u0130 \ufb01 \u00df", "a" * 101, "0101", "  a   b ",
    "\u0e01\u0e33 a", "e\u0301 E\u0301", "\u202ea b", "search_query: a",
]  # fmt: skip


def wordpiece(
    *, lowercase: bool | None = True, processor: bool = True, words: list[str] | None = None
) -> Tokenizer:
    """As BERT has it."""
    words = WORDS if words is None else words
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    if lowercase is not None:
        made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens([word for word in words if word.startswith("[")])
    if processor:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return made


def write_folder(folder: Path, tokenizer: Tokenizer | None = None, **files: object) -> Path:
    """A BERT folder without weights; files: content by name, `_json` for `.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "bert", "vocab_size": 64}')
    for name, content in files.items():
        write_json(folder / f"{name.removesuffix('_json')}.json", content)
    return folder


def write_json(path: Path, content: object) -> None:
    """Any value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_sentence_model(folder: Path, tokenizer: Tokenizer, **settings: object) -> Path:
    """With random weights, saved by sentence-transformers; settings: of `Transformer`."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=24, num_hidden_layers=1, num_attention_heads=3,
        intermediate_size=40, max_position_embeddings=16,
    )  # fmt: skip
    bare = folder.with_name(folder.name + "-bare")
    transformers.BertModel(config).save_pretrained(bare)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(bare)  # fmt: skip
    parts = [Transformer(str(bare), **settings), Pooling(24)]
    SentenceTransformer(modules=parts).save(str(folder))
    return folder


LONG = "a b c Hello hello caf\u00e9 query : \u4e2d\u6587 w e ! ' 0 a b"


def ids_of(*words):
    return [WORDS.index(word) for word in words]


def change(path, **values):
    """Keys of a JSON file."""
    found = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, found | values)


def theirs(folder, texts, **options):
    """Token ids of texts, one by one, as SentenceTransformer.encode gives them to its model."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    prompt = model._resolve_prompt(None, options.get("prompt"))
    return [model.preprocess([text], prompt=prompt)["input_ids"][0].tolist() for text in texts]


def ours(folder, texts, tokens=16, prompt=None):
    tokenizer = FileTokenizer(folder, tokens, prompt)
    return [tokenizer.encode(text, truncate=True).tolist() for text in texts]
