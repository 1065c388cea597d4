"""The shingles of code, and by MinHash the keys under which texts that are nearly the same meet."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

SHINGLE_TOKENS = 5
THRESHOLD = 0.8
_PERMUTATIONS = 128
_RECALL = 0.998
_TOKEN = re.compile(r"\w+|[^\w\s]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def band_keys(codes: Sequence[str], threshold: float = THRESHOLD) -> NDArray[np.uint32]:
    """Hash texts so that two of them share a key if they are nearly the same, and seldom otherwise.

    Args:
        codes: The texts.
        threshold: The Jaccard similarity from which on texts are nearly the same.

    Returns:
        The keys, one row a text. Keys that are the same by chance cost a comparison and no more.
    """
    rows = _rows_per_band(threshold)
    bands = _PERMUTATIONS // rows
    keys: NDArray[np.uint64] = np.zeros((len(codes), bands), dtype=np.uint64)
    if not codes:
        return keys.astype(np.uint32)
    flat, offsets = shingles(codes)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, _PERMUTATIONS, 1)
    signatures = np.array(matrix.to_rows(), dtype=np.uint64)
    parts = signatures[:, : bands * rows].reshape(len(codes), bands, rows)
    for row in range(rows):
        keys = mix(keys * _FACTOR + parts[:, :, row])
    upper: NDArray[np.uint32] = (keys >> np.uint64(32)).astype(np.uint32)
    return upper


@lru_cache
def _rows_per_band(threshold: float) -> int:
    """The most selective banding that still finds pairs at the threshold."""
    for rows in range(16, 1, -1):
        if 1 - (1 - threshold**rows) ** (_PERMUTATIONS // rows) >= _RECALL:
            return rows
    return 1


def shingles(codes: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The shingles' hashes of all texts, one after another, and where each text's begin and the last one's end."""
    tokens: list[int] = []
    counts = []
    for code in codes:
        found = _TOKEN.findall(code)
        # A text shorter than a shingle is filled up, so that it is a shingle of its own.
        found += [""] * max(SHINGLE_TOKENS - len(found), 0)
        counts.append(len(found))
        tokens += map(_hash, found)
    hashes = np.array(tokens, dtype=np.uint64)
    windows = len(hashes) - SHINGLE_TOKENS + 1
    mixed = np.zeros(windows, dtype=np.uint64)
    for shift in range(SHINGLE_TOKENS):
        mixed = mix(mixed * _FACTOR + hashes[shift : shift + windows])
    ends = np.cumsum(counts)
    inside = np.ones(windows, dtype=bool)
    # Runs that go over from one text to the next are none.
    for shift in range(1, SHINGLE_TOKENS):
        inside[ends[:-1] - shift] = False
    offsets = np.concatenate(([0], ends - (SHINGLE_TOKENS - 1) * np.arange(1, len(codes) + 1)))
    return mixed[inside], offsets.astype(np.uint64)


@lru_cache(maxsize=1 << 16)
def _hash(token: str) -> int:
    # Not `hash`, which differs from run to run.
    return zlib.crc32(token.encode("utf-8", "surrogatepass"))


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread what differs over all bits: the finaliser of SplitMix64, which `vectors.py` has for torch's int64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
