"""Mixtures: the parts' similarities on one scale, and their representations unharmed within one tensor."""

import json
import math
from functools import partial

import pytest
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES
from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from st_softinfonce import (
    BM25Estimator,
    CachedSoftInfoNCELoss,
    MixtureEstimator,
    NearDuplicateEstimator,
    PairwiseEstimator,
    SimilarityEstimator,
    Soften,
    SoftInfoNCELoss,
    TextColumn,
    get_estimator,
)
from st_softinfonce._host import gather_rows
from st_softinfonce.estimators.base import join_rows, map_rows

arguments = partial(
    SentenceTransformerTrainingArguments,
    per_device_train_batch_size=8,
    learning_rate=1e-2,
    report_to="none",
    save_strategy="no",
    disable_tqdm=True,
    use_cpu=True,
)


class Bits(SimilarityEstimator):
    """Random rows of any shape and dtype, which remember what they were."""

    treatment = Soften(alpha=1.0, beta=1.0, temperature=2.0)

    def __init__(self, dtype=torch.float32, shape=(3,), padding=None, compares="documents"):
        self.dtype = dtype
        self.shape = shape
        self.padding = padding
        self.compares = compares
        self.represented = []
        self.seen = None

    def represent(self, column):
        shape = (len(column), *((column.input_ids.size(1),) if self.padding is not None else self.shape))
        size = math.prod(shape) * self.dtype.itemsize
        if self.dtype == torch.bool:
            rows = torch.rand(shape) > 0.5
        else:
            rows = torch.randint(0, 256, (size,), dtype=torch.uint8).view(self.dtype).view(shape)
        self.represented.append(rows)
        return rows

    def similarity(self, queries, candidates):
        self.seen = queries, candidates
        return torch.zeros(len(queries), len(candidates))


def same_bits(one, other):
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.dtype.itemsize]
    return one.dtype == other.dtype and torch.equal(one.view(integers), other.view(integers))


def columns(tokenizer, *texts):
    return [TextColumn.from_texts(column, tokenizer) for column in texts]


class TestPacking:
    @pytest.mark.parametrize("inside_another", [False, True], ids=["alone", "inside-another"])
    def test_every_part_gets_back_the_very_bits_of_every_column(self, tokenizer, inside_another):
        torch.manual_seed(0)
        parts = [
            Bits(torch.int64, padding=-1),
            Bits(torch.float16, (7,)),
            Bits(torch.float64, ()),
            Bits(torch.float32, padding=0.5),
            Bits(torch.float64, (2, 3)),
            Bits(torch.bool, (5,)),
            Bits(torch.bfloat16, padding=-2.0),
            Bits(torch.int64, (2,)),
        ]
        mixture = MixtureEstimator(parts)
        if inside_another:
            mixture = MixtureEstimator([Bits(torch.int32, padding=9), mixture, Bits(torch.float16, (1,))])
        long = ["read every file of a list and sort all the lines of the list", *DOCUMENTS[1:]]
        representations = [mixture.represent(c) for c in columns(tokenizer, QUERIES, DOCUMENTS, long)]
        assert len({rows.size(1) for rows in representations}) > 1
        candidates = join_representations(representations[1:], mixture.padding)
        mixture.for_batch(candidates).similarity(representations[0][2:5], candidates)
        for part in parts:
            queries, of_candidates = part.seen
            expected = part.represented[0][2:5]
            if part.padding is None:
                assert same_bits(queries, expected)
                assert same_bits(of_candidates, torch.cat(part.represented[1:]))
                continue
            assert same_bits(queries[:, : expected.size(1)], expected)
            assert (queries[:, expected.size(1) :] == part.padding).all()
            for rows, expected in zip(of_candidates.split(8), part.represented[1:], strict=True):
                assert same_bits(rows[:, : expected.size(1)], expected)
                assert (rows[:, expected.size(1) :] == part.padding).all()

    def test_hashes_above_2_to_the_53_stay_exact(self, tokenizer):
        near = NearDuplicateEstimator(compares="documents")
        (column,) = columns(tokenizer, DOCUMENTS)
        mixture = MixtureEstimator([near, BM25Estimator(compares="documents")])
        shingles, _ = mixture._unpack(mixture.represent(column))
        assert shingles.max() > 2**60
        assert torch.equal(shingles, near.represent(column))

    def test_bound_parts_know_their_candidates_again(self, tokenizer):
        seen = []

        class Noting(BM25Estimator):
            def for_batch(self, candidates, known=None):
                seen.append(candidates)
                return self

            def similarity(self, queries, candidates):
                seen.append(candidates)
                return super().similarity(queries, candidates)

        mixture = MixtureEstimator([Noting()])
        rows = mixture.represent(*columns(tokenizer, QUERIES))
        mixture.for_batch(rows).similarity(rows, rows)
        assert seen[0] is seen[1]

    def test_a_part_that_changes_its_shape_is_refused_by_name(self, tokenizer):
        part = Bits(shape=(3,))
        mixture = MixtureEstimator([part])
        mixture.represent(*columns(tokenizer, QUERIES))
        part.shape = (4,)
        with pytest.raises(
            ValueError, match=r"Bits.represent\(\) must return rows of one .* got .*\(4,\) after .*\(3,"
        ):
            mixture.represent(*columns(tokenizer, QUERIES))

    def test_a_part_that_breaks_the_contract_is_refused_by_name(self, tokenizer):
        class Wrong(BM25Estimator):
            def similarity(self, queries, candidates):
                return torch.zeros(1, 1)

            def for_batch(self, candidates, known=None):
                return self

        mixture = MixtureEstimator(["bm25", Wrong()])
        rows = mixture.represent(*columns(tokenizer, QUERIES))
        with pytest.raises(ValueError, match=r"Wrong.similarity\(\) must return a floating-point tensor of shape"):
            mixture.similarity(rows, rows)


class TestScale:
    def test_logits_are_the_shares_of_the_parts_logits(self, tokenizer):
        near = NearDuplicateEstimator(size=2, compares="queries")
        (column,) = columns(tokenizer, QUERIES)
        mixture = MixtureEstimator(["bm25", near], weights=[3, 1])
        rows = mixture.represent(column)
        bm25 = BM25Estimator().similarity(column.content_ids, column.content_ids)
        shingles = near.represent(column)
        expected = 0.75 * bm25 / 1.0 + 0.25 * near.similarity(shingles, shingles) / 0.1
        torch.testing.assert_close(mixture.similarity(rows, rows), expected)
        torch.testing.assert_close(mixture.for_batch(rows).similarity(rows[3:5], rows), expected[3:5])
        assert mixture.shares == [0.75, 0.25]

    def test_an_estimator_mixed_with_itself_is_that_estimator(self, static_model):
        batch = [static_model.preprocess(column) for column in (QUERIES, DOCUMENTS)]
        alone = SoftInfoNCELoss(static_model, NearDuplicateEstimator(size=1))(batch)
        mixture = MixtureEstimator([NearDuplicateEstimator(size=1)] * 2, weights=[2, 5])
        mixed = SoftInfoNCELoss(static_model, mixture)(batch)
        plain = SoftInfoNCELoss(static_model, alpha=0)(batch)
        torch.testing.assert_close(mixed, alone)
        assert abs(mixed - plain) > 1e-3

    def test_alpha_and_beta_are_means_by_share(self):
        other = Bits(compares="queries")
        weighting = MixtureEstimator([BM25Estimator(), other], weights=[3, 1]).weighting
        assert weighting == WeightingParameters(alpha=1.375, beta=0.625, temperature=1.0)

    def test_what_one_part_rules_out_is_ruled_out(self, tokenizer):
        class First(PairwiseEstimator):
            treatment = Soften(alpha=1.0, beta=1.0, temperature=1.0)

            def score(self, queries, candidates):
                return torch.ones(len(queries))

        mixture = MixtureEstimator([BM25Estimator(compares="documents"), First(candidates_per_query=2)])
        queries, documents = (mixture.represent(column) for column in columns(tokenizer, QUERIES, DOCUMENTS))
        similarity = mixture.similarity(queries, documents)
        assert ((similarity > -math.inf).sum(dim=1) == 2).all()
        assert not similarity.isnan().any()


class TestInTheLoss:
    texts = (QUERIES, [*DOCUMENTS[:-1], DOCUMENTS[0]], NEGATIVES)

    def features(self, model):
        return [model.preprocess(column) for column in self.texts]

    @pytest.mark.parametrize("compares", ["queries", "documents", "positives"])
    @pytest.mark.parametrize("directions", [("query_to_doc",), ("query_to_doc", "doc_to_query")], ids=len)
    def test_cached_equals_plain_and_differs_from_its_parts(self, transformer_model, compares, directions):
        transformer_model.double()
        parts = [BM25Estimator(compares=compares), NearDuplicateEstimator(compares=compares, size=1)]
        options = {"directions": directions}
        plain = SoftInfoNCELoss(transformer_model, MixtureEstimator(parts), **options)(
            self.features(transformer_model)
        )
        cached = CachedSoftInfoNCELoss(transformer_model, MixtureEstimator(parts), mini_batch_size=3, **options)
        assert cached(self.features(transformer_model)).item() == pytest.approx(plain.item(), rel=1e-6)
        for part in parts:
            alone = SoftInfoNCELoss(transformer_model, part, **options)(self.features(transformer_model))
            assert abs(alone - plain) > 1e-4

    def test_it_trains_and_adds_no_parameters(self, static_model, tmp_path):
        loss = SoftInfoNCELoss(static_model, MixtureEstimator([BM25Estimator(compares="positives"), "near-duplicate"]))
        assert {name for name, _ in loss.named_parameters()} == {
            f"model.{name}" for name, _ in static_model.named_parameters()
        }
        before = static_model.encode(QUERIES[0])
        SentenceTransformerTrainer(
            model=static_model,
            args=arguments(output_dir=str(tmp_path)),
            train_dataset=Dataset.from_dict(dict(zip(("query", "code", "negative"), self.texts, strict=True))),
            loss=loss,
        ).train()
        assert abs(static_model.encode(QUERIES[0]) - before).max() > 0

    def test_every_part_is_introduced_to_the_model(self, static_model):
        class Refusing(BM25Estimator):
            def attach(self, model):
                raise ValueError(f"not {type(model).__name__}")

        with pytest.raises(ValueError, match="not SentenceTransformer"):
            SoftInfoNCELoss(static_model, MixtureEstimator(["bm25", Refusing()]))

    def test_nan_of_a_part_is_refused(self, static_model):
        class Nan(BM25Estimator):
            def similarity(self, queries, candidates):
                return torch.full((len(queries), len(candidates)), math.nan)

            def for_batch(self, candidates, known=None):
                return self

        loss = SoftInfoNCELoss(static_model, MixtureEstimator(["bm25", Nan()]))
        with pytest.raises(ValueError, match=r"similarity .*holds nan at row 0"):
            loss(self.features(static_model))

    @pytest.mark.filterwarnings("ignore::st_softinfonce.losses.InputWarning")
    def test_only_empty_texts_train(self, static_model):
        loss = SoftInfoNCELoss(static_model, MixtureEstimator([BM25Estimator(compares="positives"), "near-duplicate"]))
        assert torch.isfinite(loss([static_model.preprocess([""] * 8)] * 2))


def test_the_configuration_is_readable_json():
    config = MixtureEstimator(["bm25", NearDuplicateEstimator(compares="queries")], weights=[3, 1]).get_config_dict()
    assert json.loads(json.dumps(config)) == config
    assert [part["estimator"] for part in config["estimators"]] == ["bm25", "near-duplicate"]
    assert [part["share"] for part in config["estimators"]] == [0.75, 0.25]
    assert config["estimators"][1]["estimator_options"] == {"size": 3, "compares": "queries"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimators": []}, r"estimators must be a list of at least one estimator or name, got \[\]"),
        ({"estimators": "bm25"}, "estimators must be a list of at least one estimator or name, got 'bm25'"),
        ({"estimators": ["bm52"]}, "estimator must be one of .*'bm25'.*, got 'bm52'"),
        ({"estimators": ["bm25"], "weights": [1, 2]}, r"weights must hold one number for each of 1 .*, got \[1, 2\]"),
        ({"estimators": ["bm25"], "weights": [0]}, "weights must be a finite number above 0, got 0"),
        (
            {"estimators": ["bm25", "near-duplicate"]},
            r"all compare the same, got bm25 \(queries\), near-duplicate \(positives\).*their option 'compares'",
        ),
    ],
    ids=["none", "string", "unknown", "count", "zero", "compares"],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        get_estimator("mixture", **options)


def test_without_estimators_it_says_what_is_missing():
    with pytest.raises(TypeError, match=r"'mixture' .*'estimators'. Its options: estimators, weights"):
        get_estimator("mixture")
