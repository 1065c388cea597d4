"""Which functions have nearly the same code: groups of them, and how to thin these out."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from rensa import RMinHash
from scipy.sparse import csr_matrix

SHINGLE_TOKENS = 5
_PERMUTATIONS = 128
_RECALL = 0.998
_BATCH = 2_000
_LARGE_BUCKET = 64
_TOKEN = re.compile(r"\w+|[^\w\s]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def find_near_duplicates(codes: Iterable[str], threshold: float = 0.8) -> list[int]:
    """Group texts of code that are exactly or nearly the same, or connected by others that are.

    Two texts are nearly the same if the Jaccard similarity of their sets of runs of 5 tokens (the whole text, if it is
    shorter) is at least `threshold`, as corpora of code are deduplicated (StarCoder, Li et al. 2023). A token is a
    word or a sign; white space does not count. Candidates are found by MinHash and locality-sensitive hashing, which
    misses one in 500 pairs just as similar as `threshold` and fewer of the others, and are then compared exactly.

    Args:
        codes: The texts.
        threshold: The least similarity, above 0 and at most 1.

    Returns:
        For each text the position of the first text of its group; its own, if there is no other like it.

    Raises:
        ValueError: If the threshold is out of range, or a single string is given.

    Example:
        >>> find_near_duplicates(["def f(x): return x", "def g(y, z): pass", "def f(x):  return x"])
        [0, 1, 0]
    """
    if isinstance(codes, str):
        raise ValueError(f"codes must be several texts, got one string of {len(codes)} characters: put it in a list.")
    texts = list(codes)
    index = NearDuplicateIndex(threshold)
    for start in range(0, len(texts), _BATCH):
        index.add(texts[start : start + _BATCH], [""] * len(texts[start : start + _BATCH]))
    return list(map(int, index.groups(lambda rows: (texts[row] for row in rows))))


def limit_duplicates(pairs: Dataset, per_group: int = 1) -> Dataset:
    """Keep the first few rows of each group of near-duplicates.

    Args:
        pairs: Any dataset with an integer column `duplicate_group`, such as `mine_pairs` returns.
        per_group: The most rows of a group that are kept; 1 leaves none that is nearly the same as another.

    Returns:
        The rows that are left, in their order.

    Raises:
        ValueError: If there is no such column, or `per_group` is not positive.

    Example:
        >>> limit_duplicates(Dataset.from_dict({"code": ["a", "b", "a"], "duplicate_group": [7, 8, 7]}))["code"][:]
        ['a', 'b']
    """
    if isinstance(per_group, bool) or not isinstance(per_group, int) or per_group < 1:
        raise ValueError(f"per_group must be an integer of at least 1, got {per_group!r}: 1 keeps one of each group.")
    if "duplicate_group" not in pairs.column_names:
        raise ValueError(
            f"pairs must have the column 'duplicate_group', got {pairs.column_names}: "
            "add what find_near_duplicates(pairs['code']) returns."
        )
    seen: Counter[int] = Counter()
    kept = []
    for row, group in enumerate(pairs.with_format(None)["duplicate_group"]):
        seen[group] += 1
        if seen[group] <= per_group:
            kept.append(row)
    return pairs.select(kept)


class NearDuplicateIndex:
    """Finds near-duplicates among more texts than fit into memory, 85 bytes each; see `find_near_duplicates`.

    Args:
        threshold: The least Jaccard similarity, above 0 and at most 1.
    """

    def __init__(self, threshold: float = 0.8) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}: 0.8 is usual.")
        self._threshold = threshold
        self._rows = _rows_per_band(threshold)
        self._keys: list[NDArray[np.uint32]] = []
        self._languages: list[NDArray[np.uint8]] = []
        self._names: dict[str, int] = {}

    def add(self, codes: Sequence[str], languages: Sequence[str]) -> None:
        """Add some texts, only those of the same language being compared."""
        if not codes:
            return
        flat, offsets = _shingles(codes)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, _PERMUTATIONS, 1)
        signatures = np.array(matrix.to_rows(), dtype=np.uint64)
        bands = _PERMUTATIONS // self._rows
        parts = signatures[:, : bands * self._rows].reshape(len(codes), bands, self._rows)
        keys = np.zeros((len(codes), bands), dtype=np.uint64)
        for row in range(self._rows):
            keys = _mix(keys * _FACTOR + parts[:, :, row])
        numbers = np.array([self._names.setdefault(name, len(self._names)) for name in languages], dtype=np.uint8)
        keys += _mix(numbers.astype(np.uint64) + np.uint64(1))[:, None]
        # Keys that are the same by chance cost a comparison and no more.
        self._keys.append((keys >> np.uint64(32)).astype(np.uint32))
        self._languages.append(numbers)

    def groups(self, read: Callable[[list[int]], Iterable[str]]) -> NDArray[np.int64]:
        """Group all texts.

        Args:
            read: Returns the texts at ascending positions once more, only those that have a candidate being asked for.

        Returns:
            For each text the position of the first of its group.
        """
        if not self._keys:
            return np.zeros(0, dtype=np.int64)
        keys, languages = np.concatenate(self._keys), np.concatenate(self._languages)
        self._keys, self._languages = [keys], [languages]
        roots = list(range(len(keys)))
        has_candidate = np.zeros(len(keys), dtype=bool)
        for band in range(keys.shape[1]):
            order, starts, sizes = _runs(keys[:, band])
            has_candidate[order[np.repeat(sizes > 1, sizes)]] = True
        rows = np.flatnonzero(has_candidate).tolist()
        sets = dict(zip(rows, _sets(read(rows)), strict=True))
        for band in range(keys.shape[1]):
            order, starts, sizes = _runs(keys[:, band])
            for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
                self._join(order[start : start + size].tolist(), roots, sets, languages)
        return np.array([_root(roots, row) for row in range(len(roots))], dtype=np.int64)

    def _join(
        self, bucket: list[int], roots: list[int], sets: dict[int, NDArray[np.uint32]], languages: NDArray[np.uint8]
    ) -> None:
        """Join the groups of those texts of a bucket that are similar."""
        members: dict[int, list[int]] = {}
        for row in bucket:
            members.setdefault(_root(roots, row), []).append(row)
        if len(members) == 1:
            return
        if len(bucket) > _LARGE_BUCKET:
            self._join_many(bucket, roots, sets, languages)
            return
        done: list[list[int]] = []
        for rows in members.values():
            apart = []
            for others in done:
                if any(
                    languages[row] == languages[other] and self._similar(sets[row], sets[other])
                    for row in rows
                    for other in others
                ):
                    first, second = sorted((_root(roots, rows[0]), _root(roots, others[0])))
                    roots[second] = first
                    rows = rows + others
                else:
                    apart.append(others)
            done = [*apart, rows]

    def _join_many(
        self, bucket: list[int], roots: list[int], sets: dict[int, NDArray[np.uint32]], languages: NDArray[np.uint8]
    ) -> None:
        """Do the same for many texts at once: those made from one template can be many without being similar."""
        members = [sets[row] for row in bucket]
        sizes = np.array(list(map(len, members)))
        values, columns = np.unique(np.concatenate(members), return_inverse=True)
        ends = np.concatenate(([0], np.cumsum(sizes)))
        matrix = csr_matrix((np.ones(len(columns), dtype=np.int32), columns, ends), (len(bucket), len(values)))
        transposed = matrix.T.tocsr()
        for start in range(0, len(bucket), _LARGE_BUCKET):
            groups = np.array([_root(roots, row) for row in bucket])
            if np.all(groups == groups[0]):
                return
            shared = (matrix[start : start + _LARGE_BUCKET] @ transposed).tocoo()
            ones, others = shared.row + start, shared.col
            same_language = languages[bucket][ones] == languages[bucket][others]
            similar = shared.data >= self._threshold * (sizes[ones] + sizes[others] - shared.data)
            chosen = similar & same_language & (groups[ones] != groups[others])
            for one, other in zip(ones[chosen].tolist(), others[chosen].tolist(), strict=True):
                first, second = sorted((_root(roots, bucket[one]), _root(roots, bucket[other])))
                roots[second] = first

    def _similar(self, one: NDArray[np.uint32], other: NDArray[np.uint32]) -> bool:
        small, large = sorted((len(one), len(other)))
        if small < self._threshold * large:
            return False
        both = np.concatenate((one, other))
        both.sort()
        shared = int(np.count_nonzero(both[1:] == both[:-1]))
        return shared >= self._threshold * (small + large - shared)


def _rows_per_band(threshold: float) -> int:
    """The most selective banding that still finds pairs at the threshold."""
    for rows in range(16, 1, -1):
        if 1 - (1 - threshold**rows) ** (_PERMUTATIONS // rows) >= _RECALL:
            return rows
    return 1


def _runs(keys: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The positions in the order of their keys, and where in it the run of each key begins and how long it is."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    borders = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True])))
    return order, borders[:-1], np.diff(borders)


def _root(roots: list[int], row: int) -> int:
    while roots[row] != row:
        roots[row] = roots[roots[row]]
        row = roots[row]
    return row


def _sets(codes: Iterable[str]) -> Iterable[NDArray[np.uint32]]:
    """The set of each text's shingles, sorted."""
    for code in codes:
        flat, _ = _shingles([code])
        yield np.unique((flat >> np.uint64(32)).astype(np.uint32))


def _shingles(codes: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
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
        mixed = _mix(mixed * _FACTOR + hashes[shift : shift + windows])
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


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread what differs over all bits (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
