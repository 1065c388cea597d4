"""Several estimators as one."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from operator import mul
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from st_softinfonce._checks import check_positive
from st_softinfonce.estimators.base import (
    Representation,
    SimilarityEstimator,
    bound_to_batch,
    checked_representation,
    checked_similarity,
)
from st_softinfonce.estimators.registry import describe_estimator, get_estimator
from st_softinfonce.estimators.text_column import TextColumn
from st_softinfonce.treatments import Soften


class MixtureEstimator(SimilarityEstimator):
    """A weighted combination of estimators, each on the scale that its own temperature gives it.

    With the parts' similarities ``s_k``, temperatures ``t_k`` and shares ``a_k``, which sum to 1::

        similarity = sum_k a_k * s_k / t_k

    so that the softmax of Eq. 4 (Li et al. 2023), at the mixture's temperature 1, is the parts' own softmaxes
    multiplied with the exponents ``a_k`` (a logarithmic opinion pool): scores of any scale count by what they do to
    the weights, and a mixture of an estimator with itself is that estimator. The treatment is ``Soften`` with the
    parts' mean ``alpha`` and ``beta``. A candidate that one part rules out (-inf) is ruled out. Estimators that
    compare different things are not mixed but listed: ``SoftInfoNCELoss(model, treatments=[...])``.

    Args:
        estimators: At least one: names, or instances with their own options. All must compare the same texts.
        weights: Above 0, one each; only their ratios count. By default all are equal.
        temperatures: Above 0, one each, in units of the part's similarity. By default those of the parts' own
            treatments, if all are ``Soften``.

    Raises:
        ValueError: An option is out of range, an estimator is unknown, or the estimators compare different things.

    Example:
        >>> mixture = MixtureEstimator(["bm25", get_estimator("bm25", tokenizer="words")], weights=[3, 1])
        >>> mixture.treatment, mixture.compares
        (Soften(alpha=1.5, beta=0.5, temperature=1.0, min_weight=0.1), 'queries')
    """

    name = "mixture"

    def __init__(
        self,
        estimators: Sequence[str | SimilarityEstimator],
        *,
        weights: Sequence[float] | None = None,
        temperatures: Sequence[float] | None = None,
    ) -> None:
        if isinstance(estimators, str) or not isinstance(estimators, Sequence) or not estimators:
            raise ValueError(f"estimators must be a list of at least one estimator or name, got {estimators!r}.")
        self.parts = [get_estimator(estimator) for estimator in estimators]
        compared = {part.compares for part in self.parts}
        if len(compared) > 1 or "scores" in compared:
            raise ValueError(
                "estimators must all compare the same texts, got "
                f"{', '.join(f'{part.name} ({part.compares})' for part in self.parts)}. Make the parts with one value "
                "of their option 'compares', or give the loss treatments=[(estimator, treatment), ...]."
            )
        own = [part.treatment for part in self.parts]
        if temperatures is None:
            if others := [part.name for part in self.parts if not isinstance(part.treatment, Soften)]:
                raise ValueError(
                    f"temperatures must be given, one for each of {len(self.parts)} estimators: {', '.join(others)} "
                    "has no temperature of its own (its treatment is not Soften)."
                )
            temperatures = [treatment.temperature for treatment in own if isinstance(treatment, Soften)]
        self.temperatures = self._one_each("temperatures", temperatures)
        weights = self._one_each("weights", [1.0] * len(self.parts) if weights is None else weights)
        self.shares = [weight / math.fsum(weights) for weight in weights]
        self.compares = self.parts[0].compares
        self.padding = tuple(part.padding for part in self.parts)
        # Of parts that are not softened, the settings that the paper found best (its Figure 3).
        settings = [(one.alpha, one.beta) if isinstance(one, Soften) else (1.3, 0.7) for one in own]
        alpha, beta = (math.fsum(map(mul, self.shares, values)) for values in zip(*settings, strict=True))
        self.treatment = Soften(alpha=alpha, beta=beta, temperature=1.0)

    @override
    def attach(self, model: nn.Module) -> None:
        for part in self.parts:
            part.attach(model)

    @override
    def represent(self, column: TextColumn) -> Representation:
        return tuple(checked_representation(part, column) for part in self.parts)

    @override
    def similarity(self, queries: Any, candidates: Any) -> Tensor:
        total: Tensor | float = 0.0
        for part, rows, columns, share, temperature in zip(
            self.parts, queries, candidates, self.shares, self.temperatures, strict=True
        ):
            similarity = checked_similarity(part, rows, columns)
            if similarity.dtype in (torch.float16, torch.bfloat16):
                similarity = similarity.float()
            total = total + similarity * (share / temperature)
        assert isinstance(total, Tensor)  # there is a part
        return total

    @override
    def for_batch(self, candidates: Any, known: Tensor | None = None) -> MixtureEstimator:
        bound = copy.copy(self)
        bound.parts = [bound_to_batch(part, rows, known) for part, rows in zip(self.parts, candidates, strict=True)]
        return bound

    @override
    def get_config_dict(self) -> dict[str, Any]:
        return {
            "compares": self.compares,
            "estimators": [
                describe_estimator(part) | {"share": share, "temperature": temperature}
                for part, share, temperature in zip(self.parts, self.shares, self.temperatures, strict=True)
            ],
        }

    def _one_each(self, name: str, values: Sequence[float]) -> list[float]:
        if len(values) != len(self.parts):
            raise ValueError(f"{name} must hold one number for each of {len(self.parts)} estimators, got {values!r}.")
        return [check_positive(name, value) for value in values]
