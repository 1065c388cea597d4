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
_TOKENS = re.compile(
    r"""
    (?P<text>\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`(?:\\.|[^`\\])*`)
    |(?P<name>(?<![\w.])(?<!->)(?<!::)[A-Za-z_]\w*)(?!\w|\s*\()
    """,
    re.VERBOSE | re.DOTALL,
)
# What follows a copy's verb and articles stays, so that it asks for the same thing in other words.
_SYNONYMS = (
    ("return", "give back"), ("returns", "gives back"), ("get", "obtain"), ("gets", "obtains"), ("create", "make"),
    ("creates", "makes"), ("compute", "work out"), ("computes", "works out"), ("check", "test"), ("checks", "tests"),
    ("set", "assign"), ("sets", "assigns"), ("remove", "take away"), ("removes", "takes away"), ("convert", "turn"),
    ("converts", "turns"), ("add", "put in"), ("adds", "puts in"), ("find", "look for"), ("finds", "looks for"),
)  # fmt: skip
QUERIES = ("kept", "paraphrased")


def with_copies(pairs: Dataset, *, share: float, queries: str = "kept", groups_from: int = 2**40) -> Dataset:
    """Replace a share of the pairs by near-duplicates of others, so that the size and the steps stay.

    The pairs are first cut to one of each duplicate group and one of each query, so that a share of 0 means it. Then
    the last of them, as many as the share asks for, give way to copies of the first: the same function with its
    parameters and variables renamed. Which pairs are copied does not depend on the share: a larger one has all the
    copies of a smaller one.

    Args:
        pairs: Columns ``query``, ``code``, ``duplicate_group`` and any other.
        share: In [0, 0.5]. Copies among the pairs.
        queries: Whether a copy's query is ``"kept"``, or ``"paraphrased"`` (other verb, no articles).
        groups_from: What copies' groups are counted from; an original and its copy share one.

    Returns:
        The pairs; a copy and its original have one value in ``duplicate_group``.

    Raises:
        UsageError: The share is out of range, or ``queries`` is unknown.
    """
    if not 0 <= share <= 0.5:
        raise UsageError(f"share must be in [0, 0.5], got {share}: each copy needs an original of its own.")
    if queries not in QUERIES:
        raise UsageError(f"queries must be one of {QUERIES}, got {queries!r}.")
    pairs = _without_duplicates(pairs)
    count = round(share * len(pairs))
    groups = np.arange(len(pairs)) + groups_from
    originals = pairs.select(range(count))
    vocabulary = sorted({name for code in pairs["code"][:500] for name in local_names(code)})
    generator = np.random.default_rng(0)
    codes = [rename(code, vocabulary, generator) for code in originals["code"]]
    asked = list(originals["query"])
    if queries == "paraphrased":
        asked = [paraphrase(query) for query in asked]
    kept = pairs.select(range(len(pairs) - count))
    kept = _replace(kept, {"duplicate_group": groups[: len(kept)].tolist()})
    copies = _replace(originals, {"query": asked, "code": codes, "duplicate_group": groups[:count].tolist()})
    return concatenate_datasets([kept, copies])


def local_names(code: str) -> list[str]:
    """List the names of a function that may be renamed, in order: neither called, nor attributes, nor reserved."""
    names = (match["name"] for match in _TOKENS.finditer(code) if match["name"])
    return list(dict.fromkeys(name for name in names if name not in RESERVED))


def rename(code: str, vocabulary: list[str], generator: np.random.Generator) -> str:
    """Rename the parameters and variables of a function consistently.

    Args:
        code: Of a function.
        vocabulary: New names, as other functions have them.
        generator: Chooses among them.

    Returns:
        The code: the same name becomes the same, two names never become one, and strings stay.
    """
    names = local_names(code)
    present = set(re.findall(r"\w+", code))
    fresh = [name for name in generator.permutation(vocabulary).tolist() if name not in present]
    fresh += [f"value{number}" for number in range(len(names)) if f"value{number}" not in present | set(fresh)]
    new = dict(zip(names, fresh, strict=False))
    return _TOKENS.sub(lambda match: new.get(match["name"], match[0]) if match["name"] else match[0], code)


def paraphrase(query: str) -> str:
    """Say a query in other words: another verb, no articles."""
    synonyms: Mapping[str, str] = dict(_SYNONYMS)
    words = [word for word in query.split() if word.lower() not in ("a", "an", "the")]
    return " ".join(synonyms.get(word.lower(), word) for word in words) or query


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
