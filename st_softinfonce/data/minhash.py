"""The shingles of code, and by MinHash the keys under which texts that are nearly the same meet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SHINGLE_TOKENS = 5
THRESHOLD = 0.8
_HASHES = 128
_RECALL = 0.998
_PART_BYTES = 1 << 17  # so much is hashed at once: what that takes stays near the processor
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_WORD, _SIGN = 1, 2
# Letters outside ASCII are words; what else stands there is set off before its bytes are looked at.
_KINDS = np.array(
    [_WORD if chr(n).isalnum() or n == 95 or n > 127 else 0 if chr(n).isspace() else _SIGN for n in range(256)],
    dtype=np.uint8,
)
_RARE_SIGN = re.compile(r"[^\w\x00-\x7f]")


def band_keys(codes: Sequence[str], threshold: float = THRESHOLD) -> NDArray[np.uint32]:
    """Hash texts so that two of them share a key if they are nearly the same, and seldom otherwise.

    Args:
        codes: The texts.
        threshold: The Jaccard similarity from which on texts are nearly the same.

    Returns:
        The keys, one row a text. Keys that are the same by chance cost a comparison and no more.
    """
    rows = _rows_per_band(threshold)
    bands = _HASHES // rows
    least = np.zeros((bands * rows, len(codes)), dtype=np.uint32)
    factors = _random(bands * rows).astype(np.uint32)
    start = 0
    while start < len(codes):
        end, size = start, 0
        while end < len(codes) and size < _PART_BYTES:
            size += len(codes[end])
            end += 1
        hashes, offsets = shingles(codes[start:end])
        first, second = (hashes >> np.uint64(32)).astype(np.uint32), hashes.astype(np.uint32)
        mixed = np.empty_like(first)
        for number, factor in enumerate(factors):
            np.add(np.multiply(first, factor, out=mixed), second, out=mixed)
            np.minimum.reduceat(mixed, offsets[:-1], out=least[number, start:end])
        start = end
    keys: NDArray[np.uint64] = np.zeros((bands, len(codes)), dtype=np.uint64)
    for row in range(rows):
        keys = mix(keys * _FACTOR + least[row::rows])
    upper: NDArray[np.uint32] = (keys.T >> np.uint64(32)).astype(np.uint32, order="C")
    return upper


@lru_cache
def _rows_per_band(threshold: float) -> int:
    """The most selective banding that still finds pairs at the threshold."""
    for rows in range(16, 1, -1):
        if 1 - (1 - threshold**rows) ** (_HASHES // rows) >= _RECALL:
            return rows
    return 1


def shingles(codes: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The shingles' hashes of all texts, one after another, and where each text's begin and the last one's end."""
    whole = "\n".join(codes)
    if whole.isascii():
        sizes = list(map(len, codes))
    else:
        parts = [_RARE_SIGN.sub(_set_off, code) for code in codes]
        sizes = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
        whole = "\n".join(parts)
    data = np.frombuffer(whole.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    kinds = np.concatenate(([np.uint8(0)], _KINDS[data], [np.uint8(0)]))
    changes = kinds[1:] != kinds[:-1]
    is_sign = kinds == _SIGN
    begins = np.flatnonzero((kinds[1:-1] != 0) & (changes[:-1] | is_sign[1:-1]))
    ends = np.flatnonzero((kinds[1:-1] != 0) & (changes[1:] | is_sign[1:-1])) + 1
    # A polynomial's value at an odd number, modulo 2 ** 64, taken off the sum over all that stands before it.
    powers, inverses = _powers(len(data).bit_length())
    sums = np.concatenate((np.zeros(1, dtype=np.uint64), np.cumsum(_VALUES[data] * powers[: len(data)])))
    tokens = mix((sums[ends] - sums[begins]) * inverses[begins])
    bounds = np.searchsorted(begins, np.cumsum([0, *(size + 1 for size in sizes)]))
    counts = np.diff(bounds)
    if len(counts) and counts.min() < SHINGLE_TOKENS:
        # A text shorter than a shingle is filled up, so that it is a shingle of its own.
        missing = np.maximum(SHINGLE_TOKENS - counts, 0)
        tokens = np.insert(tokens, np.repeat(bounds[1:], missing), np.uint64(0))
        counts = counts + missing
    windows = max(len(tokens) - SHINGLE_TOKENS + 1, 0)
    mixed = np.zeros(windows, dtype=np.uint64)
    for shift in range(SHINGLE_TOKENS):
        mixed = mixed * _FACTOR + tokens[shift : shift + windows]
    inside = np.ones(windows, dtype=bool)
    # Runs that go over from one text to the next are none.
    last = np.cumsum(counts)
    for shift in range(1, SHINGLE_TOKENS):
        inside[last[:-1] - shift] = False
    return mix(mixed[inside]), np.concatenate(([0], last - (SHINGLE_TOKENS - 1) * np.arange(1, len(codes) + 1)))


def _set_off(sign: re.Match[str]) -> str:
    return " " if sign[0].isspace() else f" {sign[0]} "


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread what differs over all bits: the finaliser of SplitMix64, which `vectors.py` has for torch's int64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _random(count: int) -> NDArray[np.uint64]:
    """Odd numbers, the same on every machine."""
    odd: NDArray[np.uint64] = mix(np.arange(1, count + 1, dtype=np.uint64) * _FACTOR) | np.uint64(1)
    return odd


@lru_cache(maxsize=4)
def _powers(bits: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The powers of an odd number and of its inverse, up to that of `2 ** bits`."""
    base = int(_FACTOR)
    both = (base, pow(base, -1, 1 << 64))
    steps = (np.concatenate(([np.uint64(1)], np.full(1 << bits, number, dtype=np.uint64))) for number in both)
    powers, inverses = (np.multiply.accumulate(step) for step in steps)
    return powers, inverses


_VALUES = _random(256)
