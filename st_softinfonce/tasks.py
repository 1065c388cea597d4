"""MTEB tasks for code search: a retrieval task made of anyone's own (query, code) pairs.

A task is an object to hand to `mteb.evaluate`; nothing is registered with mteb and nothing is downloaded.
Needs the extra `eval`: `pip install "st-softinfonce[eval]"`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

try:
    from datasets import Dataset, DatasetDict
    from mteb import ResultCache, TaskMetadata
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.languages import PROGRAMMING_LANGS
except ImportError as error:
    raise ImportError(
        f'st_softinfonce.tasks needs mteb, which could not be imported ({error}): pip install "st-softinfonce[eval]".'
    ) from error

if TYPE_CHECKING:
    from pathlib import Path

    from mteb.abstasks.task_metadata import PromptDict
    from mteb.timing import TimingStack

__all__ = ["CodeRetrieval", "task_from_pairs"]

MAIN_SCORE = "mrr_at_1000"
DEFAULT_PROMPT = "Given a description of what a piece of code does, retrieve the code."
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


class CodeRetrieval(AbsTaskRetrieval):
    """Search every candidate of a language for the code that each query asks for, from tables in memory.

    The main score is `mrr_at_1000`: the mean over queries of 1 / (rank of the best-ranked right answer), 0 where that
    rank is past 1000. The rank is taken among all candidates of the subset, so it is the MRR of the Soft-InfoNCE paper
    (Li et al., EMNLP 2023). Documents with exactly equal scores rank by id, descending, as everywhere in mteb; ids
    are hashes of the texts, so a tie favours neither the right answer nor any order of the rows. (Where more than
    1000 documents tie at the cut itself, which of them are kept is up to `torch.topk`.)

    A cross-encoder cannot search: it re-ranks the `top_k` best that another model found. Evaluate that model with
    `prediction_folder=...`, then the cross-encoder on `deepcopy(task).convert_to_reranking(prediction_folder, top_k)`:
    the conversion cannot be undone.

    Args:
        metadata: What mteb should know about the task.
        tables: Subset, then split, to the tables of `retrieval_tables`.
        seed: mteb seeds `random`, NumPy and torch globally with it, here and in every evaluation.
    """

    def __init__(
        self,
        metadata: TaskMetadata,
        tables: Mapping[str, Mapping[str, RetrievalSplitData]],
        *,
        seed: int = 42,
    ) -> None:
        self.metadata = self._own_metadata = metadata
        self._tables = tables
        super().__init__(seed=seed)

    def load_data(
        self,
        num_proc: int | None = None,
        *,
        timer: TimingStack | None = None,
        **kwargs: Any,
    ) -> None:
        """Hand the tables of the chosen subsets and splits to mteb; nothing is read or downloaded.

        Args:
            num_proc: Ignored, as are the other arguments: mteb passes them to every task.
            timer: Ignored.
            **kwargs: Ignored.
        """
        if self.data_loaded:
            return
        # mteb writes into these dictionaries (filtered queries, candidates to re-rank): copies keep the tables intact.
        self.dataset = {
            subset: {split: copy(self._tables[subset][split]) for split in self.eval_splits}
            for subset in self.hf_subsets
        }
        self.data_loaded = True

    def unload_data(self) -> None:
        """Forget the loaded data, as mteb does after an evaluation; the next `load_data` brings it back."""
        # Not super's: it deletes the instance's metadata to uncover the class's, and this class has none.
        self.dataset = {}
        self.data_loaded = False
        self.metadata = self._own_metadata


class _InMemoryMetadata(TaskMetadata):
    """Metadata of a task that mteb does not ship.

    mteb keeps descriptive statistics inside its own installation, by task name: here they go to its cache folder.
    """

    @property
    def descriptive_stat_path(self) -> Path:
        return ResultCache().cache_path / "descriptive_stats" / f"{self.name}.json"


def retrieval_tables(judgements: Mapping[str, Mapping[str, int]], documents: Iterable[str]) -> RetrievalSplitData:
    """Lay queries, candidates and relevance out as mteb wants them.

    Args:
        judgements: Query to right answer to grade (at least 1).
        documents: All candidates, right answers included; equal texts become one document.

    Returns:
        mteb's tables. An id is a hash of its text: the same in every run, whatever the order of the rows.
    """
    candidates = {text: _text_id(text) for text in documents}
    queries = {text: _text_id(text) for text in judgements}
    return RetrievalSplitData(
        corpus=Dataset.from_dict({"id": list(candidates.values()), "text": list(candidates)}),
        queries=Dataset.from_dict({"id": list(queries.values()), "text": list(queries)}),
        relevant_docs={
            queries[query]: {candidates[document]: grade for document, grade in grades.items()}
            for query, grades in judgements.items()
        },
        top_ranked=None,
    )


def task_from_pairs(
    pairs: Dataset | DatasetDict,
    name: str,
    *,
    split: str = "test",
    corpus: Dataset | DatasetDict | None = None,
    prompt: str | PromptDict | None = DEFAULT_PROMPT,
    description: str | None = None,
) -> CodeRetrieval:
    """Make an MTEB retrieval task, measured by `mrr_at_1000`, of your own (query, code) pairs.

    Every code is a candidate for every query of its language. Equal queries are one query with several right answers,
    equal codes are one document; texts are compared, and shown to the model, without surrounding whitespace, which
    mteb strips from documents in any case. Make one task and evaluate all models on it.

    mteb's result cache goes by the names of task and model. A fingerprint of the data is therefore appended to `name`,
    so that other pairs never meet old results. Models share a name while unnamed, and with the base model they were
    fine-tuned from: compare those with `cache=None`.

    Args:
        pairs: Columns `query` and `code`; with a column `language`, each language is a subset with candidates and a
            score of its own, else all is one subset `default`. Other columns are ignored.
        name: Letters, digits, `_`, `.` and `-`.
        split: What mteb calls the data, and which split is taken of a `DatasetDict`.
        corpus: Further candidates that answer no query: column `code`, and `language` exactly if `pairs` has it.
        prompt: For models that follow instructions: one text, or one each for `query` and `document`.
            Others, which is most, ignore it.
        description: One sentence for the task's metadata.

    Returns:
        A task for `mteb.evaluate(model, tasks=[task])`; the result's `task_results[0].get_score()` is the mean of
        the subsets' scores and `.get_score(languages=["python"])` one of them.

    Raises:
        ValueError: A column is missing, a text is empty or no string, an argument has a wrong form.

    Example:
        >>> from datasets import Dataset
        >>> pairs = Dataset.from_dict({"query": ["add numbers"], "code": ["def add(a, b): return a + b"]})
        >>> task_from_pairs(pairs, "MyCode").metadata.main_score
        'mrr_at_1000'
    """
    _check_pattern("name", name, NAME_PATTERN, "letters, digits, '_', '.' and '-', at most 100, e.g. 'MyCodeSearch'")
    _check_pattern("split", split, SPLIT_PATTERN, "the name of a split, e.g. 'test'")
    _check_prompt(prompt)

    pairs = _one_split("pairs", pairs, split)
    languages = _languages("pairs", pairs)
    judgements: dict[str, dict[str, dict[str, int]]] = {language: {} for language in languages}
    documents: dict[str, list[str]] = {language: [] for language in languages}
    for language, query, code in zip(
        languages, _texts("pairs", pairs, "query"), _texts("pairs", pairs, "code"), strict=True
    ):
        judgements[language].setdefault(query, {})[code] = 1
        documents[language].append(code)
    if corpus is not None:
        corpus = _one_split("corpus", corpus, split)
        _check_same_languages(pairs, corpus, documents)
        for language, code in zip(_languages("corpus", corpus), _texts("corpus", corpus, "code"), strict=True):
            documents[language].append(code)

    tables = {language: retrieval_tables(judgements[language], documents[language]) for language in judgements}
    revision = _fingerprint(tables, prompt)
    metadata = _InMemoryMetadata(
        # mteb takes a complete cached result without a look at the revision, so the name has to carry it too.
        name=f"{name}-{revision[:8]}",
        dataset={"path": name, "revision": revision},
        description=description or "Find the code that a query asks for among all candidates of its language.",
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=[split],
        eval_langs={language: [_language_code(language)] for language in tables}
        if "language" in pairs.column_names
        else ["und-Zyyy"],
        main_score=MAIN_SCORE,
        prompt=prompt,
        domains=["Programming", "Written"],
        task_subtypes=["Code retrieval"],
        license="not specified",
        dialect=[],
        bibtex_citation="",
        is_public=False,
    )
    return CodeRetrieval(metadata, {language: {split: table} for language, table in tables.items()})


def _text_id(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _fingerprint(tables: Mapping[str, RetrievalSplitData], prompt: str | PromptDict | None) -> str:
    """Hash all that a score depends on; the order of rows is not part of it."""
    content = {subset: [sorted(table["corpus"]["id"]), table["relevant_docs"]] for subset, table in tables.items()}
    return hashlib.sha256(json.dumps([prompt, content], sort_keys=True).encode()).hexdigest()[:40]


def _language_code(language: str) -> str:
    """Return mteb's code of a programming language; ISO 639's "uncoded language" where mteb has none."""
    known = LANGUAGE_ALIASES.get(language, language)
    return f"{known}-Code" if known in PROGRAMMING_LANGS else "mis-Zyyy"


def _check_pattern(argument: str, value: object, pattern: str, allowed: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ValueError(f"{argument}={value!r} is not valid: pass {allowed}.")


def _check_prompt(prompt: object) -> None:
    texts = prompt.values() if isinstance(prompt, dict) and set(prompt) <= set(PROMPT_KEYS) else [prompt]
    if prompt is not None and not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"prompt={prompt!r} is not valid: pass a string, None, or a dict with keys among {PROMPT_KEYS}."
        )


def _one_split(argument: str, data: object, split: str) -> Dataset:
    """Return the one non-empty table that `data` stands for."""
    if isinstance(data, DatasetDict):
        if split not in data:
            raise ValueError(
                f"split={split!r} is not in {argument}, which has {list(data)}: pass one of them as split."
            )
        data = data[split]
    if not isinstance(data, Dataset):
        raise ValueError(
            f"{argument} is a {type(data).__name__}, not a datasets.Dataset: convert it, "
            "e.g. Dataset.from_list(rows), Dataset.from_pandas(frame), Dataset.from_generator(lambda: stream)."
        )
    if len(data) == 0:
        raise ValueError(f"{argument} has 0 rows: pass at least one.")
    return data


def _texts(argument: str, table: Dataset, column: str) -> list[str]:
    """Return a column's texts without surrounding whitespace, all of them non-empty."""
    if column not in table.column_names:
        raise ValueError(
            f"{argument} has no column {column!r}, only {table.column_names}: "
            f"rename one, e.g. {argument}.rename_column({table.column_names[0]!r}, {column!r})."
        )
    texts = table.select_columns([column]).to_dict()[column]
    bad = [row for row, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]
    if bad:
        shown = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise ValueError(
            f"{argument}[{column!r}] must hold a non-empty string in every row, but {len(bad)} of {len(texts)} do not "
            f"(rows {shown}; row {bad[0]} holds {texts[bad[0]]!r}): repair or drop these rows."
        )
    return [text.strip() for text in texts]


def _languages(argument: str, table: Dataset) -> list[str]:
    if "language" not in table.column_names:
        return ["default"] * len(table)
    return [language.lower() for language in _texts(argument, table, "language")]


def _check_same_languages(pairs: Dataset, corpus: Dataset, known: Iterable[str]) -> None:
    owners = [name for name, table in (("pairs", pairs), ("corpus", corpus)) if "language" in table.column_names]
    if len(owners) == 1:
        raise ValueError(
            f"only {owners[0]} has a column 'language': add it to both pairs and corpus, or remove it, "
            f"{owners[0]}.remove_columns('language')."
        )
    unknown = sorted(set(_languages("corpus", corpus)) - set(known))
    if unknown:
        raise ValueError(
            f"corpus has candidates in {unknown}, but pairs has queries only in {sorted(known)}: "
            "drop those rows of corpus, or correct the spelling."
        )
