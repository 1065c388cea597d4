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


def split_by_package(
    pairs: Dataset,
    test_packages: Iterable[str] | float,
    *,
    validation_packages: Iterable[str] | float | None = None,
    drop_leaks: bool = False,
    seed: int = 0,
) -> DatasetDict:
    """Split pairs so that no package is on two sides: near-duplicates inside one would leak into the test data.

    Given a share, packages are taken in an order that depends on their names and `seed` alone, each if it still fits;
    the smallest of the others then fills what is missing. The test side has at least that share of the rows,
    and more only by what whole packages make necessary. Packages also copy from each other: rows whose code, or whose
    `duplicate_group` if there is such a column, is also on a side that is held out are leaks. Rows with an empty
    `query`, the candidates of `mine_pairs(undocumented=True)`, are left out of `train`.

    Args:
        pairs: Any dataset with a string column `package`, such as `mine_pairs` returns.
        test_packages: Names of the packages to hold out, or the share of the rows to hold out, between 0 and 1.
        validation_packages: Names or share, of all rows, of a third side between the two; None makes none.
        drop_leaks: Whether to drop leaks, from `train` those that are in `validation` or `test`, and from
            `validation` those in `test`. Otherwise they are kept, with a warning.
        seed: Chooses other packages for the same share; of no effect on names.

    Returns:
        `train`, `validation` if asked for, and `test`, with the rows of each in the order they had.

    Raises:
        ValueError: If there is no such column or it has empty values, a package is unknown or named twice, a share is
            not between 0 and 1, one side would be empty, or a single string is given for the names.

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
    sides = {"test": _held_out("test_packages", test_packages, sizes, set(), seed)}
    if validation_packages is not None:
        sides["validation"] = _held_out("validation_packages", validation_packages, sizes, sides["test"], seed)
    side_of = {name: side for side, names in sides.items() for name in names}
    rows: dict[str, list[int]] = {side: [] for side in ("train", "validation", "test") if side in {"train", *sides}}
    for row, name in enumerate(packages):
        rows[side_of.get(name, "train")].append(row)
    if "query" in pairs.column_names:
        queries = _column(pairs, "query")
        rows["train"] = [row for row in rows["train"] if queries[row] != ""]
    for side, found in reversed(rows.items()):
        if not found:
            argument = "validation_packages" if side == "validation" else "test_packages"
            named = sides.get(side, set().union(*sides.values()))
            raise ValueError(
                f"{argument} must leave rows on {'both' if len(rows) == 2 else 'all'} sides, got {_list(named)}, and "
                f"{side!r} is empty: pairs has the packages {_list(sizes)}; choose fewer or more of them, or mine "
                "more packages."
            )
    _handle_leaks(pairs, rows, drop_leaks)
    return DatasetDict({side: pairs.select(found) for side, found in rows.items()})


def split_by_origin(pairs: Dataset, test_share: float, *, drop_leaks: bool = False) -> tuple[DatasetDict, str]:
    """Hold out whole packages; or folders, or else files, where one package holds nearly everything.

    Folders are those of the first two levels of `path`. What is held out of a package that is also trained on shares
    its habits and names with the training data, which flatters scores: say so beside them.

    Args:
        pairs: Columns `package` and `path`, such as `mine_pairs` returns. Empty ones are a group of their own.
        test_share: The share of the rows to hold out, between 0 and 1.
        drop_leaks: As for `split_by_package`.

    Returns:
        `train` and `test`, the latter with at most twice the share or 30% if that is possible, and which of
        "packages", "folders" and "files" were held out.

    Raises:
        ValueError: A column is missing, the share is out of range, or even the files cannot be split.

    Example:
        >>> rows = {"package": ["x"] * 4, "path": ["x/a/1.py", "x/a/2.py", "x/b/1.py", "x/c/1.py"]}
        >>> split, level = split_by_origin(Dataset.from_dict(rows), 0.25)
        >>> level, split["train"].num_rows, split["test"].num_rows
        ('folders', 3, 1)
    """
    for column in ("package", "path"):
        if column not in pairs.column_names:
            raise ValueError(f"pairs must have the column {column!r}, got {pairs.column_names}: add or rename one.")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, got {test_share}: give e.g. 0.1.")
    paths = [str(path or "") for path in _column(pairs, "path")]
    levels = {
        "packages": [str(name or "") for name in _column(pairs, "package")],
        "folders": ["/".join(path.split("/")[:-1][:2]) for path in paths],
        "files": paths,
    }
    fallback: tuple[DatasetDict, str] | None = None
    for level, groups in levels.items():
        if len(set(groups)) < 2:
            continue
        grouped = pairs.rename_column("package", "_package").add_column("package", [name or "." for name in groups])
        try:
            split = split_by_package(grouped, test_share, drop_leaks=drop_leaks)
        except ValueError:  # everything would be held out
            continue
        renamed = split.remove_columns("package").rename_column("_package", "package")
        found = renamed.select_columns(pairs.column_names), level
        if len(split["test"]) <= max(2 * test_share, 0.3) * len(pairs):
            return found
        fallback = fallback or found
    if fallback is None:
        raise ValueError(
            f"pairs must come from several files to be split, got {len(pairs)} rows of {len(set(paths))}: add sources."
        )
    return fallback


def _held_out(
    argument: str, packages: Iterable[str] | float, sizes: Counter[str], taken: set[str], seed: int
) -> set[str]:
    if isinstance(packages, str):
        raise ValueError(f"{argument} must be several names or a share, got {packages!r}: put it in a list.")
    if isinstance(packages, Real):
        return _choose(argument, sizes, taken, float(packages), seed)
    names = set(packages)  # type: ignore[arg-type]  # mypy takes no float for a Real
    _check_names(argument, names, sizes)
    if names & taken:
        raise ValueError(f"{argument} must not name test packages, got {_list(names & taken)}: name each once.")
    return names


def _column(pairs: Dataset, name: str) -> list[object]:
    return list(pairs.with_format(None)[name])


def _choose(argument: str, sizes: Counter[str], taken: set[str], share: float, seed: int) -> set[str]:
    if not 0 < share < 1:
        raise ValueError(f"{argument} must be names or a share between 0 and 1, got {share}: give e.g. 0.1.")
    wanted = share * sizes.total()
    order = sorted(set(sizes) - taken, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
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


def _check_names(argument: str, names: set[str], sizes: Counter[str]) -> None:
    for name in sorted(names - set(sizes), key=str):
        near = difflib.get_close_matches(str(name), sizes, n=3)
        remedy = f"did you mean {_list(near)}?" if near else f"choose from {_list(sizes)}."
        raise ValueError(f"{argument} must be packages of pairs, got {name!r}: {remedy}")


def _list(names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(map(repr, ordered[:_SHOWN_NAMES]))
    return f"{shown} and {len(ordered) - _SHOWN_NAMES} more" if len(ordered) > _SHOWN_NAMES else shown or "none"


def _handle_leaks(pairs: Dataset, rows: dict[str, list[int]], drop: bool) -> None:
    """Drop the rows that are also on a later side, or warn of them."""
    columns = [_column(pairs, name) for name in ("code", "duplicate_group") if name in pairs.column_names]
    sides = list(rows)
    # From the last side on, so that what is dropped from one is no reason to drop it from another.
    for number in range(len(sides) - 2, -1, -1):
        side, later = sides[number], sides[number + 1 :]
        held_out = [{column[row] for name in later for row in rows[name]} - {None} for column in columns]
        kept = [
            row
            for row in rows[side]
            if not any(column[row] in values for column, values in zip(columns, held_out, strict=True))
        ]
        leaked = len(rows[side]) - len(kept)
        if not leaked:
            continue
        where = " or ".join(map(repr, later))
        if drop:
            if not kept:
                raise ValueError(
                    f"test_packages must leave rows on all sides, and all {leaked} of {side!r} have a code that is "
                    f"also in {where}: hold out other packages."
                )
            rows[side] = kept
        else:
            warnings.warn(
                f"{leaked} rows of {side!r} have a code that is also in {where}, exactly or nearly: pass "
                "drop_leaks=True to drop them, or what is measured is memory.",
                UserWarning,
                stacklevel=3,
            )
