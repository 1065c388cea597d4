"""An estimator of your own: how many words of a query does another query have too?"""

import torch

from st_softinfonce import SimilarityEstimator, Soften


class SharedWords(SimilarityEstimator):
    """Share of a query's distinct tokens that a candidate's query has too, between 0 and 1."""

    name = "shared-words"
    # What follows from these scores unless the loss is told otherwise; it suits their scale.
    treatment = Soften(alpha=1.3, beta=0.7, temperature=0.1)
    compares = "queries"  # or "documents": the candidate's own text

    def __init__(self, *, buckets=4096):
        if buckets < 1:
            raise ValueError(f"buckets must be at least 1, got {buckets!r}. 4096 suits batches of short texts.")
        self.buckets = buckets

    def represent(self, column):
        """One row a text, made of ``column.content_ids``, -1 for none; ``column.texts`` are those ids decoded."""
        bucket = (column.content_ids % self.buckets + 1).masked_fill(~column.content_mask, 0)
        present = torch.zeros(len(column), self.buckets + 1, device=column.device)
        return present.scatter_(1, bucket, 1.0)[:, 1:]

    def similarity(self, queries, candidates):
        """One number a pair ``(queries, candidates)``; higher is more alike."""
        return queries @ candidates.T / queries.sum(dim=1, keepdim=True).clamp(min=1)

    def get_config_dict(self):
        """Options worth reading in a model card."""
        return {"buckets": self.buckets}
