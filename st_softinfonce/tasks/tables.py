"""Lay queries, candidates and relevance out for mteb, and describe them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from mteb import ResultCache, TaskMetadata
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.languages import PROGRAMMING_LANGS

if TYPE_CHECKING:
    from pathlib import Path

    from mteb.abstasks.task_metadata import PromptDict

DEFAULT_PROMPT = "Given a description of what a piece of code does, retrieve the code."
DUPLICATES_COLUMN = "duplicates"
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
SPLIT_PATTERN = r"\w+(\.\w+)*"
PROMPT_KEYS = ("query", "document")

# mteb knows each programming language by one spelling; these are the other common ones.
LANGUAGE_ALIASES = {
    "bash": "shell",
    "c_sharp": "c#",
    "cpp": "c++",
    "csharp": "c#",
    "golang": "go",
    "js": "javascript",
    "py": "python",
    "rb": "ruby",
    "sh": "shell",
    "ts": "typescript",
}


class InMemoryMetadata(TaskMetadata):
    """Metadata of a task that mteb does not ship: its statistics go to mteb's cache, not into mteb's installation."""

    @property
    def descriptive_stat_path(self) -> Path:
        """Where mteb keeps the statistics of this task."""
        return ResultCache().cache_path / "descriptive_stats" / f"{self.name}.json"


def make_table(
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    relevant: Mapping[str, Mapping[str, int]],
    duplicates: Mapping[str, Iterable[str]],
) -> RetrievalSplitData:
    """Make mteb's tables of one split of one subset, of texts by id and the grades (at least 1) of each query.

    The `duplicates` of a query are further document ids that `mrr_at_1000_duplicates` counts as right. They become a
    column of the queries, ids separated by spaces, which no model is shown.
    """
    columns = {"id": list(queries), "text": list(queries.values())}
    if any(duplicates.values()):
        columns[DUPLICATES_COLUMN] = [" ".join(sorted(duplicates.get(query, ()))) for query in queries]
    return RetrievalSplitData(
        corpus=Dataset.from_dict({"id": list(documents), "text": list(documents.values())}),
        queries=Dataset.from_dict(columns),
        relevant_docs={query: dict(grades) for query, grades in relevant.items()},
        top_ranked=None,
    )


def duplicates_of(table: RetrievalSplitData) -> dict[str, list[str]]:
    """Return the further right answers of `make_table`, by query id."""
    queries = table["queries"]
    if DUPLICATES_COLUMN not in queries.column_names:
        return {}
    answers = zip(queries["id"], queries[DUPLICATES_COLUMN], strict=True)
    return {query: documents.split() for query, documents in answers if documents}


def fingerprint(tables: Mapping[str, RetrievalSplitData], prompt: str | PromptDict | None) -> str:
    """Hash all that a score depends on, whatever the order of the rows; an id is a hash of its text."""
    content = {
        subset: [sorted(table["corpus"]["id"]), table["relevant_docs"], *filter(None, [duplicates_of(table)])]
        for subset, table in tables.items()
    }
    return hashlib.sha256(json.dumps([prompt, content], sort_keys=True).encode()).hexdigest()[:40]


def make_metadata(
    name: str,
    revision: str,
    *,
    subsets: Iterable[str],
    split: str,
    main_score: str,
    prompt: str | PromptDict | None,
    description: str,
    path: str | None = None,
    **further: Any,
) -> InMemoryMetadata:
    """Describe a task to mteb.

    `revision` is the fingerprint of its data, 40 hexadecimal digits, `subsets` are its languages, or `default` alone
    where it knows none. `path` says where the data came from, if not from memory; `further` are more fields.
    """
    languages = list(subsets)
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
        eval_langs=["und-Zyyy"]
        if languages == ["default"]
        else {language: [_language_code(language)] for language in languages},
        main_score=main_score,
        prompt=prompt,
        domains=["Programming", "Written"],
        task_subtypes=["Code retrieval"],
        dialect=[],
        **fields,
    )


def check_arguments(name: object, split: object, prompt: object) -> None:
    """Refuse what would break file names, configurations or prompts later."""
    _check_pattern("name", name, NAME_PATTERN, "letters, digits, '_', '.' and '-', at most 100, e.g. 'MyCodeSearch'")
    _check_pattern("split", split, SPLIT_PATTERN, "the name of a split, e.g. 'test'")
    check_prompt(prompt)


def check_prompt(prompt: object) -> None:
    """Refuse what mteb cannot use as a prompt."""
    texts = prompt.values() if isinstance(prompt, dict) and set(prompt) <= set(PROMPT_KEYS) else [prompt]
    if prompt is not None and not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"prompt={prompt!r} is not valid: pass a string, None, or a dict with keys among {PROMPT_KEYS}."
        )


def _language_code(language: str) -> str:
    """Return mteb's code of a programming language; ISO 639's "uncoded language" where mteb has none."""
    known = LANGUAGE_ALIASES.get(language, language)
    return f"{known}-Code" if known in PROGRAMMING_LANGS else "mis-Zyyy"


def _check_pattern(argument: str, value: object, pattern: str, allowed: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ValueError(f"{argument}={value!r} is not valid: pass {allowed}.")
