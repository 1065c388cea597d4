"""The estimator contract: what a plugin implements, and how it is asked.

An estimator says how relevant each candidate of a batch is to each query. It is a plain object, never an
``nn.Module`` of the loss: the trainer replaces, moves and optimises modules, and an estimator is frozen.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from st_softinfonce.estimators.text_column import TextColumn
from st_softinfonce.treatments import Treatment

Compares = Literal["queries", "documents", "positives", "scores"]
COMPARES: tuple[Compares, ...] = get_args(Compares)
COMPARES_TEXTS = COMPARES[:3]

# One row a text. A tuple is for rows of several parts; parts may be tuples again.
Representation = Tensor | tuple[Any, ...]
Padding = float | tuple[Any, ...] | None


class SimilarityEstimator(ABC):
    """How relevant each candidate of a batch is to each query.

    :meth:`represent` and :meth:`similarity` are apart so that a representation can be kept by its text, gathered
    across devices, and scored a few rows at a time, without the author of an estimator doing anything for it.

    Attributes:
        name: What model cards call it; by default the name of the class.
        treatment: The default treatment of candidates, which suits the scale of its similarities.
        compares: What candidate ``j`` is judged by. ``"queries"``: its own query against the query. A mined negative
            whose query is not known cannot be judged and is left alone. ``"documents"``: its own text against the
            query. ``"positives"``: its own text against the query's positive document, which then takes the query's
            place in :meth:`similarity`. ``"scores"``: the embeddings of the model in training, detached; then
            :meth:`represent` is not called.
        padding: What fills up representations of different widths, for those that are as wide as the longest text
            of a batch: ``(n, width)``. ``None`` when every batch has the same width. A tuple of it for a tuple of
            representations.
        often_equal: Whether batches in which all similarities are equal are usual, as for duplicates, which most
            batches have none of. Otherwise an estimator that finds no difference in the first batches is named in a
            warning.

    Example:
        >>> from st_softinfonce.treatments import Soften
        >>> class SameLength(SimilarityEstimator):
        ...     treatment, compares = Soften(alpha=1.3, beta=0.7, temperature=2.0), "queries"
        ...     def represent(self, column):
        ...         return column.content_mask.sum(dim=1, keepdim=True).float()
        ...     def similarity(self, queries, candidates):
        ...         return -torch.cdist(queries, candidates)
    """

    name: ClassVar[str]
    treatment: Treatment
    compares: Compares
    padding: Padding = None
    often_equal: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Name the estimator after its class unless it names itself."""
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    @abstractmethod
    def represent(self, column: TextColumn) -> Representation:
        """Turn each of ``n`` texts (the queries, or a column of documents unless queries are compared) into numbers.

        Returns:
            ``(n, ...)`` on the column's device, without gradient; or a tuple of such tensors.
        """

    @abstractmethod
    def similarity(self, queries: Any, candidates: Any) -> Tensor:
        """Compare every query with every candidate.

        Args:
            queries: ``(n, ...)`` representations of some of the queries, or of their positives when comparing those.
            candidates: ``(m, ...)`` representations: all the candidates of the batch or, for the direction from
                document to query, some of them. What depends on all of them belongs into :meth:`for_batch`.

        Returns:
            ``(n, m)`` floating point, higher is more relevant; -inf is "never relevant".
        """

    def attach(self, model: nn.Module) -> None:  # noqa: B027 - most estimators have nothing to say to it
        """Learn which model will be trained, before anything is; called once by the loss.

        An estimator refuses the ``model`` by raising a ValueError.
        """

    def for_batch(self, candidates: Any, known: Tensor | None = None) -> SimilarityEstimator:
        """Return the estimator to use for a batch with these candidates; by default itself.

        Called once a step, before :meth:`similarity` is asked for groups of rows: an estimator with statistics over
        the batch takes them here. What is returned must give for any part of the rows or candidates what it would give
        for the whole.

        Args:
            candidates: ``(m, ...)`` representations of all the candidates of the batch.
            known: ``(m,)`` bool: which of them have a text to be judged by; ``None``: all. The others must not count
                in any statistics, and their similarities are not read.
        """
        return self

    def get_config_dict(self) -> dict[str, Any]:
        """Return the options worth reading in a model card; by default the public attributes of JSON's primitives."""
        return {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_") and name != "name" and isinstance(value, (str, int, float, type(None)))
        }


def check_estimator(estimator: object, source: str) -> SimilarityEstimator:
    """Refuse what is no SimilarityEstimator (TypeError) or lacks an attribute (ValueError), made by ``source``."""
    if not isinstance(estimator, SimilarityEstimator):
        raise TypeError(
            f"{source} must be the name of an estimator or a SimilarityEstimator, got {type(estimator).__name__}. "
            "Subclass st_softinfonce.SimilarityEstimator."
        )
    if isinstance(estimator, nn.Module):
        raise TypeError(
            f"{source} is an nn.Module, which the trainer would move, replace and optimise. Keep the module in an "
            "attribute of a plain SimilarityEstimator."
        )
    if not isinstance(getattr(estimator, "treatment", None), Treatment):
        raise ValueError(
            f"{source} must have a 'treatment' such as Soften(alpha=1.3, beta=0.7, temperature=...), got "
            f"{getattr(estimator, 'treatment', None)!r}. It is what the loss does by default."
        )
    compares = getattr(estimator, "compares", None)
    if compares not in COMPARES:
        raise ValueError(f"{source} must have 'compares' set to one of {COMPARES}, got {compares!r}.")
    return estimator


def checked_representation(estimator: SimilarityEstimator, column: TextColumn) -> Representation:
    """Ask for a representation ``(n, ...)`` of ``n`` texts, or a tuple of such; raise a ValueError for another."""
    with torch.no_grad():
        representation = estimator.represent(column)
    _check_rows(representation, column, f"{estimator.name}.represent()")
    return representation


def checked_similarity(estimator: SimilarityEstimator, queries: Representation, candidates: Representation) -> Tensor:
    """Ask for the similarities ``(n, m)``; raise a ValueError for anything else than such a frozen tensor."""
    with torch.no_grad():
        similarity = estimator.similarity(queries, candidates)
    shape = (count_rows(queries), count_rows(candidates))
    source = f"{estimator.name}.similarity()"
    asked = f"{source} must return a floating-point tensor of shape {shape} (queries, candidates)"
    return check_tensor(similarity, asked, source, shape)


def bound_to_batch(
    estimator: SimilarityEstimator, candidates: Representation, known: Tensor | None = None
) -> SimilarityEstimator:
    """Ask for the estimator of a batch, as :meth:`~SimilarityEstimator.for_batch`; refuse another by a TypeError."""
    with torch.no_grad():
        bound = estimator.for_batch(candidates) if known is None else estimator.for_batch(candidates, known)
    if not isinstance(bound, SimilarityEstimator):
        raise TypeError(
            f"{estimator.name}.for_batch() must return an estimator, got {type(bound).__name__}. Return self where "
            "nothing depends on the batch."
        )
    return bound


def check_tensor(value: object, asked: str, source: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """Refuse what is no dense tensor without gradient, of floating point and the ``shape`` if one is given.

    The ValueError begins with what was ``asked`` of the method that is its ``source``.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{asked}, got {type(value).__name__}.")
    if shape is not None and (tuple(value.shape) != shape or not value.is_floating_point()):
        raise ValueError(f"{asked}, got {value.dtype} of shape {tuple(value.shape)}.")
    if value.layout != torch.strided:
        raise ValueError(f"{asked}, got a sparse one. Call .to_dense() on it.")
    if value.requires_grad:
        raise ValueError(
            f"{source} returned a tensor that requires a gradient: an estimator is frozen, and nothing may flow back "
            "into it. Return tensor.detach(), or call requires_grad_(False) on the model behind it."
        )
    return value


def map_rows(function: Callable[[Tensor], Tensor], representation: Representation) -> Representation:
    """Apply a function to each tensor of a representation."""
    if isinstance(representation, Tensor):
        return function(representation)
    return tuple(map_rows(function, part) for part in representation)


def count_rows(representation: Representation) -> int:
    """Count the texts of a representation."""
    return representation.size(0) if isinstance(representation, Tensor) else count_rows(representation[0])


def join_rows(parts: Sequence[Representation], padding: Padding) -> Representation:
    """Put representations of several columns ``(n_k, ...)`` below each other, narrower ones filled with ``padding``.

    Raises:
        ValueError: The parts differ in width and ``padding`` is ``None``.
    """
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], tuple):
        paddings = padding if isinstance(padding, tuple) else (padding,) * len(parts[0])
        return tuple(join_rows(same, fill) for same, fill in zip(zip(*parts, strict=True), paddings, strict=True))
    tensors: list[Tensor] = list(parts)  # type: ignore[arg-type]
    if len({part.shape[1:] for part in tensors}) > 1:
        if padding is None or isinstance(padding, tuple) or any(part.dim() != 2 for part in tensors):
            raise ValueError(
                f"representations have the shapes {[tuple(part.shape) for part in tensors]}: rows of one batch must "
                "be equally wide. Set the estimator's 'padding' if its rows are (n, longest text)."
            )
        width = max(part.size(1) for part in tensors)
        tensors = [F.pad(part, (0, width - part.size(1)), value=padding) for part in tensors]
    return torch.cat(tensors)


@contextmanager
def leaving_no_trace(estimator: SimilarityEstimator, model: nn.Module) -> Iterator[None]:
    """Ask an estimator without letting it change training.

    Random numbers that it draws, a seed that it sets, and gradients that it turns off do not show afterwards. To leave
    the model in training in another mode (train, eval) is a RuntimeError.
    """
    modes = [module.training for module in model.modules()]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    devices = [device] if device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state that others rely on
    try:
        with torch.random.fork_rng(devices), torch.set_grad_enabled(torch.is_grad_enabled()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
    if modes != [module.training for module in model.modules()]:
        raise RuntimeError(
            f"the estimator {estimator.name!r} left the model in training in another mode (train or eval) than it "
            "found it in. Keep away from that model, or restore its mode."
        )


def _check_rows(representation: object, column: TextColumn, source: str) -> None:
    if isinstance(representation, tuple) and representation:
        for part in representation:
            _check_rows(part, column, source)
        return
    asked = f"{source} must return a tensor with one row for each of {len(column)} texts, or a tuple of such"
    rows = check_tensor(representation, asked, source)
    if rows.dim() == 0 or rows.size(0) != len(column):
        raise ValueError(f"{asked}, got the shape {tuple(rows.shape)}.")
    if rows.device != column.device:
        raise ValueError(f"{asked} on {column.device}, got one on {rows.device}. Use column.device.")
