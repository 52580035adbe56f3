"""Tiny tokenizers and text encoders for tests: stock classes, vocabularies written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_TOKENS = 24
CLIP_WIDTH = 16
T5_WIDTH = 32

_WORDS = ("a", "of", "the", "red", "cat", "dog", "photo", "house", "painting")
_START, _END = "<|startoftext|>", "<|endoftext|>"


def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token -> number, and the merges that build `_WORDS` from left to right."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in kept] + [chr(256 + n) for n in range(256 - len(kept))]
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts[:2] = ["".join(parts[:2])]
    merges = list(dict.fromkeys(merges))
    joined = dict.fromkeys("".join(pair) for pair in merges)
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *joined, _START, _END]
    return {token: number for number, token in enumerate(tokens)}, merges


def write_clip_vocabulary(folder: Path) -> None:
    """``vocab.json`` and ``merges.txt``, as released checkpoints have them."""
    vocabulary, merges = _clip_vocabulary()
    text = json.dumps(vocabulary, ensure_ascii=False)
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}", encoding="utf-8")


def clip_tokenizer() -> Any:
    """Byte pairs: all bytes, and a few words as one token."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def t5_tokenizer() -> Any:
    """Unigram, as T5's: a few words, and every printable ASCII letter."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [(f"▁{word}", -3.0) for word in _WORDS]
    letters = [(chr(byte), -6.0) for byte in range(33, 127)]
    return T5Tokenizer(vocab=[*special, *words, *letters], extra_ids=0, model_max_length=64)


def clip_encoder(tokenizer: Any, *, projected: bool = False) -> Any:
    """``CLIPTextModel``, or its twin with a projection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=CLIP_WIDTH,
        intermediate_size=2 * CLIP_WIDTH,
        projection_dim=CLIP_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def t5_encoder(tokenizer: Any) -> Any:
    """``T5EncoderModel``."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=T5_WIDTH,
            d_kv=8,
            d_ff=2 * T5_WIDTH,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
    )
