"""Which functions have nearly the same code: groups of them, and how to thin these out."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, pairwise

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from st_softinfonce._checks import check_count
from st_softinfonce.data.minhash import THRESHOLD, band_keys, mix, shingles

_BATCH = 2_000
_SMALL_BUCKET = 16
_RARE = 16
_BLOCK = 64
_MOST_ROWS = 512


def find_near_duplicates(codes: Iterable[str], threshold: float = THRESHOLD) -> list[int]:
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
        part = texts[start : start + _BATCH]
        index.add(band_keys(part, threshold), [""] * len(part))
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
    check_count("per_group", per_group, hint="1 keeps one of each group.")
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
    """Finds near-duplicates among more texts than fit into memory, 65 bytes each; see `find_near_duplicates`.

    Args:
        threshold: The least Jaccard similarity, above 0 and at most 1.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}: 0.8 is usual.")
        self._threshold = threshold
        self._keys: list[NDArray[np.uint32]] = []
        self._languages: list[NDArray[np.uint8]] = []
        self._names: dict[str, int] = {}

    def add(self, keys: NDArray[np.uint32], languages: Sequence[str]) -> None:
        """Add some texts by their `band_keys`, only those of the same language being compared."""
        if not len(keys):
            return
        numbers = np.array([self._names.setdefault(name, len(self._names)) for name in languages], dtype=np.uint8)
        salts = (mix(numbers.astype(np.uint64) + np.uint64(1)) >> np.uint64(32)).astype(np.uint32)
        self._keys.append(keys ^ salts[:, None])
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
        roots = array("q", range(len(keys)))
        has_candidate = np.zeros(len(keys), dtype=bool)
        for band in range(keys.shape[1]):
            order, starts, sizes = _runs(keys[:, band])
            has_candidate[order[np.repeat(sizes > 1, sizes)]] = True
        rows = np.flatnonzero(has_candidate)
        sets = _ShingleSets(rows.tolist(), languages, read(rows.tolist()))
        for row, first in sets.first.items():
            roots[row] = first
        for band in range(keys.shape[1]):
            order, starts, sizes = _runs(keys[:, band])
            for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
                self._join(order[start : start + size].tolist(), roots, sets, languages)
        return np.array([_root(roots, row) for row in range(len(roots))], dtype=np.int64)

    def _join(self, bucket: list[int], roots: array[int], sets: _ShingleSets, languages: NDArray[np.uint8]) -> None:
        """Join the groups of those texts of a bucket that are similar."""
        # Of texts with the same shingles, the first stands for all. Two languages meet by chance.
        by_language: dict[int, list[int]] = {}
        for row in dict.fromkeys(sets.first[row] for row in bucket):
            by_language.setdefault(int(languages[row]), []).append(row)
        for members in by_language.values():
            if len({_root(roots, row) for row in members}) == 1:
                continue
            if len(members) <= _SMALL_BUCKET:
                _compare(combinations(members, 2), roots, sets, self._threshold)
            else:
                _join_many(members, roots, sets, self._threshold)


class _ShingleSets:
    """The sorted shingles of some texts, and for each text the first of its language that has the same."""

    def __init__(self, rows: list[int], languages: NDArray[np.uint8], codes: Iterable[str]) -> None:
        self.first: dict[int, int] = {}
        self._places: dict[int, slice] = {}
        seen: dict[tuple[int, bytes], int] = {}
        pieces = [np.zeros(0, dtype=np.uint32)]
        end = 0
        for row, code in zip(rows, codes, strict=True):
            flat, _ = shingles([code])
            values = np.unique((flat >> np.uint64(32)).astype(np.uint32))
            key = (int(languages[row]), hashlib.blake2b(values.tobytes(), digest_size=16).digest())
            self.first[row] = seen.setdefault(key, row)
            if self.first[row] == row:
                self._places[row] = slice(end, end := end + len(values))
                pieces.append(values)
        self._values = np.concatenate(pieces)

    def __getitem__(self, row: int) -> NDArray[np.uint32]:
        return self._values[self._places[row]]


def _compare(pairs: Iterable[tuple[int, int]], roots: array[int], sets: _ShingleSets, threshold: float) -> None:
    for one, other in pairs:
        if _root(roots, one) != _root(roots, other) and _similar(sets[one], sets[other], threshold):
            _unite(roots, one, other)


def _join_many(members: list[int], roots: array[int], sets: _ShingleSets, threshold: float) -> None:
    """Join the similar ones of many texts, without comparing each with each: those made from one template are many.

    Two texts share a shingle that is rare among these, and those that do are few; or they share frequent ones alone.
    Then all that counts is which frequent ones a text has, and its size: texts that have the same frequent ones, the
    template's, are compared at once.
    """
    arrays = [sets[row] for row in members]
    sizes = np.array(list(map(len, arrays)))
    owners = np.repeat(np.arange(len(members)), sizes)
    _, elements, counts = np.unique(np.concatenate(arrays), return_inverse=True, return_counts=True)
    is_rare = counts[elements] <= _RARE
    shared = is_rare & (counts[elements] > 1)
    order = np.argsort(elements[shared], kind="stable")
    owners_of, rare = owners[shared][order].tolist(), elements[shared][order]
    ends = [*np.flatnonzero(np.diff(rare, prepend=-1)).tolist(), len(owners_of)]
    for start, end in pairwise(ends):
        _compare(combinations([members[owner] for owner in owners_of[start:end]], 2), roots, sets, threshold)
    _join_by_frequent(members, sizes, owners[~is_rare], elements[~is_rare], roots, threshold)


def _join_by_frequent(
    members: list[int],
    sizes: NDArray[np.int64],
    owners: NDArray[np.int64],
    elements: NDArray[np.int64],
    roots: array[int],
    threshold: float,
) -> None:
    """Join texts that are similar by their frequent shingles alone.

    Where there are more kinds than `_MOST_ROWS`, these many are compared with all, and the others with these.
    """
    ends = np.searchsorted(owners, np.arange(len(members) + 1))
    kinds: dict[bytes, list[int]] = {}
    for place in np.argsort(sizes, kind="stable").tolist():
        kinds.setdefault(elements[ends[place] : ends[place + 1]].tobytes(), []).append(place)
    # The smallest text of each kind is the most similar to any other.
    smallest = np.array([places[0] for places in kinds.values()])
    columns = np.concatenate([elements[ends[place] : ends[place + 1]] for place in smallest])
    borders = np.concatenate(([0], np.cumsum(ends[smallest + 1] - ends[smallest])))
    values, columns = np.unique(columns, return_inverse=True)
    matrix = csr_matrix((np.ones(len(columns), dtype=np.int32), columns, borders), (len(smallest), len(values)))
    # What all kinds have, most of a template, need not be multiplied.
    is_everywhere = np.bincount(columns) == len(smallest)
    matrix, shared = matrix[:, np.flatnonzero(~is_everywhere)], int(is_everywhere.sum())
    transposed, weights = matrix.T.tocsr(), sizes[smallest]
    # A text of one kind is similar to some text of another if its size is at most this.
    reach = np.diff(borders) * (1 + threshold) / threshold + 1e-9 - weights
    labels = np.arange(len(smallest))
    for start in range(0, min(len(smallest), _MOST_ROWS), _BLOCK):
        block = slice(start, start + _BLOCK)
        # c >= threshold * (a + b - c), for the sizes a and b and what is common c, a little before it is rounded.
        largest = ((matrix[block] @ transposed).toarray() + shared) * (1 + threshold) / threshold + 1e-9
        ones, others = np.nonzero(weights[block, None] + weights <= largest)
        reach = np.maximum(reach, (largest - weights[block, None]).max(axis=0))
        edges = np.concatenate((ones + start, labels)), np.concatenate((others, np.arange(len(labels))))
        graph = csr_matrix((np.ones(len(edges[0]), dtype=bool), edges), (len(labels), len(labels)))
        labels = connected_components(graph, directed=False)[1]
        # Each label is the number of one of its kinds.
        labels = np.unique(labels, return_index=True)[1][labels]
    for kind, label in enumerate(labels.tolist()):
        _unite(roots, members[smallest[kind]], members[smallest[label]])
    for limit, places in zip(reach.tolist(), kinds.values(), strict=True):
        for place in places[1:]:
            if sizes[place] > limit:
                break
            _unite(roots, members[places[0]], members[place])


def _unite(roots: array[int], one: int, other: int) -> None:
    first, second = sorted((_root(roots, one), _root(roots, other)))
    roots[second] = first


def _similar(one: NDArray[np.uint32], other: NDArray[np.uint32], threshold: float) -> bool:
    small, large = sorted((len(one), len(other)))
    if small < threshold * large:
        return False
    both = np.concatenate((one, other))
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared >= threshold * (small + large - shared)


def _runs(keys: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The positions in the order of their keys, and where in it the run of each key begins and how long it is."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    borders = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1], [True])))
    return order, borders[:-1], np.diff(borders)


def _root(roots: array[int], row: int) -> int:
    while roots[row] != row:
        roots[row] = roots[roots[row]]
        row = roots[row]
    return row
