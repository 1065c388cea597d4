"""SoftInfoNCELoss with cached gradients, by the host's own machinery."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from typing_extensions import override

from st_softinfonce import _host
from st_softinfonce._checks import check_count
from st_softinfonce.estimators.base import SimilarityEstimator
from st_softinfonce.losses.base import Asked
from st_softinfonce.losses.judgement import OneOrSeveral
from st_softinfonce.losses.soft_info_nce import SoftInfoNCELoss


class CachedSoftInfoNCELoss(_host.CachedLossMixin, SoftInfoNCELoss):
    """:class:`SoftInfoNCELoss` with cached gradients, for batches larger than the memory allows.

    The same loss and gradients for the memory of ``mini_batch_size`` texts, at the price of embedding every text
    twice (GradCache, Gao et al. 2021). Rows are scored and judged ``mini_batch_size`` at a time.

    Args:
        model: The model to train; not one of StaticEmbedding, which has no mini-batches.
        estimator: As for :class:`SoftInfoNCELoss`.
        treatment: As for :class:`SoftInfoNCELoss`.
        mini_batch_size: At least 1. Texts embedded, and rows scored, at a time.
        mini_batch_num_tokens: At least 1, in tokens; embed as many texts at a time as stay below it, instead of
            ``mini_batch_size``. Rows are still scored ``mini_batch_size`` at a time.
        show_progress_bar: Show the progress within each batch.
        **options: The other options of :class:`SoftInfoNCELoss`.

    Raises:
        ValueError: As :class:`SoftInfoNCELoss`, or the model embeds with a StaticEmbedding.
        TypeError: As :class:`SoftInfoNCELoss`.
    """

    def __init__(
        self,
        model: nn.Module,
        estimator: str | SimilarityEstimator | None = "bm25",
        treatment: OneOrSeveral | None = None,
        *,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, estimator, treatment, **options)
        check_count("mini_batch_size", mini_batch_size)
        check_count("mini_batch_num_tokens", mini_batch_num_tokens, optional=True)
        if _host.has_static_embedding_input(self.model):
            raise ValueError(
                f"model embeds with a StaticEmbedding, whose inputs {type(self).__name__} cannot cut into "
                "mini-batches. Use the loss without cached gradients: such a model fits any batch."
            )
        self.mini_batch_size = mini_batch_size
        self.mini_batch_num_tokens = mini_batch_num_tokens
        self.show_progress_bar = show_progress_bar

    @override
    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        features = list(sentence_features)
        # The host hands nothing but the labels through to calculate_loss.
        return self.forward_cached(features, self.ask(features, labels))  # type: ignore[arg-type]

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | Asked | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """Compute the loss of the whole batch from the embeddings ``(n, D)`` of each mini-batch of each column.

        The ``labels`` are what :meth:`ask` returned. ``with_backward`` the loss is propagated back to the embeddings,
        chunk by chunk, and returned detached.
        """
        batch = self._collect([torch.cat(column) for column in reps], labels)
        total = torch.zeros((), dtype=torch.float32, device=batch.queries.device)
        chunks = torch.split(batch.rows, self.mini_batch_size)
        for rows in tqdm(chunks, desc="Calculating loss", disable=not self.show_progress_bar):
            loss = self.rows_loss(batch, rows) * (len(rows) / len(batch.rows))
            if with_backward:
                torch.autograd.backward(loss)
                loss = loss.detach()
            total = total + loss
        return total

    @override
    def get_config_dict(self) -> dict[str, Any]:
        return super().get_config_dict() | {
            "mini_batch_size": self.mini_batch_size,
            "mini_batch_num_tokens": self.mini_batch_num_tokens,
        }
