"""Words of text and code, and numbers for them that agree between processes."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_TOKENS_AT_A_TIME = 65536
# A run of digits; capitals up to the one that begins the next word; a word, perhaps with a capital. Letters that have
# no place in ASCII count as small ones.
_WORD = re.compile(r"\d+|[A-Z]+(?![^\W\dA-Z_])|[A-Z]?[^\W\dA-Z_]+")


def split_words(text: str) -> list[str]:
    """Split text or code into lower-cased words, at snake_case, camelCase and digits.

    Punctuation is dropped. Digits are words of their own, so that ``utf8``, ``utf-8`` and ``UTF_8`` agree.

    Args:
        text: Prose, code, or both.

    Returns:
        The words in order, with repeats.

    Example:
        >>> split_words("parseHTTPResponse(raw_bytes2) # reads UTF-8")
        ['parse', 'http', 'response', 'raw', 'bytes', '2', 'reads', 'utf', '8']
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return [word.lower() for word in _WORD.findall(text)]


def word_ids(texts: Iterable[str], split: Callable[[str], list[str]] = split_words) -> Tensor:
    """Number the words of texts.

    A word's number is a hash of its characters: the same in every process and on every device, whatever was seen
    before, so that ids can be gathered and kept. Two of a million words share one with a probability of 1 in 10
    million.

    Args:
        texts: The texts, one row each.
        split: Splits a text into words.

    Returns:
        ``(n, longest)`` int64 on the CPU, at least 0, and -1 after a text's last word.

    Raises:
        ValueError: ``split`` returned something else than a list of strings.
    """
    rows = []
    for text in texts:
        words = split(text)
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise ValueError(
                f"tokenizer must return a list of strings for a text, got {type(words).__name__} from "
                f"{_name(split)}: {str(words)[:40]!r}. Return text.split(), say, not the text."
            )
        rows.append([_word_id(word) for word in words])
    width = max((len(row) for row in rows), default=0)
    filled = [row + [-1] * (max(width, 1) - len(row)) for row in rows]
    return torch.tensor(filled, dtype=torch.int64).view(len(rows), max(width, 1))


def with_letter_or_digit(tokenizer: Any) -> Tensor:
    """Tell which tokens of a vocabulary have a letter or a digit.

    A token that is only a part of a character (of UTF-8, in byte-level vocabularies) counts as one.

    Args:
        tokenizer: A tokenizer of transformers, or a ``tokenizers.Tokenizer``.

    Returns:
        ``(vocabulary,)`` bool on the CPU.
    """
    decode = getattr(tokenizer, "decode_batch", None)
    if decode is None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decode = tokenizer.batch_decode if backend is None else backend.decode_batch
    size = max(tokenizer.get_vocab().values(), default=-1) + 1
    counts = torch.ones(max(size, 1), dtype=torch.bool)
    for start in range(0, size, _TOKENS_AT_A_TIME):
        ids = range(start, min(start + _TOKENS_AT_A_TIME, size))
        texts = decode([[token] for token in ids], skip_special_tokens=False)
        counts[start : start + len(texts)] = torch.tensor(
            [any(map(str.isalnum, text)) or "\ufffd" in text for text in texts], dtype=torch.bool
        )
    return counts


@lru_cache(maxsize=2**18)
def _word_id(word: str) -> int:
    digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # 63 bits: a negative id is padding


def _name(split: Callable[[str], list[str]]) -> str:
    return getattr(split, "__qualname__", type(split).__name__)
