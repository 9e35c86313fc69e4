"""Tokenizers out of GGUF files: byte-level BPE, from vocabulary, merges and the name of its rules.

Names of rules are those of llama.cpp (`tokenizer.ggml.pre`); what each stands for is what the
tokenizer.json of the models does that it is named after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from hybrid.models.gguf_file import GgufFile
from transport.errors import ConfigError
from transport.foreign import cut, shown

_CONTROL, _USER_DEFINED = 3, 4
"""Token types of GGUF that are found in a text before anything else."""
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _llama3() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_LLAMA3), "isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, plain])


_RULES: Mapping[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "llama-bpe": _llama3,
}


def gguf_tokenizer(file: GgufFile) -> Tokenizer:
    """The file's tokenizer; `ConfigError` for a kind that is not rebuilt exactly."""
    kind = file.setting("tokenizer.ggml.model", str)
    if kind != "gpt2":
        raise ConfigError(
            f"{file.path}: tokenizer.ggml.model is {shown(kind)}; only 'gpt2', byte-level BPE, "
            "is read: name the model's folder with tokenizer.json instead"
        )
    rules = file.setting("tokenizer.ggml.pre", str)
    if rules not in _RULES:
        raise ConfigError(
            f"{file.path}: tokenizer.ggml.pre is {shown(rules)}; known are {', '.join(_RULES)}: "
            "name the model's folder with tokenizer.json instead"
        )
    tokens = file.setting("tokenizer.ggml.tokens", list)
    tokenizer = _bpe(file, tokens, ignore_merges=rules == "llama-bpe")
    tokenizer.pre_tokenizer = _RULES[rules]()
    tokenizer.decoder = decoders.ByteLevel()
    types = file.setting("tokenizer.ggml.token_type", list)
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in zip(tokens, types, strict=False)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    _add_start(file, tokenizer)
    return tokenizer


def _bpe(file: GgufFile, tokens: list[str], *, ignore_merges: bool) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = [merge.partition(" ") for merge in file.setting("tokenizer.ggml.merges", list)]
    try:
        if len(vocabulary) != len(tokens):
            raise ValueError("a token stands twice")
        pairs = [(left, right) for left, _, right in merges]
        return Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=ignore_merges))
    except Exception as error:
        # tokenizers raises bare exceptions.
        raise ConfigError(
            f"{file.path}: not a tokenizer ({cut(str(error))}); fetch it again"
        ) from None


def _add_start(file: GgufFile, tokenizer: Tokenizer) -> None:
    """The token before every text, where the file wants one."""
    for key in ("add_eos_token", "add_sep_token"):
        if file.setting(f"tokenizer.ggml.{key}", bool, False):
            raise ConfigError(
                f"{file.path}: tokenizer.ggml.{key} is true, which would end a text before its "
                "continuation; use another model"
            )
    if file.setting("tokenizer.ggml.add_bos_token", bool, False):
        start = file.setting("tokenizer.ggml.bos_token_id", int)
        token = tokenizer.id_to_token(start)
        if token is None:
            raise ConfigError(
                f"{file.path}: tokenizer.ggml.bos_token_id is {start}, but there are "
                f"{tokenizer.get_vocab_size()} tokens; fetch it again"
            )
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[token, "$A"], special_tokens=[(token, start)]
        )


def gguf_special_tokens(file: GgufFile) -> dict[str, str]:
    """Tokens that chat templates may name, by the name they have there."""
    tokens = file.setting("tokenizer.ggml.tokens", list)
    names = {"bos_token": "bos_token_id", "eos_token": "eos_token_id"}
    places = {name: file.setting(f"tokenizer.ggml.{key}", int, -1) for name, key in names.items()}
    return {name: tokens[i] for name, i in places.items() if 0 <= i < len(tokens)}


def gguf_end_ids(file: GgufFile) -> set[int]:
    """Tokens that end an answer: of the text, of a turn, of a message."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    return {i for key in keys if (i := file.setting(f"tokenizer.ggml.{key}", int, -1)) >= 0}
