"""CodeSearchNet, measured as the Soft-InfoNCE paper measures it."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import DatasetDict
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

from st_softinfonce._retrieval import text_id
from st_softinfonce.data.code_search_net import (
    CODE_SEARCH_NET_LANGUAGES,
    load_code_search_net,
    source_fingerprint,
)
from st_softinfonce.tasks.retrieval import CodeRetrieval
from st_softinfonce.tasks.tables import DEFAULT_PROMPT, Draft, make_metadata

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import PromptDict

HUB_ID = "code-search-net/code_search_net"
_SPLIT = "test"
_SPLITS = ("test", "codebase")


class CodeSearchNetMRR(CodeRetrieval):
    """Search every candidate of a language for the one true code of a query, as the Soft-InfoNCE paper does.

    The main score is `mrr_at_1000` (Li et al., EMNLP 2023, Section 4.1): the mean over test rows of 1 / (rank of the
    row's own code), 0 past rank 1000. Rows are told apart by their url: equal queries are separate queries, equal
    codes separate candidates, and only a row's own code is right. `mrr_at_1000_strict` is the same number; in
    `mrr_at_1000_duplicates` every candidate of the same documentation or code is right too.

    The data are read when needed, and dropped after an evaluation. The task's name ends in a fingerprint of them:
    local files are read once for it when the task is made, a dataset on the Hub is known by its commit.

    Args:
        directory_or_hub_id: What `load_code_search_net` reads: a folder with the files, or a dataset's id.
        languages: The subsets; each has candidates and a score of its own.
        revision: The commit, branch or tag of a dataset on the Hub.
        prompt: As for `task_from_pairs`.

    Raises:
        FileNotFoundError: A folder lacks files of a language: name the languages that are there.
        ValueError: A language is not in CodeSearchNet, or the prompt has a wrong form.
    """

    def __init__(
        self,
        directory_or_hub_id: str | os.PathLike[str] = HUB_ID,
        *,
        languages: Sequence[str] = CODE_SEARCH_NET_LANGUAGES,
        revision: str | None = None,
        prompt: str | PromptDict | None = DEFAULT_PROMPT,
    ) -> None:
        if isinstance(languages, str) or not languages:
            raise ValueError(
                f"languages={languages!r} is not valid: pass some of {CODE_SEARCH_NET_LANGUAGES}, in a list."
            )
        chosen = sorted(set(languages), key=list(languages).index)
        self._source = directory_or_hub_id
        self._revision = revision
        content = {
            language: source_fingerprint(directory_or_hub_id, language, _SPLITS, revision) for language in chosen
        }
        is_folder = Path(directory_or_hub_id).is_dir()
        metadata = make_metadata(
            "CodeSearchNetMRR",
            content,
            subsets=chosen,
            split=_SPLIT,
            main_score=self.main_score,
            prompt=prompt,
            description="Find the function of a documentation among all candidates of its language in CodeSearchNet.",
            path="CodeSearchNet" if is_folder else os.fspath(directory_or_hub_id),
            reference="https://arxiv.org/abs/1909.09436",
            is_public=not is_folder,
        )
        super().__init__(metadata, {})
        self._read: dict[str, RetrievalSplitData] = {}

    def table(self, subset: str, split: str) -> RetrievalSplitData:
        """Return the tables of one language, read on first use; the split is `test`."""
        if split != _SPLIT:
            raise ValueError(f"split={split!r} is not in CodeSearchNetMRR: pass {_SPLIT!r}.")
        if subset not in self._read:
            data = load_code_search_net(self._source, subset, splits=_SPLITS, revision=self._revision)
            self._read[subset] = _strict_table(data, subset)
        return self._read[subset]

    def unload_data(self) -> None:
        """Drop the data, as mteb does after an evaluation; they are read again when needed."""
        super().unload_data()
        self._read = {}


def _strict_table(data: DatasetDict, language: str) -> RetrievalSplitData:
    draft = Draft()
    by_url: dict[str, str] = {}
    same_code: dict[str, set[str]] = defaultdict(set)
    same_query: dict[str, set[str]] = defaultdict(set)

    def add(row: dict[str, str]) -> None:
        document = text_id("code", row["url"], row["code"])
        draft.documents[document] = row["code"]
        by_url.setdefault(_key(row), document)
        same_code[row["code"]].add(document)
        if row["query"]:
            same_query[row["query"]].add(document)

    for row in data["codebase"]:
        add(row)
    missing = 0
    for row in data["test"]:
        query = text_id("query", _key(row), row["query"])
        draft.queries[query] = row["query"]
        if _key(row) not in by_url:
            missing += 1
            add(row)
        draft.relevant[query] = {by_url[_key(row)]: 1}
        same_query[row["query"]].add(by_url[_key(row)])
    if missing:
        warnings.warn(
            f"{missing} of {len(data['test'])} test rows of CodeSearchNet {language} are not in its codebase by url, "
            "and were added to the candidates.",
            UserWarning,
            stacklevel=2,
        )
    for query, text in draft.queries.items():
        (own,) = draft.relevant[query]
        draft.duplicates[query] = (same_query[text] | same_code[draft.documents[own]]) - {own}
    return draft.table()


def _key(row: dict[str, str]) -> str:
    return row["url"] or row["code"]
