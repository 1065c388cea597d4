"""Split pairs into training and test data by whole packages."""

from __future__ import annotations

import difflib
import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable
from numbers import Real

from datasets import Dataset, DatasetDict

_SHOWN_NAMES = 10


def split_by_package(pairs: Dataset, test_packages: Iterable[str] | float, *, seed: int = 0) -> DatasetDict:
    """Split pairs so that no package is on both sides: near-duplicates inside one would leak into the test data.

    Given a share, packages are taken in an order that depends on their names and `seed` alone, each if it still fits;
    the smallest of the others then fills what is missing. The test side has at least that share of the rows,
    and more only by what whole packages make necessary.

    Args:
        pairs: Any dataset with a string column `package`, such as `mine_pairs` returns.
        test_packages: Names of the packages to hold out, or the share of the rows to hold out, between 0 and 1.
        seed: Chooses other packages for the same share; of no effect on names.

    Returns:
        `train` and `test`, with the rows of each in the order they had.

    Raises:
        ValueError: If there is no such column or it has empty values, a package is unknown, the share is not between
            0 and 1, one side would be empty, or a single string is given for the names.

    Example:
        >>> pairs = Dataset.from_dict({"query": ["a", "b", "c"], "package": ["x", "y", "x"]})
        >>> split_by_package(pairs, ["y"])["train"]["query"][:]
        ['a', 'c']
    """
    if not isinstance(pairs, Dataset):
        raise ValueError(f"pairs must be a datasets.Dataset, got {type(pairs).__name__}: choose one split or load it.")
    if "package" not in pairs.column_names:
        raise ValueError(f"pairs must have the column 'package', got {pairs.column_names}: add or rename one.")
    packages = [name for name in _column(pairs, "package") if isinstance(name, str) and name]
    if len(packages) < pairs.num_rows:
        nameless = pairs.num_rows - len(packages)
        raise ValueError(f"pairs must have a package name in each row, got {nameless} without: fill or drop those.")
    sizes = Counter(packages)
    if isinstance(test_packages, str):
        raise ValueError(f"test_packages must be several names or a share, got {test_packages!r}: put it in a list.")
    if isinstance(test_packages, Real):
        held_out = _choose(sizes, float(test_packages), seed)
    else:
        held_out = set(test_packages)  # type: ignore[arg-type]  # mypy takes no float for a Real
    _check_names(held_out, sizes)
    is_test = [name in held_out for name in packages]
    if all(is_test) or not any(is_test):
        empty = "train" if pairs.num_rows and all(is_test) else "test"
        raise ValueError(
            f"test_packages must leave rows on both sides, got {_list(held_out)}, and {empty!r} is empty: "
            f"pairs has the packages {_list(sizes)}; choose fewer or more of them, or mine more packages."
        )
    splits = DatasetDict(
        train=pairs.select([row for row, test in enumerate(is_test) if not test]),
        test=pairs.select([row for row, test in enumerate(is_test) if test]),
    )
    _warn_of_leaks(pairs, is_test)
    return splits


def _column(pairs: Dataset, name: str) -> list[object]:
    return list(pairs.with_format(None)[name])


def _choose(sizes: Counter[str], share: float, seed: int) -> set[str]:
    if not 0 < share < 1:
        raise ValueError(f"test_packages must be names or a share between 0 and 1, got {share}: give e.g. 0.1.")
    wanted = share * sizes.total()
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    chosen: set[str] = set()
    rows = 0
    for name in order:
        if rows + sizes[name] <= wanted:
            chosen.add(name)
            rows += sizes[name]
    others = [name for name in order if name not in chosen]
    if rows < wanted and others:
        chosen.add(min(others, key=lambda name: sizes[name]))
    return chosen


def _check_names(names: set[str], sizes: Counter[str]) -> None:
    for name in sorted(names - set(sizes), key=str):
        near = difflib.get_close_matches(str(name), sizes, n=3)
        remedy = f"did you mean {_list(near)}?" if near else f"choose from {_list(sizes)}."
        raise ValueError(f"test_packages must be packages of pairs, got {name!r}: {remedy}")


def _list(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(map(repr, ordered[:_SHOWN_NAMES]))
    return f"{shown} and {len(ordered) - _SHOWN_NAMES} more" if len(ordered) > _SHOWN_NAMES else shown or "none"


def _warn_of_leaks(pairs: Dataset, is_test: list[bool]) -> None:
    if "code" not in pairs.column_names:
        return
    codes = _column(pairs, "code")
    test_codes = {code for code, test in zip(codes, is_test, strict=True) if test}
    leaked = sum(code in test_codes for code, test in zip(codes, is_test, strict=True) if not test)
    if leaked:
        warnings.warn(
            f"{leaked} rows of 'train' have a code that is also in 'test': drop one side of them, "
            "or what is measured is memory.",
            UserWarning,
            stacklevel=3,
        )
