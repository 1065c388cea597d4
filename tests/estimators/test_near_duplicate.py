"""Near-duplicates against Python's sets, and clones of the positive through the loss and the trainer."""

import json
import random

import pytest
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES, ForbidWaiting

from st_softinfonce import SoftInfoNCELoss, TextColumn, get_estimator
from st_softinfonce.estimators import NearDuplicateEstimator


def random_texts(seed, count, vocabulary=6, longest=15):
    generator = random.Random(seed)
    return [[generator.randrange(vocabulary) for _ in range(generator.randrange(longest))] for _ in range(count)]


def column(rows, extra=0, side="right"):
    """Token ids as a batch has them: 0 pads, and 1 and 2 open and close a text."""
    width = max(len(row) for row in rows) + 2 + extra
    padded = []
    for row in rows:
        row = [1, *(token + 3 for token in row), 2]
        filling = [0] * (width - len(row))
        padded.append(row + filling if side == "right" else filling + row)
    ids = torch.tensor(padded)
    return TextColumn({"input_ids": ids, "attention_mask": ids > 0}, special_ids=range(3))


def jaccard(one, other, size):
    one, other = (
        {tuple(row[i : i + size]) for i in range(max(len(row) - size + 1, 1))} if row else set()
        for row in (one, other)
    )
    return len(one & other) / len(one | other) if one | other else 0.0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("seed", range(3))
def test_similarity_is_the_jaccard_of_pythons_sets(monkeypatch, size, seed):
    monkeypatch.setattr("st_softinfonce.estimators.near_duplicate._ROWS_AT_A_TIME", 4)
    queries, candidates = random_texts(seed, 11), random_texts(seed + 50, 17)
    candidates[:3] = queries[:3]
    estimator = NearDuplicateEstimator(size=size)
    similarity = estimator.similarity(
        estimator.represent(column(queries)), estimator.represent(column(candidates, extra=4, side="left"))
    )
    expected = torch.tensor([[jaccard(query, candidate, size) for candidate in candidates] for query in queries])
    torch.testing.assert_close(similarity, expected, rtol=1e-6, atol=1e-6)
    assert (expected > 0).sum() > 2
    assert (expected == 0).any()


def test_texts_shorter_than_a_shingle_equal_only_themselves():
    estimator = NearDuplicateEstimator(size=5)
    shingles = estimator.represent(column([[1, 2], [1, 2], [2, 1], [1, 2, 3], [], []]))
    similarity = estimator.similarity(shingles, shingles)
    expected = torch.eye(6)
    expected[0, 1] = expected[1, 0] = 1
    expected[4, 4] = expected[5, 5] = 0
    assert torch.equal(similarity, expected)


def test_a_corpus_of_empty_texts_is_similar_to_nothing():
    estimator = NearDuplicateEstimator()
    shingles = estimator.represent(column([[], []]))
    assert not estimator.similarity(shingles, shingles).any()


def test_nothing_has_a_shape_that_depends_on_the_data():
    """An operation that does makes the host wait for the device."""
    texts = column(random_texts(0, 5))
    assert texts.content_ids.numel()  # special tokens are copied to the device once, before
    estimator = NearDuplicateEstimator()
    with ForbidWaiting():
        shingles = estimator.represent(texts)
        similarity = estimator.for_batch(shingles).similarity(shingles[:2], shingles)
    assert similarity.trace() == 2


def test_clones_alone_are_taken_out():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 30_000, (64, 60), generator=generator)
    ids[9] = ids[4]
    ids[9, 50] = 7
    estimator = NearDuplicateEstimator()
    shingles = estimator.represent(TextColumn({"input_ids": ids}))
    similarity = estimator.similarity(shingles, shingles)
    expected = torch.zeros(64, 64)
    expected[4, 9] = expected[9, 4] = -torch.inf
    assert torch.equal(estimator.treatment.log_weights(similarity, positives=torch.arange(64)), expected)


@pytest.mark.parametrize(("compares", "size"), [("positives", 5), ("queries", 3), ("documents", 3)])
def test_the_default_size_suits_what_is_compared(compares, size):
    config = get_estimator("near-duplicate", compares=compares).get_config_dict()
    assert json.loads(json.dumps(config)) == config == {"size": size, "compares": compares}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be an integer of at least 1 or None, got 0"),
        ({"size": 2.0}, "size must be an integer of at least 1 or None, got 2.0"),
        ({"compares": "code"}, r"compares must be one of \('queries', 'documents', 'positives'\), got 'code'"),
    ],
    ids=["size-0", "size-float", "compares"],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        get_estimator("near-duplicate", **options)


class TestInTheLoss:
    """A negative and another query's positive that copy the first query's positive."""

    documents = (*DOCUMENTS[:-1], DOCUMENTS[0])
    negatives = (NEGATIVES[0], DOCUMENTS[0], *NEGATIVES[2:])

    def features(self, model):
        return [model.preprocess(texts) for texts in (QUERIES, list(self.documents), list(self.negatives))]

    def similarity(self, loss, direction="query_to_doc"):
        batch = loss._collect([torch.zeros(8, 2)] * 3, loss.ask(self.features(loss.model)))
        return batch.judgements[0].blocks([direction], batch.rows, {})[direction]

    def test_every_document_is_compared_with_the_positive(self, model):
        similarity, known = self.similarity(SoftInfoNCELoss(model, "near-duplicate"))
        assert known is None
        words = [
            [word for word in text.split() if word in model.tokenizer.get_vocab()]
            for text in self.documents + self.negatives
        ]
        expected = torch.tensor([[jaccard(one, other, 5) for other in words] for one in words[:8]])
        torch.testing.assert_close(similarity, expected)
        assert similarity[0, 7] == similarity[7, 0] == similarity[0, 9] == 1
        assert similarity[1].sum() < 2

    def test_the_other_direction_compares_positives_too(self, model):
        loss = SoftInfoNCELoss(model, "near-duplicate", directions=("query_to_doc", "doc_to_query"))
        torch.testing.assert_close(self.similarity(loss, "doc_to_query")[0], self.similarity(loss)[0][:, :8])

    def test_comparing_queries_leaves_negatives_alone(self, model):
        loss = SoftInfoNCELoss(model, NearDuplicateEstimator(compares="queries"))
        similarity, known = self.similarity(loss)
        assert (similarity[:, 8:] == -torch.inf).all()
        assert known.tolist() == [True] * 8 + [False] * 8

    def test_positives_are_documents_to_the_estimator(self, static_model):
        roles = []

        class Noting(NearDuplicateEstimator):
            def represent(self, column):
                roles.append((column.role, column.texts[0]))
                return super().represent(column)

        SoftInfoNCELoss(static_model, Noting())(self.features(static_model))
        assert roles == [("document", self.documents[0]), ("document", self.negatives[0])]
