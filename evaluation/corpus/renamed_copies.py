"""Near-duplicates of functions: copies whose identifiers are renamed, in a share that is under control."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from datasets import Dataset, concatenate_datasets

from evaluation import UsageError

# Words that no language of the corpora lets one rename, and names that stand for the object itself.
RESERVED = frozenset(
    """
    abstract alias and array as assert async await begin boolean bool break byte case catch chan char class cls const
    continue declare def default defer defined del delete do double each echo elif else elsif elseif empty end ensure
    enum except export extends fallthrough False false final finally float fn for foreach from func function get global
    go goto if implements import in include instanceof int interface is isset lambda let list long loop map match
    module native new next nil None nonlocal not null object of or package pass print private protected public raise
    range redo require rescue retry return select self set short static string str struct super switch synchronized
    then this throw throws trait transient True true try type typeof undefined unless unset until use using var void
    volatile when while with xor yield error byte rune uint int64 uint64 int32 uint32 float64 float32 String Object
    Integer Boolean Double Long
    """.split()
)
_FIRST_GROUP = 2**40  # any number would do; the fingerprints of finished runs have this one
_TOKENS = re.compile(
    r"""
    (?P<text>\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`(?:\\.|[^`\\])*`)
    |(?P<name>(?<![\w.])(?<!->)(?<!::)[A-Za-z_]\w*)(?!\w|\s*\()
    """,
    re.VERBOSE | re.DOTALL,
)


def with_copies(pairs: Dataset, *, share: float, queries: str = "kept") -> Dataset:
    """Replace a share of the pairs by near-duplicates of others, so that the size and the steps stay.

    The pairs are first cut to one of each duplicate group and one of each query, so that a share of 0 means it. Then
    the last of them, as many as the share asks for, give way to copies of the first: the same function with its
    parameters and variables renamed. Which pairs are copied does not depend on the share: a larger one has all the
    copies of a smaller one.

    Args:
        pairs: Columns ``query``, ``code``, ``duplicate_group`` and any other.
        share: In [0, 0.5]. Copies among the pairs.
        queries: ``"kept"``: a copy has its original's query.

    Returns:
        The pairs; a copy and its original have one value in ``duplicate_group``.

    Raises:
        UsageError: The share is out of range, or ``queries`` is unknown.
    """
    if not 0 <= share <= 0.5:
        raise UsageError(f"share must be in [0, 0.5], got {share}: each copy needs an original of its own.")
    if queries != "kept":
        raise UsageError(f"queries must be 'kept', got {queries!r}.")
    pairs = _without_duplicates(pairs)
    count = round(share * len(pairs))
    groups = [_FIRST_GROUP + number for number in range(len(pairs))]
    originals, kept = pairs.select(range(count)), pairs.select(range(len(pairs) - count))
    vocabulary = sorted({name for code in pairs["code"][:500] for name in local_names(code)})
    generator = np.random.default_rng(0)
    codes = [rename(code, vocabulary, generator) for code in originals["code"]]
    copies = _replace(originals, {"code": codes, "duplicate_group": groups[:count]})
    return concatenate_datasets([_replace(kept, {"duplicate_group": groups[: len(kept)]}), copies])


def local_names(code: str) -> list[str]:
    """List the names of a function that may be renamed, in order: neither called, nor attributes, nor reserved."""
    names = (match["name"] for match in _TOKENS.finditer(code) if match["name"])
    return list(dict.fromkeys(name for name in names if name not in RESERVED))


def rename(code: str, vocabulary: list[str], generator: np.random.Generator) -> str:
    """Rename the parameters and variables of a function consistently.

    The new names are chosen from the vocabulary. The same name becomes the same, two never become one, and strings
    stay.
    """
    names = local_names(code)
    present = set(re.findall(r"\w+", code))
    fresh = [name for name in generator.permutation(vocabulary).tolist() if name not in present]
    fresh += [f"value{number}" for number in range(len(names)) if f"value{number}" not in present | set(fresh)]
    new = dict(zip(names, fresh, strict=False))
    return _TOKENS.sub(lambda match: new.get(match["name"], match[0]) if match["name"] else match[0], code)


def _without_duplicates(pairs: Dataset) -> Dataset:
    groups: set[int] = set()
    queries: set[str] = set()
    kept = []
    for number, (group, query) in enumerate(zip(pairs["duplicate_group"], pairs["query"], strict=True)):
        if group not in groups and query not in queries:
            kept.append(number)
            groups.add(group)
            queries.add(query)
    return pairs.select(kept)


def _replace(pairs: Dataset, columns: Mapping[str, list[object]]) -> Dataset:
    content = pairs.to_dict() | dict(columns)
    return Dataset.from_dict({name: content[name] for name in pairs.column_names}, features=pairs.features)
