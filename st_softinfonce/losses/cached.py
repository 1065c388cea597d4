"""Cached gradients for any in-batch loss, by the host's own machinery."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm import tqdm
from typing_extensions import override

from st_softinfonce import _host
from st_softinfonce._checks import check_count
from st_softinfonce.losses.base import Asked, InBatchLoss


class GradientCachedMixin(_host.CachedLossMixin, InBatchLoss):
    """Runs an in-batch loss's rows in chunks, and its embeddings through the host's gradient cache."""

    @override
    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        features = list(sentence_features)
        # The host hands nothing but the labels through to calculate_loss.
        return self.forward_cached(features, self.ask(features, labels))  # type: ignore[arg-type]

    def calculate_loss(
        self,
        reps: list[list[Tensor]],
        labels: Tensor | Asked | None = None,
        *,
        with_backward: bool = False,
    ) -> Tensor:
        """Compute the loss of the whole batch from the embeddings of its mini-batches.

        Args:
            reps: ``(n, D)`` for each mini-batch of each column.
            labels: What :meth:`ask` returned for the batch.
            with_backward: Also propagate back to ``reps``, chunk by chunk.

        Returns:
            Mean over the batch's queries, a scalar; detached if propagated back.
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

    def _set_mini_batches(self, size: int, num_tokens: int | None, show_progress_bar: bool) -> None:
        check_count("mini_batch_size", size)
        check_count("mini_batch_num_tokens", num_tokens, optional=True)
        if _host.has_static_embedding_input(self.model):
            raise ValueError(
                f"model embeds with a StaticEmbedding, whose inputs {type(self).__name__} cannot cut into "
                "mini-batches. Use the loss without cached gradients: such a model fits any batch."
            )
        self.mini_batch_size = size
        self.mini_batch_num_tokens = num_tokens
        self.show_progress_bar = show_progress_bar
