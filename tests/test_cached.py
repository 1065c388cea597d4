"""CachedSoftInfoNCELoss = SoftInfoNCELoss: values, gradients, dropout, and whatever the trainer does around them."""

import copy

import pytest
import torch
from conftest import ALL_DIRECTIONS, DOCUMENTS, NEGATIVES, QUERIES, assert_same, features, gradients, run, with_dropout
from torch.utils._python_dispatch import TorchDispatchMode

from st_softinfonce import CachedSoftInfoNCELoss, SoftInfoNCELoss
from st_softinfonce.treatments import Distill, Mask, Promote

TEXTS = [QUERIES, DOCUMENTS, NEGATIVES]
# Each loss of test_published and of test_host_equality is cached there too, in chunks of three.
CONFIGURATIONS = {
    "default": {},
    "self-four-ways": {
        "estimator": "self",
        "treatment": Mask(margin=-0.001),
        "directions": ALL_DIRECTIONS,
    },
    "several": {"treatments": [("identical", Promote()), ("bm25", Mask(top_k=1)), ("self", Distill())]},
}


@pytest.fixture
def transformer_model(transformer_model):
    """In float64, so that only a difference in what is computed can show."""
    return transformer_model.double()


@pytest.fixture
def dropout_model(transformer_model):
    with_dropout(transformer_model)
    batch = features(transformer_model)
    one, other = (transformer_model(copy.deepcopy(batch[0]))["sentence_embedding"] for _ in range(2))
    assert not torch.equal(one, other), "dropout is off"
    return transformer_model


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_cached_equals_plain(transformer_model, options):
    plain = run(transformer_model, SoftInfoNCELoss(transformer_model, **options))
    for chunk in (1, 3, 4, 8, 20):  # that divide the batch, that do not, and that hold all of it
        assert_same(
            run(transformer_model, CachedSoftInfoNCELoss(transformer_model, mini_batch_size=chunk, **options)), plain
        )
    directions = {"directions": options["directions"]} if "directions" in options else {}
    unweighted = run(transformer_model, SoftInfoNCELoss(transformer_model, None, **directions))
    assert abs(unweighted[0] - plain[0]) > 1e-4


@pytest.mark.parametrize("tokens", [1, 17, 1000])
def test_mini_batches_by_tokens_equal_plain(transformer_model, tokens):
    cached = CachedSoftInfoNCELoss(transformer_model, mini_batch_num_tokens=tokens, mini_batch_size=3)
    assert_same(run(transformer_model, cached), run(transformer_model, SoftInfoNCELoss(transformer_model)))


def test_dropout_is_replayed(dropout_model):
    """The gradients are those of the loss with the masks of the first pass, which a finite difference confirms."""
    loss = CachedSoftInfoNCELoss(dropout_model, mini_batch_size=3)
    batch = features(dropout_model)
    torch.manual_seed(5)
    _, found = run(dropout_model, loss, batch)
    name = next(n for n in found if n.endswith("word_embeddings.weight"))
    parameter = dict(dropout_model.named_parameters())[name]
    direction = found[name] / found[name].norm()
    values = []
    for step in (1e-3, -1e-3):
        with torch.no_grad():
            parameter.add_(direction, alpha=step)
            torch.manual_seed(5)
            values.append(loss(copy.deepcopy(batch), None).item())
            parameter.sub_(direction, alpha=step)
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(found[name].norm().item(), rel=1e-3)


def test_two_forwards_before_one_backward_keep_their_own_gradients(transformer_model):
    loss = CachedSoftInfoNCELoss(transformer_model, mini_batch_size=3)
    one, other = features(transformer_model), features(transformer_model, [column[::-1][:6] for column in TEXTS])
    expected_one, expected_other = run(transformer_model, loss, one), run(transformer_model, loss, other)
    transformer_model.zero_grad()
    (loss(copy.deepcopy(one), None) + loss(copy.deepcopy(other), None)).backward()
    together = gradients(transformer_model)
    for name in together:
        torch.testing.assert_close(
            together[name], expected_one[1][name] + expected_other[1][name], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("scale", [0.25, 1024.0], ids=["accumulation", "fp16-scaler"])
def test_the_outer_scale_reaches_the_gradients(transformer_model, scale):
    _, plain = run(transformer_model, CachedSoftInfoNCELoss(transformer_model, mini_batch_size=3))
    _, scaled = run(transformer_model, CachedSoftInfoNCELoss(transformer_model, mini_batch_size=3), scale=scale)
    for name in plain:
        torch.testing.assert_close(scaled[name], plain[name] * scale, rtol=1e-9, atol=1e-12 * scale)


def test_evaluation_needs_no_gradient(transformer_model):
    with torch.no_grad():
        cached = CachedSoftInfoNCELoss(transformer_model, mini_batch_size=3)(features(transformer_model), None)
        plain = SoftInfoNCELoss(transformer_model)(features(transformer_model), None)
    torch.testing.assert_close(cached, plain)


def test_no_tensor_of_the_whole_batch_by_all_documents_is_made(transformer_model):
    """Every operation of the loss is watched: the largest result is a chunk of rows, or the texts themselves."""

    class Largest(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.shapes = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.shapes.append(tuple(result.shape))
            return result

    copies, chunk = 8, 4
    texts = [column * copies for column in TEXTS]
    rows, documents = len(texts[0]), len(texts[0]) * 2
    loss = CachedSoftInfoNCELoss(transformer_model, mini_batch_size=chunk)
    with Largest() as largest:
        loss(features(transformer_model, texts), None)
    assert (chunk, documents) in largest.shapes
    assert not [shape for shape in largest.shapes if shape[:1] == (rows,) and shape[1:] in ((rows,), (documents,))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mini_batch_size": 0}, "mini_batch_size must be an integer of at least 1, got 0"),
        ({"mini_batch_size": None}, "mini_batch_size must be an integer of at least 1, got None"),
        ({"mini_batch_num_tokens": 0}, "mini_batch_num_tokens must be an integer of at least 1 or None, got 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_out_of_range_are_refused(transformer_model, options, message):
    with pytest.raises(ValueError, match=message):
        CachedSoftInfoNCELoss(transformer_model, **options)


def test_static_embeddings_are_refused_with_the_alternative(static_model):
    with pytest.raises(ValueError, match=r"StaticEmbedding.*Use the loss without cached gradients"):
        CachedSoftInfoNCELoss(static_model)


def test_the_card_names_the_chunks(transformer_model):
    config = CachedSoftInfoNCELoss(transformer_model, mini_batch_size=5, treatment=Mask(top_k=1)).get_config_dict()
    assert (config["mini_batch_size"], config["treatment"]["treatment"], config["estimator"]) == (5, "Mask", "bm25")
