"""MTEB tasks for code search: CodeSearchNet as the paper measures it, and tasks made of anyone's own pairs.

A task is an object to hand to `mteb.evaluate`; nothing is registered with mteb and nothing is downloaded for one's own
pairs. Needs the extra `eval`: `pip install "st-softinfonce[eval]"`.
"""

try:
    import mteb  # noqa: F401 - asked for here, where the remedy can be named
except ImportError as error:
    raise ImportError(
        f'st_softinfonce.tasks needs mteb, which could not be imported ({error}): pip install "st-softinfonce[eval]".'
    ) from error

from st_softinfonce.tasks.code_search_net import CodeSearchNetMRR
from st_softinfonce.tasks.graded import GradedCodeRetrieval, grade_pairs, graded_task_from_pairs
from st_softinfonce.tasks.ranks import (
    bm25_rows,
    evaluate_and_keep,
    evaluate_rows,
    mean_interval,
    ndcg_at_10,
    reciprocal_ranks,
)
from st_softinfonce.tasks.retrieval import CodeRetrieval, task_from_pairs

__all__ = [
    "CodeRetrieval",
    "CodeSearchNetMRR",
    "GradedCodeRetrieval",
    "bm25_rows",
    "evaluate_and_keep",
    "evaluate_rows",
    "grade_pairs",
    "graded_task_from_pairs",
    "mean_interval",
    "ndcg_at_10",
    "reciprocal_ranks",
    "task_from_pairs",
]
