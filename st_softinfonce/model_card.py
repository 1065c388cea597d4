"""What a model card should say beyond what sentence-transformers writes by itself: MTEB results before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sentence_transformers.base.evaluation import BaseEvaluator
from typing_extensions import override

from st_softinfonce import _host

if TYPE_CHECKING:
    from mteb.results import ModelResult
    from sentence_transformers.base.model import BaseModel

METRICS = ("mrr_at_1000", "ndcg_at_10", "recall_at_10")
BEFORE = "_before_fine_tuning"


def add_mteb_results(
    model: BaseModel, after: ModelResult, before: ModelResult | None = None, *, metrics: Sequence[str] = METRICS
) -> None:
    """Put what `mteb.evaluate` measured into a model's card: a table, and `model-index` metadata.

    `model.save_pretrained` and `model.push_to_hub` write it; nothing is written here. What was measured before
    fine-tuning has metrics of its own, such as `mrr_at_1000_before_fine_tuning`. Results of the same task, split and
    subset replace those added earlier.

    Args:
        model: The evaluated model: fresh from training, or loaded from a folder or hub with its card.
        after: The model's results: any number of tasks, splits and subsets.
        before: The results of the model that it was fine-tuned from, of the same data.
        metrics: What to show of each task's scores; the main score of a task that has none of them.

    Raises:
        ValueError: ``before`` lacks a task, split or subset of ``after``, or has it of another revision.
    """
    entries = dict(_entries("after", after))
    earlier = {} if before is None else dict(_entries("before", before))
    missing = [entry.name for entry in entries if before is not None and entry not in earlier]
    if missing:
        raise ValueError(
            f"before has no results for {missing}: evaluate both models on the same tasks, splits and subsets, or "
            "leave before out."
        )
    revisions = {entry.name: entry.revision for entry in earlier}
    changed = [entry.name for entry in entries if revisions.get(entry.name, entry.revision) != entry.revision]
    if changed:
        raise ValueError(
            f"before has another revision of {changed} than after: evaluate both models on the same data."
        )
    card: Any = model.model_card_data
    for entry, scores in entries.items():
        shown = [name for name in metrics if name in scores] or ["main_score"]
        values = {name: scores[name] for name in shown}
        if before is not None:
            values |= {name + BEFORE: earlier[entry][name] for name in shown if name in earlier[entry]}
        # The dictionary would keep the equal key that it has, and with it another revision.
        card.eval_results_dict.pop(entry, None)
        card.set_evaluation_metrics(entry, values)
    _host.add_evaluation_to_stored_card(model)


def hide_training_texts(model: BaseModel) -> None:
    """Take the training texts off the card of a model fresh from training: samples, widget and usage example.

    The counts of texts and their lengths stay. A model that was loaded keeps the card that it has.
    """
    card: Any = model.model_card_data
    card.widget, card.usage_examples, card.usage_examples_display = [], None, None
    for dataset in (*card.train_datasets, *card.eval_datasets):
        for name in ("examples", "examples_table"):
            dataset.pop(name, None)


@dataclass(frozen=True)
class MTEBTask(BaseEvaluator):
    """One task, split and subset of an MTEB result, as the host's model card takes results.

    mteb's own ``TaskResult.get_hf_eval_results`` knows only tasks that mteb ships (a task of one's own pairs is a
    KeyError), only their main score, and no score from before fine-tuning.
    """

    task: str
    split: str
    subset: str
    task_type: str = field(compare=False)
    revision: str = field(compare=False)
    mteb_version: str | None = field(compare=False)

    @property
    def name(self) -> str:
        """The task, with the subset and split unless they are the usual ones."""
        details = [self.subset] * (self.subset != "default") + [self.split] * (self.split != "test")
        return f"{self.task} ({', '.join(details)})" if details else self.task

    @property
    def description(self) -> str:
        """The heading of its table."""
        return self.task_type

    @override
    def get_config_dict(self) -> dict[str, Any]:
        return {"task": self.task, "split": self.split, "revision": self.revision, "mteb": self.mteb_version}


def _entries(name: str, result: ModelResult) -> Iterator[tuple[MTEBTask, Mapping[str, Any]]]:
    found = False
    for task in result.task_results:
        for split, subsets in task.scores.items():
            for scores in subsets:
                found = True
                try:
                    task_type = str(task.task_type)
                except KeyError:  # a task that mteb does not ship, such as one made of anyone's own pairs
                    task_type = "Retrieval" if "ndcg_at_10" in scores else "MTEB"
                entry = MTEBTask(
                    task=task.task_name,
                    split=split,
                    subset=scores["hf_subset"],
                    task_type=task_type,
                    revision=task.dataset_revision,
                    mteb_version=task.mteb_version,
                )
                yield entry, scores
    if not found:
        raise ValueError(
            f"{name} holds no scores: pass what mteb.evaluate(model, tasks=[...]) returns, without errors."
        )
