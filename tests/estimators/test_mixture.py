"""Mixtures: the parts' similarities on one scale, and their representations side by side."""

import math

import pytest
import torch
from conftest import DOCUMENTS, QUERIES

from st_softinfonce import (
    BM25Estimator,
    MixtureEstimator,
    NearDuplicateEstimator,
    PairwiseEstimator,
    SimilarityEstimator,
    Soften,
    SoftInfoNCELoss,
    TextColumn,
    get_estimator,
)
from st_softinfonce.estimators.base import join_rows, map_rows


class Parts(SimilarityEstimator):
    """Random rows of any form, dtype and shape, which remember what they were and what they are compared as."""

    treatment = Soften(alpha=1.0, beta=1.0, temperature=2.0)

    def __init__(self, *rows, padding=None, compares="documents"):
        self.rows = rows  # (dtype, shape), the shape None for the length of the texts
        self.padding = padding
        self.compares = compares
        self.represented = []
        self.seen = None

    def represent(self, column):
        made = []
        for dtype, shape in self.rows:
            shape = (len(column), *((column.input_ids.size(1),) if shape is None else shape))
            high = 2 if dtype == torch.bool else 2**62 if dtype == torch.int64 else 100
            made.append(torch.randint(0, high, shape).to(dtype))
        self.represented.append(tuple(made) if len(made) > 1 else made[0])
        return self.represented[-1]

    def similarity(self, queries, candidates):
        self.seen = queries, candidates
        count = (queries[0] if isinstance(queries, tuple) else queries).size(0)
        other = (candidates[0] if isinstance(candidates, tuple) else candidates).size(0)
        return torch.zeros(count, other)


def flat(representation):
    """List what a representation holds, to compare with ==."""
    if isinstance(representation, tuple):
        return [flat(part) for part in representation]
    return representation.dtype, representation.tolist()


def columns(tokenizer, *texts):
    return [TextColumn.from_texts(column, tokenizer) for column in texts]


class TestRepresentations:
    @pytest.mark.parametrize("inside_another", [False, True], ids=["alone", "inside-another"])
    def test_every_part_gets_back_its_own_rows_of_every_column(self, tokenizer, inside_another):
        torch.manual_seed(0)
        parts = [
            Parts((torch.int64, None), padding=-1),
            Parts((torch.float16, (7,))),
            Parts((torch.float32, None), padding=0.5),
            Parts((torch.float64, (2, 3))),
            # Several rows a text, of one padding each or one for all.
            Parts((torch.int64, None), (torch.bool, ()), (torch.float32, None), padding=(-7, None, 2.5)),
            Parts((torch.int32, None), (torch.bfloat16, None), padding=9),
        ]
        mixture = MixtureEstimator(parts)
        if inside_another:
            mixture = MixtureEstimator([Parts((torch.int32, None), padding=4), mixture, Parts((torch.bool, (1,)))])
        long = ["read every file of a list and sort all the lines of the list", *DOCUMENTS[1:]]
        represented = [mixture.represent(column) for column in columns(tokenizer, QUERIES, DOCUMENTS, long)]
        candidates = join_rows(represented[1:], mixture.padding)
        queries = map_rows(lambda rows: rows[2:5], represented[0])
        mixture.for_batch(candidates).similarity(queries, candidates)
        widths = set()
        for part in parts:
            assert flat(part.seen[0]) == flat(map_rows(lambda rows: rows[2:5], part.represented[0]))

            paddings = part.padding if isinstance(part.padding, tuple) else (part.padding,) * len(part.rows)
            of_columns = [rows if isinstance(rows, tuple) else (rows,) for rows in part.represented[1:]]
            seen = part.seen[1] if isinstance(part.seen[1], tuple) else (part.seen[1],)
            assert len(seen) == len(part.rows)
            for rows, padding, made in zip(seen, paddings, zip(*of_columns, strict=True), strict=True):
                for some, expected in zip(rows.split(8), made, strict=True):
                    assert some.dtype == expected.dtype
                    if padding is None:
                        assert torch.equal(some, expected)
                        continue
                    widths.add(expected.size(1))
                    assert torch.equal(some[:, : expected.size(1)], expected)
                    assert (some[:, expected.size(1) :] == padding).all()
        assert len(widths) == 2  # something was padded


class TestScale:
    def test_logits_are_the_shares_of_the_parts_logits(self, tokenizer):
        near = NearDuplicateEstimator(size=2, compares="queries")
        (column,) = columns(tokenizer, QUERIES)
        bm25 = BM25Estimator()
        mixture = MixtureEstimator([bm25, near], weights=[3, 1], temperatures=[1.0, 0.1])
        rows = mixture.represent(column)
        words = bm25.represent(column)
        bm25 = bm25.similarity(words, words)
        shingles = near.represent(column)
        expected = 0.75 * bm25 / 1.0 + 0.25 * near.similarity(shingles, shingles) / 0.1
        torch.testing.assert_close(mixture.similarity(rows, rows), expected)
        some = map_rows(lambda part: part[3:5], rows)
        torch.testing.assert_close(mixture.for_batch(rows).similarity(some, rows), expected[3:5])
        assert mixture.shares == [0.75, 0.25]

    def test_an_estimator_mixed_with_itself_is_that_estimator(self, static_model):
        batch = [static_model.preprocess(column) for column in (QUERIES, DOCUMENTS)]
        alone = SoftInfoNCELoss(static_model, "bm25")(batch)
        mixed = SoftInfoNCELoss(static_model, MixtureEstimator(["bm25"] * 2, weights=[2, 5]))(batch)
        plain = SoftInfoNCELoss(static_model, None)(batch)
        torch.testing.assert_close(mixed, alone)
        assert abs(mixed - plain) > 1e-3

    def test_alpha_and_beta_are_means_by_share(self):
        other = Parts((torch.float32, (3,)), compares="queries")
        treatment = MixtureEstimator([BM25Estimator(), other], weights=[3, 1]).treatment
        assert treatment == Soften(alpha=1.375, beta=0.625, temperature=1.0)

    def test_a_part_that_does_not_soften_needs_temperatures(self):
        near = NearDuplicateEstimator(compares="queries")
        with pytest.raises(
            ValueError, match=r"temperatures must be given, one for each of 2.*: near-duplicate has no"
        ):
            MixtureEstimator(["bm25", near])
        treatment = MixtureEstimator([near, near], temperatures=[0.1, 0.2]).treatment
        assert treatment == Soften(alpha=1.3, beta=0.7, temperature=1.0)

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


def test_every_part_is_introduced_to_the_model(static_model):
    class Refusing(BM25Estimator):
        def attach(self, model):
            raise ValueError(f"not {type(model).__name__}")

    with pytest.raises(ValueError, match="not SentenceTransformer"):
        SoftInfoNCELoss(static_model, MixtureEstimator(["bm25", Refusing()]))


def test_the_configuration_names_the_parts():
    parts = ["bm25", NearDuplicateEstimator(compares="queries")]
    config = MixtureEstimator(parts, weights=[3, 1], temperatures=[1.0, 0.1]).get_config_dict()
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
        ({"estimators": ["self"]}, r"same texts, got self \(scores\).*treatments=\[\(estimator, treatment\)"),
        (
            {"estimators": ["bm25", "near-duplicate"]},
            r"all compare the same texts, got bm25 \(queries\), near-duplicate \(positives\).*their option 'compares'",
        ),
    ],
    ids=["none", "string", "unknown", "count", "zero", "scores", "compares"],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        get_estimator("mixture", **options)
