"""Graded relevance for free, and the task that measures with it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from datasets import Dataset, DatasetDict

from st_softinfonce._retrieval import text_id
from st_softinfonce.tasks.retrieval import CodeRetrieval
from st_softinfonce.tasks.tables import DEFAULT_PROMPT, Draft, Row, read_rows

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import PromptDict

OWN, SAME_DOC, RELATED = 3, 2, 1
MAX_GROUP = 20

_QUALIFIER = re.compile(r"[.#:/\\]+")
_WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z][a-z\d]*|[^\W\d_A-Za-z]\w*")


class GradedCodeRetrieval(CodeRetrieval):
    """Search every candidate of a language, and measure whether related code ranks above unrelated code.

    Relevance has the grades of `grade_pairs`; the main score is `ndcg_at_10`, where a grade is the gain and the
    discount is log2(rank + 1). Every distinct (query, code) pair is a query of its own, even where queries have equal
    texts: if they were merged, all their codes would have grade 3 and none grade 2.

    `mrr_at_1000_strict` and `mrr_at_1000_duplicates` are those of `CodeRetrieval`; `mrr_at_1000`, as mteb computes it,
    counts every grade as right.
    """

    main_score: ClassVar[str] = "ndcg_at_10"
    own_grade: ClassVar[int] = OWN
    duplicate_grade: ClassVar[int] = SAME_DOC


def grade_pairs(pairs: Dataset) -> list[dict[int, int]]:
    """Grade how relevant each row's code is to each row's query, from what documentation and names say.

    - 3: the row itself, and rows of equal code.
    - 2: same query, other code.
    - 1: same name (the part after the last `.`, `::` or `#`) in the same file or package, overriding methods included;
      or the same name of several words (`parse_header`, `parseHeader`) anywhere. A name that more than 20 rows of the
      same file, package or language have gives no grade there (`forward` in a package of layers).
    - 0, not listed: all other rows, also those that share a name of one word in different packages.

    Args:
        pairs: Columns `query` and `code`. Grade 1 needs `name` with `path`, `package` or both; with `language`, rows
            of different languages are unrelated. An empty name, path or package counts as none.

    Returns:
        For each row, row to grade, of all rows of grade 1 to 3.

    Raises:
        ValueError: A column is missing or holds empty texts.

    Example:
        >>> pairs = Dataset.from_dict({"query": ["sort it", "sort it", "add"], "code": ["a", "b", "c"]})
        >>> grade_pairs(pairs)
        [{0: 3, 1: 2}, {1: 3, 0: 2}, {2: 3}]
    """
    if isinstance(pairs, DatasetDict):
        raise ValueError(
            f"pairs has the splits {list(pairs)}: pass one of them, e.g. pairs[{next(iter(pairs), '')!r}]."
        )
    return _grade(read_rows(pairs, None, "")[0])


def graded_task_from_pairs(
    pairs: Dataset | DatasetDict,
    name: str,
    *,
    split: str = "test",
    corpus: Dataset | DatasetDict | None = None,
    prompt: str | PromptDict | None = DEFAULT_PROMPT,
    description: str | None = None,
) -> GradedCodeRetrieval:
    """Make an MTEB retrieval task with graded relevance, measured by `ndcg_at_10`, of your own pairs.

    Arguments are those of `task_from_pairs`, with the columns of `grade_pairs`, such as `mine_pairs`
    returns; candidates of the `corpus` that have them are graded like the others. Equal codes are one document, with
    the highest grade of its rows.

    Raises:
        ValueError: A column is missing, a text is empty or no string, an argument has a wrong form.
    """
    rows, further = read_rows(pairs, corpus, split)
    everything = rows + further
    documents = [text_id(row.code) for row in everything]
    drafts: defaultdict[str, Draft] = defaultdict(Draft)
    for row, document in zip(everything, documents, strict=True):
        drafts[row.language].documents[document] = row.code
    for row, grades in zip(rows, _grade(everything), strict=False):
        query = text_id(row.query, row.code)
        drafts[row.language].queries[query] = row.query
        known = drafts[row.language].relevant[query]
        for other, grade in grades.items():
            known[documents[other]] = max(grade, known.get(documents[other], 0))
    description = description or "Rank the code that a query asks for first, related code next, all else below."
    return GradedCodeRetrieval.of_drafts(name, drafts, split, prompt=prompt, description=description)


def _grade(rows: Sequence[Row]) -> list[dict[int, int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        for grade, key in _keys(row):
            groups[grade, key].append(index)
    grades: list[dict[int, int]] = [{index: OWN} for index in range(len(rows))]
    for index, row in enumerate(rows):
        # Grades fall, so the first one set is the highest.
        for grade, key in _keys(row):
            members = groups[grade, key]
            if grade == RELATED and len(members) > MAX_GROUP:
                continue
            for other in members:
                grades[index].setdefault(other, grade)
    return grades


def _keys(row: Row) -> Iterator[tuple[int, tuple[str, ...]]]:
    """What rows have to share to be related, and the grade it gives, highest first."""
    yield OWN, (row.language, row.code)
    if row.query:
        yield SAME_DOC, (row.language, row.query)
    name = _QUALIFIER.split(row.name)[-1]
    if not name:
        return
    if row.path:
        yield RELATED, ("file", row.language, row.package, row.path, name)
    if row.package:
        yield RELATED, ("package", row.language, row.package, name)
    if len(_WORD.findall(name)) > 1:
        yield RELATED, ("name", row.language, name)
