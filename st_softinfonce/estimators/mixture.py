"""Several estimators as one."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from st_softinfonce.estimators.base import (
    SimilarityEstimator,
    TextColumn,
    WeightingParameters,
    checked_representation,
    checked_similarity,
)
from st_softinfonce.estimators.registry import describe_estimator, get_estimator
from st_softinfonce.functional import check_positive

# Fills up packed rows. Padding passes through a float, which holds this number exactly; no token id is as large, a
# hash is it once in 2 ** 63, and as a float64 it is a nan that no arithmetic makes.
_FILL = 0x7FFC_5AFE_0000_0000
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class MixtureEstimator(SimilarityEstimator):
    """A weighted combination of estimators, each on the scale that its own temperature gives it.

    With the parts' similarities ``s_k``, temperatures ``t_k`` and shares ``a_k``, which sum to 1::

        similarity = sum_k a_k * s_k / t_k

    so that the softmax of Eq. 4 (Li et al. 2023), at the mixture's temperature 1, is the parts' own softmaxes
    multiplied with the exponents ``a_k`` (a logarithmic opinion pool): scores of any scale count by what they do to
    the weights, and a mixture of an estimator with itself is that estimator. ``alpha`` and ``beta`` are the parts'
    means by share. A candidate that one part rules out (-inf) is ruled out.

    Args:
        estimators: At least one: names, or instances with their own options. All must compare the same.
        weights: Above 0, one each; only their ratios count. By default all are equal.

    Shape:
        Representations are int64 words ``(n, width)`` that hold the parts' representations side by side, bit by bit.
        Similarities are ``(n, m)`` in the widest of the parts' dtypes.

    Raises:
        ValueError: An option is out of range, an estimator is unknown, or the estimators compare different things.

    Example:
        >>> mixture = MixtureEstimator(["bm25", get_estimator("near-duplicate", compares="queries")], weights=[3, 1])
        >>> mixture.weighting, mixture.compares
        (WeightingParameters(alpha=1.5, beta=0.5, temperature=1.0), 'queries')
    """

    name = "mixture"
    padding = _FILL

    def __init__(
        self, estimators: Sequence[str | SimilarityEstimator], *, weights: Sequence[float] | None = None
    ) -> None:
        if isinstance(estimators, str) or not isinstance(estimators, Sequence) or not estimators:
            raise ValueError(f"estimators must be a list of at least one estimator or name, got {estimators!r}.")
        self.parts = [get_estimator(estimator) for estimator in estimators]
        weights = [1.0] * len(self.parts) if weights is None else list(weights)
        if len(weights) != len(self.parts):
            raise ValueError(
                f"weights must hold one number for each of {len(self.parts)} estimators, got {weights!r}. None weighs "
                "them equally."
            )
        for weight in weights:
            check_positive("weights", weight)
        compared = {part.compares for part in self.parts}
        if len(compared) > 1:
            raise ValueError(
                "estimators must all compare the same, got "
                f"{', '.join(f'{part.name} ({part.compares})' for part in self.parts)}: a mixture is given only the "
                "columns that are compared. Make the parts with one value of their option 'compares'."
            )
        self.compares = self.parts[0].compares
        self.shares = [weight / math.fsum(weights) for weight in weights]
        self.weighting = WeightingParameters(
            alpha=math.fsum(s * part.weighting.alpha for s, part in zip(self.shares, self.parts, strict=True)),
            beta=math.fsum(s * part.weighting.beta for s, part in zip(self.shares, self.parts, strict=True)),
            temperature=1.0,
        )
        self._layouts: dict[torch.device, list[_Layout]] = {}
        self._packed: Tensor | None = None
        self._candidates: list[Tensor] = []

    def attach(self, model: nn.Module) -> None:
        """Introduce every part to the model in training.

        Args:
            model: The model in training.
        """
        for part in self.parts:
            part.attach(model)

    def represent(self, column: TextColumn) -> Tensor:
        """Pack the parts' representations into one.

        Args:
            column: ``n`` texts.

        Returns:
            ``(n, width)`` int64: the parts that are equally wide in every batch, then a word of each of the others in
            turn, so that a row that is filled up at its end is every one of those filled up.

        Raises:
            ValueError: A part breaks its contract, or changes the shape or dtype of its rows.
        """
        representations = [checked_representation(part, column) for part in self.parts]
        layouts = [_Layout.of(part, rows) for part, rows in zip(self.parts, representations, strict=True)]
        # Kept by device, as an encoder may be of half precision on one and not on the other.
        known = self._layouts.setdefault(column.device, layouts)
        for part, before, now in zip(self.parts, known, layouts, strict=True):
            if before != now:
                raise ValueError(
                    f"{part.name}.represent() must return rows of one shape and dtype, got {now} after {before}. Set "
                    "the estimator's 'padding' if its rows are (n, longest text)."
                )
        words = [_to_words(rows) for rows in representations]
        fixed = [rows for rows, layout in zip(words, layouts, strict=True) if layout.tail is not None]
        varying = [rows for rows, layout in zip(words, layouts, strict=True) if layout.tail is None]
        if varying:
            width = max(rows.size(1) for rows in varying)
            filled = [F.pad(rows, (0, width - rows.size(1)), value=_FILL) for rows in varying]
            fixed.append(torch.stack(filled, dim=2).flatten(1))
        return torch.cat(fixed, dim=1)

    def similarity(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Add up what the parts say, on their common scale.

        Args:
            queries: ``(n, width)`` packed representations.
            candidates: ``(m, width)`` packed representations.

        Returns:
            ``(n, m)``.
        """
        # The very tensors that the parts were bound to, so that a part may know them again.
        of_candidates = self._candidates if candidates is self._packed else self._unpack(candidates)
        logits: Tensor | None = None
        for part, share, rows, columns in zip(
            self.parts, self.shares, self._unpack(queries), of_candidates, strict=True
        ):
            similarity = checked_similarity(part, rows, columns)
            if similarity.dtype in (torch.float16, torch.bfloat16):
                similarity = similarity.float()
            scaled = similarity * (share / part.weighting.temperature)
            logits = scaled if logits is None else logits + scaled
        assert logits is not None
        return logits

    def for_batch(self, candidates: Tensor) -> MixtureEstimator:
        """Bind every part to a batch.

        Args:
            candidates: ``(m, width)`` packed representations of all the candidates of the batch.

        Returns:
            A mixture of the bound parts.
        """
        return self._bound(candidates, None)

    def for_known(self, candidates: Tensor, known: Tensor) -> MixtureEstimator:
        """Bind every part to a batch of whose candidates only some are known.

        Args:
            candidates: ``(m, width)`` packed representations of all the candidates of the batch.
            known: ``(m,)`` bool.

        Returns:
            A mixture of the bound parts.
        """
        return self._bound(candidates, known)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the options worth reading in a model card, as JSON primitives.

        Returns:
            Name, version, options, share and temperature of each part.
        """
        return {
            "compares": self.compares,
            "estimators": [
                describe_estimator(part) | {"share": share, "temperature": part.weighting.temperature}
                for part, share in zip(self.parts, self.shares, strict=True)
            ],
        }

    def _bound(self, candidates: Tensor, known: Tensor | None) -> MixtureEstimator:
        bound = copy.copy(self)
        bound._packed = candidates
        bound._candidates = self._unpack(candidates)
        bound.parts = [
            part.for_batch(rows) if known is None else part.for_known(rows, known)
            for part, rows in zip(self.parts, bound._candidates, strict=True)
        ]
        return bound

    def _unpack(self, packed: Tensor) -> list[Tensor]:
        layouts = self._layouts.get(packed.device)
        if layouts is None:
            raise ValueError(f"representations on {packed.device} are none that represent() has returned.")
        widths = [0 if layout.tail is None else math.prod(layout.tail) for layout in layouts]
        varying = sum(layout.tail is None for layout in layouts)
        start = sum(widths)
        # A remainder can only be filling: a mixture within a mixture is filled up without regard to its turns.
        length = (packed.size(1) - start) // max(varying, 1)
        turns = packed[:, start : start + length * varying].reshape(len(packed), length, varying)
        parts: list[Tensor] = []
        place = turn = 0
        for part, layout, width in zip(self.parts, layouts, widths, strict=True):
            if layout.tail is not None:
                rows = _from_words(packed[:, place : place + width], layout.dtype)
                parts.append(rows.reshape(len(packed), *layout.tail))
                place += width
            else:
                words = turns[:, :, turn]
                padding = 0 if part.padding is None else part.padding
                parts.append(_from_words(words, layout.dtype).masked_fill(words == _FILL, padding))
                turn += 1
        return parts


@dataclass(frozen=True)
class _Layout:
    """How a part's rows are packed: their shape, or ``None`` if they are as wide as the batch's longest text."""

    dtype: torch.dtype
    tail: tuple[int, ...] | None

    @classmethod
    def of(cls, part: SimilarityEstimator, rows: Tensor) -> _Layout:
        if rows.dtype.itemsize not in _INTEGERS:
            raise ValueError(f"{part.name}.represent() returned {rows.dtype}, of which a mixture cannot be made.")
        if part.padding is None:
            return cls(rows.dtype, tuple(rows.shape[1:]))
        if rows.dim() != 2:
            raise ValueError(
                f"{part.name}.represent() must return (n, width), as it has a 'padding', got the shape "
                f"{tuple(rows.shape)}."
            )
        return cls(rows.dtype, None)

    def __str__(self) -> str:
        return f"{self.dtype} of shape {self.tail if self.tail is not None else '(longest text,)'}"


def _to_words(rows: Tensor) -> Tensor:
    """Carry each element's bits in an int64: exact for hashes, half precision and nan alike."""
    words: Tensor = rows.contiguous().view(_INTEGERS[rows.dtype.itemsize]).to(torch.int64)
    return words.flatten(1) if rows.dim() > 1 else words.unsqueeze(1)


def _from_words(words: Tensor, dtype: torch.dtype) -> Tensor:
    return words.to(_INTEGERS[dtype.itemsize]).view(dtype)
