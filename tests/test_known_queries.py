"""Mined hard negatives judged by their own queries."""

import pytest
import reference
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES
from sentence_transformers.util import cos_sim

from st_softinfonce import (
    BM25Estimator,
    CachedSoftInfoNCELoss,
    KnownQueries,
    MixtureEstimator,
    SimilarityEstimator,
    Soften,
    SoftInfoNCELoss,
    TextColumn,
)
from st_softinfonce.estimators.base import map_rows

# The negatives are other queries' documents, as mining makes them; the last three come from elsewhere.
MINED = [*DOCUMENTS[3:], *NEGATIVES[:3]]
QUERY_OF = dict(zip(DOCUMENTS, QUERIES, strict=True))


def features(model, texts=(QUERIES, DOCUMENTS, MINED)):
    return [model.preprocess(column) for column in texts]


def words(model, text):
    return [word for word in text.split() if word in model.tokenizer.get_vocab()]


def test_a_document_is_found_by_its_tokens(model):
    known = KnownQueries(QUERY_OF, model)
    queries, found = known.of(TextColumn(model.preprocess(MINED), model.tokenizer, role="document"))
    assert found.tolist() == [True] * 5 + [False] * 3
    assert queries.texts == [*QUERIES[3:], "", "", ""]


def test_documents_that_the_model_reads_alike_have_a_query_only_if_it_is_the_same(transformer_model):
    transformer_model.max_seq_length = 5
    documents = ["def sort list in file", "def sort list of bytes", "def read list in file", "def read list of bytes"]
    queries = ["sort list", "sort every list", "read list", "read list"]
    known = KnownQueries(dict(zip(documents, queries, strict=True)), transformer_model)
    column = TextColumn(transformer_model.preprocess(documents), transformer_model.tokenizer, role="document")
    found, is_known = known.of(column)
    assert is_known.tolist() == [False, False, True, True]
    assert found.texts == ["", "", "read list", "read list"]


@pytest.mark.parametrize("cls", [SoftInfoNCELoss, CachedSoftInfoNCELoss])
def test_known_negatives_are_weighed_by_their_queries_and_unknown_ones_at_1(transformer_model, cls):
    judge = BM25Estimator(tokens="all"), Soften(alpha=1.3, beta=0.7, temperature=0.5)
    loss = cls(transformer_model, *judge, known_queries=KnownQueries(QUERY_OF, transformer_model))
    with torch.no_grad():
        embeddings = [transformer_model(column)["sentence_embedding"] for column in features(transformer_model)]
    scores = (20 * cos_sim(embeddings[0], torch.cat(embeddings[1:]))).double().tolist()
    queries = [words(transformer_model, text) for text in QUERIES]
    similarity = reference.bm25(queries, [*queries, *queries[3:]], 1.2, 0.75)
    weights = [[*row, 1.0, 1.0, 1.0] for row in reference.negative_weights(similarity, 1.3, 0.7, 0.5)]
    actual = loss(features(transformer_model), None)
    assert actual.item() == pytest.approx(reference.soft_info_nce(scores, weights), rel=1e-5)
    unknown = cls(transformer_model, *judge)(features(transformer_model), None)
    assert abs(unknown - actual) > 1e-3


def test_a_mapping_that_knows_none_of_them_is_as_no_mapping(static_model):
    known = KnownQueries({"def none true": "find none"}, static_model)
    batch = features(static_model)
    without = SoftInfoNCELoss(static_model)(batch, None)
    assert torch.equal(SoftInfoNCELoss(static_model, known_queries=known)(batch, None), without)


@pytest.mark.parametrize(
    "make", [BM25Estimator, lambda: MixtureEstimator(["bm25", Length()])], ids=["bm25", "mixture"]
)
def test_unknown_negatives_do_not_count_in_the_statistics(static_model, make):
    column = TextColumn(static_model.preprocess([*QUERIES, *QUERIES[4:]]), static_model.tokenizer)
    known = torch.arange(12) % 3 != 1
    estimator = make()
    rows = estimator.represent(column)
    known_rows = map_rows(lambda part: part[known], rows)
    expected = estimator.for_batch(known_rows).similarity(rows, known_rows)
    bound = estimator.for_batch(rows, known)
    torch.testing.assert_close(bound.similarity(rows, rows)[:, known], expected)
    assert not torch.allclose(estimator.for_batch(rows).similarity(rows, rows)[:, known], expected)


class Length(SimilarityEstimator):
    """Against the mean of the batch."""

    treatment = Soften(alpha=1.3, beta=0.7, temperature=0.1)
    compares = "queries"
    mean = None

    def represent(self, column):
        return column.content_mask.sum(dim=1, keepdim=True).double()

    def for_batch(self, candidates, known=None):
        bound = Length()
        bound.mean = (candidates if known is None else candidates[known]).mean()
        return bound

    def similarity(self, queries, candidates):
        return -(queries - candidates.T).abs() / self.mean


def test_pairs_without_negatives_are_as_before(static_model):
    loss = SoftInfoNCELoss(static_model, known_queries=KnownQueries(QUERY_OF, static_model))
    batch = features(static_model, (QUERIES, DOCUMENTS))
    assert torch.equal(loss(batch, None), SoftInfoNCELoss(static_model)(batch, None))


def test_an_estimator_of_documents_has_no_use_for_them(static_model):
    with pytest.raises(ValueError, match=r"are for estimators that compare queries, got \{'bm25': 'doc"):
        SoftInfoNCELoss(
            static_model, BM25Estimator(compares="documents"), known_queries=KnownQueries(QUERY_OF, static_model)
        )


def test_an_empty_mapping_is_refused(static_model):
    with pytest.raises(ValueError, match="query_of must map at least one document"):
        KnownQueries({}, static_model)
