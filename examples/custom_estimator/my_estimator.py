"""An estimator of your own: how many words of a query does another query have too?"""

import torch

from st_softinfonce import SimilarityEstimator, Soften


class SharedWords(SimilarityEstimator):
    """Share of a query's distinct tokens that a candidate's query has too, between 0 and 1."""

    name = "shared-words"
    treatment = Soften(alpha=1.3, beta=0.7, temperature=0.1)  # what follows by default; it suits scores of this scale
    compares = "queries"  # or "documents": the candidate's own text

    def __init__(self, *, buckets=4096):
        self.buckets = buckets  # public options are in the model card

    def represent(self, column):  # one row a text, of its token ids: -1 where there is none
        bucket = (column.content_ids % self.buckets + 1).masked_fill(column.content_ids < 0, 0)
        return torch.zeros(len(column), self.buckets + 1, device=column.device).scatter_(1, bucket, 1.0)[:, 1:]

    def similarity(self, queries, candidates):  # one number a pair, higher is more alike
        return queries @ candidates.T / queries.sum(dim=1, keepdim=True).clamp(min=1)
