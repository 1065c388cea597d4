"""Read pairs, lay queries, candidates and relevance out for mteb, and describe them."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from datasets import Dataset, DatasetDict
from mteb import ResultCache, TaskMetadata
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.languages import PROGRAMMING_LANGS

from st_softinfonce._retrieval import one_split, optional_texts, texts

if TYPE_CHECKING:
    from pathlib import Path

    from mteb.abstasks.task_metadata import PromptDict

DEFAULT_PROMPT = "Given a description of what a piece of code does, retrieve the code."
_DUPLICATES = "duplicates"


class Row(NamedTuple):
    """A pair, or a further candidate, whose query may be empty; what the dataset does not say is empty."""

    language: str  # "default" where the dataset does not say
    query: str
    code: str
    name: str
    path: str
    package: str


def read_rows(
    pairs: Dataset | DatasetDict, corpus: Dataset | DatasetDict | None, split: str
) -> tuple[list[Row], list[Row]]:
    """Read pairs and further candidates; a ValueError says what is missing, or where their languages differ."""
    pairs = one_split("pairs", pairs, split)
    rows, further = _rows("pairs", pairs, texts("pairs", pairs, "query")), []
    if corpus is not None:
        corpus = one_split("corpus", corpus, split)
        owners = [name for name, table in (("pairs", pairs), ("corpus", corpus)) if "language" in table.column_names]
        if len(owners) == 1:
            raise ValueError(
                f"only {owners[0]} has a column 'language': add it to both pairs and corpus, or remove it, "
                f"{owners[0]}.remove_columns('language')."
            )
        further = _rows("corpus", corpus, optional_texts(corpus, "query"))
        known = {row.language for row in rows}
        if unknown := {row.language for row in further} - known:
            raise ValueError(
                f"corpus has candidates in {sorted(unknown)}, but pairs has queries only in {sorted(known)}: "
                "drop those rows of corpus, or correct the spelling."
            )
    return rows, further


def _rows(argument: str, table: Dataset, queries: list[str]) -> list[Row]:
    languages = ["default"] * len(table)
    if "language" in table.column_names:
        languages = [language.lower() for language in texts(argument, table, "language")]
    others = [optional_texts(table, column) for column in ("name", "path", "package")]
    return [Row(*row) for row in zip(languages, queries, texts(argument, table, "code"), *others, strict=True)]


@dataclass
class Draft:
    """What becomes mteb's tables of one subset.

    The ``duplicates`` of a query are further documents that `mrr_at_1000_duplicates` counts as right. They become a
    column of the queries, ids separated by spaces, which no model is shown.
    """

    queries: dict[str, str] = field(default_factory=dict)  # text by id, like the next
    documents: dict[str, str] = field(default_factory=dict)
    relevant: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    duplicates: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def table(self) -> RetrievalSplitData:
        """Make the tables."""
        columns = {"id": list(self.queries), "text": list(self.queries.values())}
        if any(self.duplicates.values()):
            columns[_DUPLICATES] = [" ".join(sorted(self.duplicates.get(query, ()))) for query in self.queries]
        return RetrievalSplitData(
            corpus=Dataset.from_dict({"id": list(self.documents), "text": list(self.documents.values())}),
            queries=Dataset.from_dict(columns),
            relevant_docs=dict(self.relevant),
            top_ranked=None,
        )


def duplicates_of(table: RetrievalSplitData) -> dict[str, list[str]]:
    """Return the further right answers of a :class:`Draft`, by query id."""
    queries = table["queries"]
    if _DUPLICATES not in queries.column_names:
        return {}
    answers = zip(queries["id"], queries[_DUPLICATES], strict=True)
    return {query: documents.split() for query, documents in answers if documents}


def content_of(table: RetrievalSplitData) -> list[Any]:
    """Return all of a table that a score depends on, whatever the order of the rows; an id is a hash of its text."""
    return [sorted(table["corpus"]["id"]), table["relevant_docs"], *filter(None, [duplicates_of(table)])]


class InMemoryMetadata(TaskMetadata):
    """Metadata of a task that mteb does not ship: its statistics go to mteb's cache, not into mteb's installation."""

    @property
    def descriptive_stat_path(self) -> Path:
        """Where mteb keeps the statistics of this task."""
        return ResultCache().cache_path / "descriptive_stats" / f"{self.name}.json"


def make_metadata(
    name: str,
    content: object,
    *,
    subsets: list[str],
    split: str,
    main_score: str,
    prompt: str | PromptDict | None,
    description: str,
    path: str | None = None,
    **further: Any,
) -> TaskMetadata:
    """Describe a task to mteb, refusing by a ValueError what would break file names, configurations or prompts later.

    `content` is all that a score depends on, `subsets` are its languages, or `default` alone where it knows none.
    `path` says where the data came from, if not from memory; `further` are more fields.
    """
    _check_pattern("name", name, r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", "letters, digits, '_', '.' and '-', at most 100")
    _check_pattern("split", split, r"\w+(\.\w+)*", "the name of a split, e.g. 'test'")
    keys = ("query", "document")
    parts = prompt.values() if isinstance(prompt, dict) and set(prompt) <= set(keys) else [prompt]
    if prompt is not None and not all(isinstance(text, str) for text in parts):
        raise ValueError(f"prompt={prompt!r} is not valid: pass a string, None, or a dict with keys among {keys}.")
    revision = hashlib.sha256(json.dumps([prompt, content], sort_keys=True).encode()).hexdigest()[:40]
    fields: dict[str, Any] = {"license": "not specified", "bibtex_citation": "", "is_public": False} | further
    return InMemoryMetadata(
        # mteb reuses a complete cached result whatever its revision, so the name has to carry it too.
        name=f"{name}-{revision[:8]}",
        dataset={"path": path or name, "revision": revision},
        description=description,
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=[split],
        eval_langs=["und-Zyyy"] if subsets == ["default"] else {name: [_language_code(name)] for name in subsets},
        main_score=main_score,
        prompt=prompt,
        domains=["Programming", "Written"],
        task_subtypes=["Code retrieval"],
        dialect=[],
        **fields,
    )


def _language_code(language: str) -> str:
    """Return mteb's code of a programming language; ISO 639's "uncoded language" where mteb has none."""
    return f"{language}-Code" if language in PROGRAMMING_LANGS else "mis-Zyyy"


def _check_pattern(argument: str, value: object, pattern: str, allowed: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ValueError(f"{argument}={value!r} is not valid: pass {allowed}.")
