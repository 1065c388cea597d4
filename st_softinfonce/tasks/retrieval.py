"""A retrieval task made of anyone's own (query, code) pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar

from datasets import Dataset, DatasetDict
from mteb import TaskMetadata
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from typing_extensions import Self

from st_softinfonce._retrieval import mean_reciprocal_ranks, row_reciprocal_ranks, text_id
from st_softinfonce.tasks.tables import DEFAULT_PROMPT, Draft, content_of, duplicates_of, make_metadata, read_rows

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import PromptDict
    from mteb.timing import TimingStack


class CodeRetrieval(AbsTaskRetrieval):
    """Search every candidate of a language for the code that each query asks for, from tables in memory.

    The main score is `mrr_at_1000`: the mean over queries of 1 / (rank of the best-ranked right answer), 0 where that
    rank is past 1000. The rank is taken among all candidates of the subset, so it is the MRR of the Soft-InfoNCE paper
    (Li et al., EMNLP 2023). Documents of exactly equal scores rank by id, descending, as everywhere in mteb; ids are
    hashes of the texts, so a tie favours no document.

    Two more scores are means over rows, the distinct (query, code) pairs, also 0 past rank 1000. In
    `mrr_at_1000_strict` only the row's own code is right; in `mrr_at_1000_duplicates` so is the code of any row with
    the same query, and any equal code. The first never exceeds the second; without shared queries all three are equal.

    A cross-encoder cannot search: it re-ranks the `top_k` best that another model found. Evaluate that model with
    `prediction_folder=...`, then the cross-encoder on `deepcopy(task).convert_to_reranking(prediction_folder, top_k)`:
    the conversion cannot be undone.

    Args:
        metadata: What mteb should know about the task.
        tables: Subset, then split, to mteb's tables.
        seed: mteb seeds `random`, NumPy and torch globally with it, here and in every evaluation.
    """

    main_score: ClassVar[str] = "mrr_at_1000"
    own_grade: ClassVar[int] = 1  # of a row's own code
    duplicate_grade: ClassVar[int] = 1  # the least that counts as right where duplicates do

    def __init__(
        self, metadata: TaskMetadata, tables: Mapping[str, Mapping[str, RetrievalSplitData]], *, seed: int = 42
    ) -> None:
        self.metadata = self._own_metadata = metadata
        self._tables = tables
        super().__init__(seed=seed)

    @classmethod
    def of_drafts(cls, name: str, drafts: Mapping[str, Draft], split: str, **described: Any) -> Self:
        """Make a task of one split from a draft of each language; `described` is for its metadata."""
        tables = {language: draft.table() for language, draft in drafts.items()}
        content = {language: content_of(table) for language, table in tables.items()}
        metadata = make_metadata(
            name, content, subsets=list(tables), split=split, main_score=cls.main_score, **described
        )
        return cls(metadata, {language: {split: table} for language, table in tables.items()})

    def table(self, subset: str, split: str) -> RetrievalSplitData:
        """Return the tables of a subset and split as they were made: corpus, queries and relevance."""
        return self._tables[subset][split]

    def load_data(self, num_proc: int | None = None, *, timer: TimingStack | None = None, **kwargs: Any) -> None:
        """Hand the tables of the chosen subsets and splits to mteb; its options for downloads have no effect."""
        if self.data_loaded:
            return
        # mteb writes into these dictionaries (filtered queries, candidates to re-rank): copies keep the tables intact.
        self.dataset = {
            subset: {split: copy(self.table(subset, split)) for split in self.eval_splits}
            for subset in self.hf_subsets
        }
        self.data_loaded = True

    def unload_data(self) -> None:
        """Forget the loaded data, as mteb does after an evaluation; the next `load_data` brings it back."""
        # Not super's: it deletes the instance's metadata to uncover the class's, and this class has none.
        self.dataset = {}
        self.data_loaded = False
        self.metadata = self._own_metadata

    def task_specific_scores(
        self,
        scores: dict[str, dict[str, float]],
        qrels: Mapping[str, Mapping[str, int]],
        results: dict[str, dict[str, float]],
        hf_split: str,
        hf_subset: str,
    ) -> dict[str, float]:
        """Return `mrr_at_1000_strict` and `mrr_at_1000_duplicates` of a subset, which mteb adds to its own scores."""
        return mean_reciprocal_ranks(self.rank_rows(self.dataset[hf_subset][hf_split], qrels, results))

    def rank_rows(
        self,
        table: RetrievalSplitData,
        qrels: Mapping[str, Mapping[str, int]],
        results: Mapping[str, Mapping[str, float]],
    ) -> dict[str, tuple[float, float]]:
        """Return each row's strict and duplicates-aware reciprocal rank, by row id, as `reciprocal_ranks` does.

        `qrels` has each query's grades by document, `results` the scores that were found.
        """
        own = {}
        right = {}
        further = duplicates_of(table)
        for query, grades in qrels.items():
            own[query] = [document for document, grade in grades.items() if grade == self.own_grade]
            judged = {document for document, grade in grades.items() if grade >= self.duplicate_grade}
            right[query] = judged.union(further.get(query, ()))
        return row_reciprocal_ranks(results, own, right)


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
    equal codes are one document. Surrounding whitespace is removed from all texts.

    mteb's result cache goes by the names of task and model. A fingerprint of the data is therefore appended to `name`:
    other pairs are another task. A model and the one that it was fine-tuned from share a name: compare them with
    `cache=None`.

    Args:
        pairs: Columns `query` and `code`; with a column `language`, each language is a subset with candidates and a
            score of its own, else all is one subset `default`. Other columns are ignored.
        name: Letters, digits, `_`, `.` and `-`.
        split: What mteb calls the data, and which split is taken of a `DatasetDict`.
        corpus: Further candidates that answer no query: column `code`, and `language` exactly if `pairs` has it.
            With a column `query`, those of the same query count as right in `mrr_at_1000_duplicates`, and there alone.
        prompt: For models that follow instructions, which most do not: one text, or one each for `query` and
            `document`.
        description: One sentence for the task's metadata.

    Returns:
        A task for `mteb.evaluate(model, tasks=[task])`. The result's `task_results[0].get_score()` is the mean of
        the subsets' scores, `.get_score(languages=["python"])` is one of them.

    Raises:
        ValueError: A column is missing, a text is empty or no string, an argument has a wrong form.

    Example:
        >>> from datasets import Dataset
        >>> pairs = Dataset.from_dict({"query": ["add numbers"], "code": ["def add(a, b): return a + b"]})
        >>> task_from_pairs(pairs, "MyCode").metadata.main_score
        'mrr_at_1000'
    """
    rows, further = read_rows(pairs, corpus, split)
    drafts: defaultdict[str, Draft] = defaultdict(Draft)
    for row in rows:
        draft, query, document = drafts[row.language], text_id(row.query), text_id(row.code)
        draft.queries[query], draft.documents[document] = row.query, row.code
        draft.relevant[query][document] = 1
    for row in further:
        draft, query, document = drafts[row.language], text_id(row.query), text_id(row.code)
        draft.documents[document] = row.code
        if query in draft.queries and document not in draft.relevant[query]:
            draft.duplicates[query].add(document)
    description = description or "Find the code that a query asks for among all candidates of its language."
    return CodeRetrieval.of_drafts(name, drafts, split, prompt=prompt, description=description)
