"""CodeSearchNet as the Soft-InfoNCE paper uses it, from local files or from the Hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Value,
    get_dataset_config_names,
    load_dataset,
    load_dataset_builder,
)
from tree_sitter import Node

from st_softinfonce.data.docstrings import make_query, query_rule
from st_softinfonce.data.english import is_english
from st_softinfonce.data.languages import parse_function
from st_softinfonce.data.languages.edits import REMOVED, apply_edits

logger = logging.getLogger(__name__)

CODE_SEARCH_NET_LANGUAGES = ("python", "javascript", "go", "java", "php", "ruby")
SPLITS = ("train", "validation", "test", "codebase")

# Rows a split, in the order of SPLITS, after GraphCodeBERT's filters.
PAPER_COUNTS = {
    "ruby": (24_927, 1_400, 1_261, 4_360),
    "python": (251_820, 13_914, 14_918, 43_827),
    "java": (164_923, 5_183, 10_955, 40_347),
    "javascript": (58_025, 3_885, 3_291, 13_981),
    "php": (241_241, 12_982, 14_014, 52_660),
    "go": (167_288, 7_325, 8_122, 28_120),
}

_COLUMNS = ("query", "code", "language", "url", "path", "name", "package")
_FILES = {"train": "train", "validation": "valid", "test": "test", "codebase": "codebase"}
_MIN_QUERY_TOKENS, _MAX_QUERY_TOKENS = 3, 256
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_GITHUB_URL = re.compile(r"https?://[^/]+/([^/]+/[^/]+)/blob/[^/]+/([^#]+)")

Rows = Iterable[Mapping[str, Any]]


def load_code_search_net(
    directory_or_hub_id: str | os.PathLike[str],
    language: str,
    *,
    splits: Sequence[str] = SPLITS,
    revision: str | None = None,
) -> DatasetDict:
    """Read one language of CodeSearchNet with GraphCodeBERT's filters, as the Soft-InfoNCE paper uses it.

    Three sources are told apart by themselves:

    - GraphCodeBERT's files `train`, `valid`, `test` and `codebase.jsonl` in DIRECTORY/LANGUAGE or DIRECTORY. They are
      filtered already and are taken row by row; texts are the tokens joined by spaces, as the paper's readers do.
      A warning says so if a split of about the paper's size has another number of rows than the paper.
    - CodeSearchNet's own files, DIRECTORY/LANGUAGE/final/jsonl/{train,valid,test}/*.jsonl.gz;
    - a dataset with the columns of the Hub's `code-search-net/code_search_net`, by id or as a local folder.

    The last two are filtered: documentation of 3 to 256 tokens, English, without markup and links, and code that
    parses, from which comments are removed; the candidates are all of validation and test that parses. English is
    recognised otherwise than by GraphCodeBERT, so that counts differ somewhat from the paper's. All files may end
    in `.gz`.

    Args:
        directory_or_hub_id: An existing folder, else the id of a dataset on the Hub.
        language: One of python, javascript, go, java, php and ruby.
        splits: The splits to read; `train` is by far the largest.
        revision: The commit, branch or tag of a dataset on the Hub.

    Returns:
        The splits asked for, of train, validation, test and codebase (the candidates, with an empty query where they
        have none). String columns `query`, `code`, `language`, `url`, `path`, `name` and `package` (the
        repository), empty where the source does not say.

    Raises:
        FileNotFoundError: A folder lacks files of a split, or there is neither a folder nor a dataset.
        ValueError: A language or split is not known, or a row lacks a field, is no JSON or of another language.
    """
    wanted = _check(directory_or_hub_id, language, splits)
    prepared, original = _locate(directory_or_hub_id, language)
    if prepared is not None:
        found = {split: _table(_prepared_rows(_file(prepared, split), language)) for split in wanted}
        _warn_of_counts(found, language)
        return DatasetDict(found)
    raw: Callable[[str], Rows]
    if original is not None:
        raw = partial(_original_rows, original)
    else:
        raw = _dataset_reader(os.fspath(directory_or_hub_id), language, revision)
    found = {}
    for split in wanted:
        dropped: Counter[str] = Counter()
        if split == "codebase":
            records = _distinct(record for part in ("validation", "test") for record in map(_record, raw(part)))
            rows = _filtered(records, language, dropped, with_query=False)
        else:
            rows = _filtered(map(_record, raw(split)), language, dropped, with_query=True)
        found[split] = _table(rows)
        logger.info("%s/%s: kept %d, dropped %s", language, split, len(found[split]), dict(dropped))
    return DatasetDict(found)


def count_differences(splits: Mapping[str, Dataset], language: str) -> dict[str, tuple[int, int]]:
    """Compare the rows of some splits with those of the paper.

    Args:
        splits: Of `load_code_search_net`.
        language: Their language.

    Returns:
        Split to (its rows, the paper's), for those that differ.

    Example:
        >>> count_differences({"test": Dataset.from_dict({"query": ["a"]})}, "ruby")
        {'test': (1, 1261)}
    """
    expected = dict(zip(SPLITS, PAPER_COUNTS[language], strict=True))
    counts = {split: (len(table), expected[split]) for split, table in splits.items()}
    return {split: (got, wanted) for split, (got, wanted) in counts.items() if got != wanted}


def source_fingerprint(
    directory_or_hub_id: str | os.PathLike[str], language: str, splits: Sequence[str], revision: str | None = None
) -> str:
    """Hash what `load_code_search_net` would read, without reading its rows into memory.

    Args:
        directory_or_hub_id: As there.
        language: As there.
        splits: As there.
        revision: As there.

    Returns:
        64 hexadecimal digits. They follow the content of local files, and the commit of a dataset on the Hub.

    Raises:
        FileNotFoundError: As there.
        ValueError: As there.
    """
    wanted = _check(directory_or_hub_id, language, splits)
    prepared, original = _locate(directory_or_hub_id, language)
    digest = hashlib.sha256(json.dumps([language, wanted]).encode())
    if prepared is not None:
        files = [_file(prepared, split) for split in wanted]
    elif original is not None:
        files = [file for part in ("train", "validation", "test") for file in _original_files(original, part)]
    else:
        files = []
        for place in _dataset_files(os.fspath(directory_or_hub_id), language, revision):
            if Path(place).is_file():
                files.append(Path(place))
            else:
                digest.update(place.encode())
    if prepared is None:
        # What filters let through depends on them and on the grammars.
        digest.update(f"{version('st-softinfonce')} {version(f'tree-sitter-{language}')}".encode())
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        digest.update(file.name.encode())
    return digest.hexdigest()


def _check(source: str | os.PathLike[str], language: str, splits: Sequence[str]) -> list[str]:
    if language not in CODE_SEARCH_NET_LANGUAGES:
        raise ValueError(f"language={language!r} is not in CodeSearchNet: pass one of {CODE_SEARCH_NET_LANGUAGES}.")
    unknown = [split for split in splits if split not in SPLITS]
    if isinstance(splits, str) or unknown or not splits:
        raise ValueError(f"splits={splits!r} is not valid: pass some of {SPLITS}, in a list.")
    if not Path(source).is_dir() and not _HUB_ID.fullmatch(os.fspath(source)):
        raise FileNotFoundError(
            f"directory_or_hub_id={os.fspath(source)!r} is no folder and no dataset id such as "
            "'code-search-net/code_search_net': check its spelling."
        )
    return [split for split in SPLITS if split in splits]


def _locate(source: str | os.PathLike[str], language: str) -> tuple[Path | None, Path | None]:
    """The folder of GraphCodeBERT's layout, or else that of CodeSearchNet's own; neither is for `datasets`."""
    folder = Path(source)
    if not folder.is_dir():
        return None, None
    places = (folder / language, folder)
    for place in places:
        if any(_existing(place / f"{name}.jsonl") for name in _FILES.values()):
            return place, None
    for place in (*(place / "final" / "jsonl" for place in places), *places):
        if any(_original_files(place, part, missing_ok=True) for part in ("train", "validation", "test")):
            return None, place
    if not any(folder.glob("**/*.parquet")) and not (folder / "README.md").is_file():
        raise FileNotFoundError(
            f"directory_or_hub_id={str(folder)!r} holds neither {language}/test.jsonl nor test.jsonl, "
            f"nor {language}/final/jsonl, nor a dataset: name the folder above or that of one language."
        )
    return None, None


def _existing(file: Path) -> Path | None:
    for candidate in (file, file.with_name(f"{file.name}.gz")):
        if candidate.is_file():
            return candidate
    return None


def _file(folder: Path, split: str) -> Path:
    file = _existing(folder / f"{_FILES[split]}.jsonl")
    if file is None:
        raise FileNotFoundError(
            f"{folder} has no {_FILES[split]}.jsonl, which holds the split {split!r}: add it, or leave the split out, "
            "splits=[...]."
        )
    return file


def _original_files(folder: Path, part: str, *, missing_ok: bool = False) -> list[Path]:
    inner = folder / _FILES[part]
    files = sorted([*inner.glob("*.jsonl"), *inner.glob("*.jsonl.gz")], key=_natural)
    if not files and not missing_ok:
        raise FileNotFoundError(f"{inner} has no *.jsonl or *.jsonl.gz, which hold the split {part!r}: add them.")
    return files


def _natural(file: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", file.name)]


def _read(file: Path) -> Iterator[dict[str, Any]]:
    opened = gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8")
    with opened as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}, line {number}, is no JSON ({error}): repair or drop the line.") from error
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number}, is no JSON object: repair or drop the line.")
            yield row


def _prepared_rows(file: Path, language: str) -> Iterator[tuple[str, ...]]:
    needed = ("url", "code_tokens") if file.name.startswith("codebase") else ("url", "code_tokens", "docstring_tokens")
    for number, row in enumerate(_read(file), start=1):
        missing = [field for field in needed if not row.get(field)]
        if missing:
            raise ValueError(f"{file}, row {number}, has no {missing[0]!r}: repair or drop the row.")
        if not _is_in(row, language):
            raise ValueError(
                f"{file}, row {number}, is {row['language']}, not {language}: pass the folder of that language."
            )
        record = _record(row)
        yield (
            " ".join(record["query_tokens"]).strip(),
            " ".join(row["code_tokens"]).strip(),
            language,
            *(record[field] for field in ("url", "path", "name", "package")),
        )


def _original_rows(folder: Path, part: str) -> Rows:
    return (row for file in _original_files(folder, part) for row in _read(file))


def _config(path: str, language: str, revision: str | None) -> str:
    try:
        configs = get_dataset_config_names(path, revision=revision)
    except OSError as error:
        raise FileNotFoundError(
            f"directory_or_hub_id={path!r} is no folder here, and no dataset that could be reached on the Hub: "
            "check the spelling and the network."
        ) from error
    if language in configs:
        return language
    if len(configs) == 1:
        return str(configs[0])
    raise ValueError(f"directory_or_hub_id={path!r} has no configuration {language!r}, only {configs}: pass another.")


def _dataset_files(path: str, language: str, revision: str | None) -> list[str]:
    """The files behind a dataset's validation and test; the commit is part of their addresses on the Hub."""
    builder = load_dataset_builder(path, _config(path, language, revision), revision=revision)
    parts = builder.config.data_files or {}
    # Without a network, what the cache holds has no files, but a hash that is the commit.
    return [str(file) for part in ("validation", "test") for file in parts.get(part, ())] or [str(builder.hash)]


def _dataset_reader(path: str, language: str, revision: str | None) -> Callable[[str], Rows]:
    config = _config(path, language, revision)

    def read(part: str) -> Rows:
        table = load_dataset(path, config, split=part, revision=revision)
        return (row for row in table if _is_in(row, language))

    return read


def _is_in(row: Mapping[str, Any], language: str) -> bool:
    return str(row.get("language") or language).lower() == language


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row under the same names, whichever of the three sources it is from."""

    def first(*names: str) -> Any:
        return next((row[name] for name in names if row.get(name)), "")

    url = first("url", "func_code_url")
    place = _GITHUB_URL.match(url)
    return {
        "url": url,
        "path": first("path", "func_path_in_repository") or (place[2] if place else ""),
        "name": first("func_name"),
        "package": first("repo", "repository_name") or (place[1] if place else ""),
        "documentation": first("docstring", "func_documentation_string"),
        "query_tokens": list(first("docstring_tokens", "func_documentation_tokens")),
        "code": first("code", "func_code_string", "whole_func_string", "original_string"),
    }


def _distinct(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen = set()
    for record in records:
        key = record["url"], record["code"]
        if key not in seen:
            seen.add(key)
            yield record


def _filtered(
    records: Iterable[dict[str, Any]],
    language: str,
    dropped: Counter[str],
    *,
    with_query: bool,
) -> Iterator[tuple[str, ...]]:
    for record in records:
        documentation = make_query(record["documentation"])
        query = " ".join(record["query_tokens"]).strip() or documentation
        count = len(record["query_tokens"]) or len(query.split())
        rule = _rule(query, documentation, count) if with_query else None
        code = None if rule is not None else _clean(record["code"], language)
        if code is None:
            dropped[rule or "syntax_error"] += 1
        else:
            yield (query, code, language, *(record[field] for field in ("url", "path", "name", "package")))


def _rule(query: str, documentation: str, count: int) -> str | None:
    if count < _MIN_QUERY_TOKENS:
        return "query_too_short"
    if count > _MAX_QUERY_TOKENS:
        return "query_too_long"
    # Tokens hide markup ("< img src"), and the documentation may be missing: each is looked at for what it shows.
    rule = query_rule(query, 1, count) or (query_rule(documentation, 1, 1 << 30) if documentation else None)
    return rule or (None if is_english(documentation or query) else "query_not_english")


def _table(rows: Iterable[tuple[str, ...]]) -> Dataset:
    columns: dict[str, list[str]] = {name: [] for name in _COLUMNS}
    for row in rows:
        for name, value in zip(_COLUMNS, row, strict=True):
            columns[name].append(value)
    return Dataset.from_dict(columns, features=Features({name: Value("string") for name in _COLUMNS}))


def _warn_of_counts(found: Mapping[str, Dataset], language: str) -> None:
    # A sample is no mistake: only what looks like the whole is compared.
    whole = {
        split: (got, wanted)
        for split, (got, wanted) in count_differences(found, language).items()
        if wanted / 2 <= got <= 2 * wanted
    }
    if whole:
        listed = ", ".join(f"{split} {got:,} (paper: {wanted:,})" for split, (got, wanted) in whole.items())
        warnings.warn(
            f"CodeSearchNet {language} has other numbers of rows than the Soft-InfoNCE paper: {listed}. "
            "Scores cannot be compared with the paper's; prepare the data with GraphCodeBERT's script.",
            UserWarning,
            stacklevel=3,
        )


def _clean(code: str, language: str) -> str | None:
    """Remove comments, and Python's docstrings, from a function; None for code that does not parse."""
    # Lone surrogates, which only an escape in JSON can bring about, are no text.
    if not code.strip() or "\0" in code or code != code.encode(errors="ignore").decode():
        return None
    parsed = parse_function(code, language)
    if parsed is None:
        return None
    # A docstring may hold what looks like a comment; it goes as a whole.
    edits = [(first, last, REMOVED) for first, last in _comments(parsed.root)]
    lines = []
    for line in apply_edits(parsed.data, parsed.start, parsed.end, edits).split("\n"):
        kept = line.replace(REMOVED, "")
        if kept.strip() or REMOVED not in line:
            lines.append(kept.rstrip() if REMOVED in line else line)
    return "\n".join(lines).strip() or None


def _comments(root: Node) -> list[tuple[int, int]]:
    """The ranges of all comments and docstrings."""
    found = []
    pending = [root]
    while pending:
        node = pending.pop()
        if node.type.endswith("comment"):
            found.append((node.start_byte, node.end_byte))
            continue
        if node.type in ("function_definition", "class_definition") and (docstring := _docstring(node)) is not None:
            found.append((docstring.start_byte, docstring.end_byte))
        pending += node.children
    return sorted(found)


def _docstring(definition: Node) -> Node | None:
    body = definition.child_by_field_name("body")
    if body is None or body.type != "block":
        return None
    statements = [node for node in body.named_children if node.type != "comment"]
    # The only statement has to stay, or nothing is left to parse.
    if len(statements) < 2 or statements[0].type != "expression_statement":
        return None
    inner = statements[0].named_children
    return statements[0] if len(inner) == 1 and inner[0].type in ("string", "concatenated_string") else None
