"""An estimator by what you know of the original texts: do two functions come from one package?"""

import torch

from st_softinfonce import ByText, Mask, SimilarityEstimator


class SamePackage(SimilarityEstimator):
    """1 where a candidate comes from the package of the query's positive, else 0: such negatives are taken out.

    Args:
        package_of: Code to package: ``dict(zip(pairs["code"], pairs["package"]))``.
        model: The model in training; ``options`` (max_length, prompt, task) are those of the training.
    """

    name = "same-package"
    treatment = Mask(above=0.5)
    compares = "positives"
    often_equal = True  # a batch may hold no two functions of a package, which is no mistake

    def __init__(self, package_of, model, **options):
        self._package = ByText(package_of, model, **options)
        names = sorted(set(self._package.values))
        self._number = torch.tensor([*map(names.index, self._package.values), -1])  # the last is for unknown texts

    def represent(self, column):
        return self._number.to(column.device)[self._package.index(column)]

    def similarity(self, queries, candidates):
        return ((queries.unsqueeze(1) == candidates) & (candidates >= 0)).float()
