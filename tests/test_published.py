"""Each published way to handle negatives is an estimator and a treatment: equal to its class, or to its formula."""

import copy

import pytest
import reference as loops
import reference_losses as reference
import torch
from conftest import ALL_DIRECTIONS, DOCUMENTS, NEGATIVES, QUERIES, assert_same, features, pairwise, run
from sentence_transformers.sentence_transformer.losses import (
    CachedGISTEmbedLoss,
    GISTEmbedLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import dot_score
from test_losses import Table
from tiny_models import make_transformer_model, save_bert

from st_softinfonce import CachedSoftInfoNCELoss, SoftInfoNCELoss
from st_softinfonce.estimators import (
    BM25Estimator,
    IdenticalEstimator,
    KnownRelevanceEstimator,
    NearDuplicateEstimator,
    TrainedModelEstimator,
)
from st_softinfonce.treatments import Distill, Mask, Promote, Soften

COLUMNS = [QUERIES, DOCUMENTS, NEGATIVES, NEGATIVES[::-1]]
# With copies of a positive among the documents and the negatives.
TEXTS = [QUERIES, [*DOCUMENTS[:-1], DOCUMENTS[0]], [NEGATIVES[0], DOCUMENTS[0], *NEGATIVES[2:]]]
# What half precision may move the cosine of two vectors by: the table holds such. Thresholds must be further off.
HALF_PRECISION = 2 * 2**-11

KINDS = {"plain": False, "cached": True}
kinds = pytest.mark.parametrize("cached", KINDS.values(), ids=KINDS.keys())


@pytest.fixture
def model(transformer_model):
    """In float64, so that only a difference in what is computed can show."""
    return transformer_model.double()


def make_guide(folder):
    """A teacher with other weights than the student, whose similarities are well apart."""
    options = {"seed": 39, "max_position_embeddings": 32, "initializer_range": 1.0}
    return make_transformer_model(save_bert(folder, **options))


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    return make_guide(tmp_path_factory.mktemp("guide")).eval()


def make(cached, model, estimator, treatment=None, **options):
    """Plain, or cached in chunks that do not divide the batch."""
    if cached:
        return CachedSoftInfoNCELoss(model, estimator, treatment, mini_batch_size=3, **options)
    return SoftInfoNCELoss(model, estimator, treatment, **options)


def similarities(guide, texts=COLUMNS):
    with torch.no_grad():
        return [guide(column)["sentence_embedding"] for column in features(guide, texts)]


def assert_differ(one, other):
    assert abs(one[0] - other[0]) > 1e-4


class TestGISTEmbed:
    """(trained-model with cosines, Mask by margin) is GISTEmbedLoss, except where its blocks hold something else."""

    # contrast_anchors, contrast_positives, the number of negatives. With negatives, doc_to_doc holds more than
    # contrast_positives does.
    BLOCKS = (
        (False, False, 0),
        (True, False, 0),
        (False, True, 0),
        (True, True, 0),
        (False, False, 1),
        (True, False, 1),
        (True, False, 2),
    )

    def ours(self, cached, model, guide, margin, relative, anchors=False, positives=False, temperature=0.05):
        directions = ["query_to_doc", *["query_to_query"] * anchors, *["doc_to_doc"] * positives]
        teacher = TrainedModelEstimator(guide, normalize=True)
        treatment = Mask(margin=margin, relative=relative)
        return make(cached, model, teacher, treatment, scale=1 / temperature, directions=directions)

    def host(self, cached, model, guide, margin, relative, anchors=False, positives=False, temperature=0.05):
        options = {"contrast_anchors": anchors, "contrast_positives": positives, "margin": margin}
        options |= {"margin_strategy": "relative" if relative else "absolute", "temperature": temperature}
        if cached:
            return CachedGISTEmbedLoss(model, guide, mini_batch_size=3, **options)
        return GISTEmbedLoss(model, guide, **options)

    @pairwise(cached=KINDS, relative=[False, True], margin_is_0=[False, True], block=BLOCKS)
    def test_equals_the_hosts_loss_and_the_formula(self, model, guide, cached, relative, margin_is_0, block):
        anchors, positives, columns = block
        margin = 0.0 if margin_is_0 else 0.1 if relative else 0.05
        texts = COLUMNS[: 2 + columns]
        batch = features(model, texts)
        options = {"margin": margin, "relative": relative, "anchors": anchors, "positives": positives}
        ours = run(model, self.ours(cached, model, guide, **options), batch)
        directions = ("query_to_doc", *["query_to_query"] * anchors, *["doc_to_doc"] * positives)
        formula, distances = reference.guided(similarities(guide, texts), 0.05, margin, relative, directions)
        assert_same(ours, run(model, reference.written(model, formula), batch))
        # Something is masked, something is not, and nothing hangs on half precision.
        assert 0 < sum(distance > 0 for distance in distances) < len(distances)
        assert min(map(abs, distances)) > HALF_PRECISION
        if cached or columns < 2:  # GISTEmbedLoss itself takes one negative at most
            assert_same(ours, run(model, self.host(cached, model, guide, **options), batch))
        unguided = make(cached, model, None, scale=20.0, directions=directions)
        assert_differ(ours, run(model, unguided, batch))

    def test_with_negatives_doc_to_doc_holds_more_than_contrast_positives(self, model, guide):
        """The host compares a positive with the other positives, we with every document of the other queries."""
        texts = COLUMNS[:3]
        batch = features(model, texts)
        options = {"margin": 0.05, "relative": False, "positives": True}
        ours = run(model, self.ours(False, model, guide, **options), batch)
        host = run(model, self.host(False, model, guide, **options), batch)
        formula, _ = reference.guided(similarities(guide, texts), 0.05, 0.05, False, ("query_to_doc", "doc_to_doc"))
        assert_same(ours, run(model, reference.written(model, formula), batch))
        assert_differ(ours, host)
        assert ours[0] > host[0]  # by what the further candidates add

    def test_a_query_is_no_candidate_for_itself_where_its_positive_is_a_copy_of_it(self, model, guide):
        """The host's mask drops a query's own copy as 1 > the threshold; a positive with similarity 1 keeps it."""
        texts = [QUERIES, [QUERIES[0], *DOCUMENTS[1:]]]
        batch = features(model, texts)
        options = {"margin": 0.0, "relative": False, "anchors": True}
        formula, _ = reference.guided(similarities(guide, texts), 0.05, 0.0, False, ("query_to_doc", "query_to_query"))
        ours = run(model, self.ours(False, model, guide, **options), batch)
        assert_same(ours, run(model, reference.written(model, formula), batch))
        # The host's first row has its positive twice, once as a negative: its loss is at least log 2.
        host = run(model, self.host(False, model, guide, **options), batch)
        assert host[0] > ours[0] + 0.01


class TestHardness:
    """That it equals the host's is in test_host_equality."""

    @kinds
    def test_what_is_masked_stays_masked(self, model, cached):
        teacher = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
        options = {"hardness_mode": "all_negatives", "hardness_strength": 5.0}
        batch = features(model, COLUMNS[:3])
        loss = make(cached, model, Table(teacher, "documents"), Mask(top_k=15), **options)
        assert loss(batch, None) == 0  # only the positive is left


class TestSelfMask:
    @pytest.fixture
    def model(self, guide):
        """A student that finds some candidates more similar than the positive by more than 0.1."""
        return copy.deepcopy(guide).double().requires_grad_()  # a teacher is frozen

    @pairwise(
        cached=KINDS,
        negatives=[0, 1, 2],
        directions={"one-way": ("query_to_doc",), "four-ways": ALL_DIRECTIONS},
        margin=[0.1, 1e-3],
    )
    def test_equals_the_formula(self, model, cached, negatives, directions, margin):
        batch = features(model, COLUMNS[: 2 + negatives])
        formula = reference.self_masked(margin, 20.0, directions)
        treatment = None if margin == 0.1 else Mask(margin=-margin)
        ours = run(model, make(cached, model, "self", treatment, directions=directions), batch)
        assert_same(ours, run(model, reference.written(model, formula), batch))
        columns = torch.eye(8).split(8) * (2 + negatives)
        assert (
            0 < formula.masked < sum(map(len, reference.rows_of(columns[0], columns[1:], 1.0, directions=directions)))
        )
        assert_differ(ours, run(model, make(cached, model, None, directions=directions), batch))

    def test_equals_the_formula_by_dot_products(self, model):
        batch = features(model, COLUMNS[:3])
        formula = reference.self_masked(0.5, 0.3, ALL_DIRECTIONS, reference.dot)
        options = {"scale": 0.3, "similarity_fct": dot_score, "directions": ALL_DIRECTIONS}
        ours = run(model, SoftInfoNCELoss(model, "self", Mask(margin=-0.5), **options), batch)
        assert_same(ours, run(model, reference.written(model, formula), batch))
        assert formula.masked > 0


class TestThePaper:
    """The numbers of the authors' own code are compared in test_functional."""

    @kinds
    @pytest.mark.parametrize("rule", [{"top_k": 2}, {"ratio": 0.4}], ids=["top-2", "ratio"])
    def test_cancellation_equals_the_formula_with_negatives(self, model, cached, rule):
        teacher = torch.rand(8, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        batch = features(model, COLUMNS[:3])
        ours = run(model, make(cached, model, Table(teacher, "documents"), Mask(**rule)), batch)
        formula = reference.cancelled(teacher.tolist(), 20.0, **rule)
        assert_same(ours, run(model, reference.written(model, formula), batch))


class TestSeveralPositives:
    # Two pairs share a document, three queries a group.
    DOCUMENTS = (DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[0], *DOCUMENTS[3:])
    GROUPS = (0, 1, 0, 2, 1, 3, 0, 4)

    @kinds
    @pytest.mark.parametrize("compares", ["positives", "queries"])
    def test_known_groups_are_supervised_contrastive_learning(self, model, cached, compares):
        documents = [document if i != 2 else "def list path" for i, document in enumerate(self.DOCUMENTS)]
        keys = documents if compares == "positives" else QUERIES
        estimator = KnownRelevanceEstimator(dict(zip(keys, self.GROUPS, strict=True)), model, compares=compares)
        relevant = [[one == other for other in self.GROUPS] for one in self.GROUPS]
        batch = features(model, [QUERIES, documents])
        ours = run(model, make(cached, model, estimator, Promote()), batch)
        # The estimator's similarities, and so the targets, are in float32.
        formula = reference.several_positives(relevant, 20.0)
        assert_same(ours, run(model, reference.written(model, formula), batch), rtol=1e-6, atol=1e-7)
        # Taken out instead, they are no candidates at all.
        masked = run(model, make(cached, model, estimator), batch)
        formula = reference.cancelled([[float(same) for same in row] for row in relevant], 20.0, ratio=1.0)
        assert_same(masked, run(model, reference.written(model, formula), batch))
        assert_differ(ours, masked)

    def test_copies_taken_out_are_no_candidates(self, model):
        texts = [QUERIES, list(self.DOCUMENTS)]
        ours = run(model, SoftInfoNCELoss(model, IdenticalEstimator()), features(model, texts))
        teacher = [[1.0 if one == other else 0.0 for other in self.DOCUMENTS] for one in self.DOCUMENTS]
        formula = reference.cancelled(teacher, 20.0, ratio=1.0)
        assert_same(ours, run(model, reference.written(model, formula), features(model, texts)))


class TestListwiseDistillation:
    @pairwise(cached=KINDS, negatives=[0, 1, 2], options=[(0.5, 0.05), (1.0, 0.5)])
    def test_equals_the_formula(self, model, guide, cached, negatives, options):
        share, temperature = options
        texts = COLUMNS[: 2 + negatives]
        batch = features(model, texts)
        teacher = TrainedModelEstimator(guide, normalize=True)
        # What is distilled is what the table holds, in half precision.
        of_queries, *of_documents = (column.half() for column in similarities_normalized(guide, texts))
        rows = (of_queries.float() @ torch.cat(of_documents).float().T).tolist()
        ours = run(model, make(cached, model, teacher, Distill(share=share, temperature=temperature)), batch)
        formula = reference.listwise(rows, share, temperature, 20.0)
        # The teacher's float32 similarities come off a matrix product whose order of addition is not fixed.
        assert_same(ours, run(model, reference.written(model, formula), batch), rtol=1e-5, atol=1e-6)
        assert_differ(ours, run(model, make(cached, model, None), batch))

    @kinds
    def test_several_estimators_take_out_before_one_is_distilled(self, model, cached):
        """DESIGN's second form: copies are taken out by one estimator, another's ranking is learnt of what remains."""
        teacher = torch.randn(8, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        documents = list(TestSeveralPositives.DOCUMENTS)
        texts = [QUERIES, documents, NEGATIVES]
        flat = documents + NEGATIVES
        gone = {(i, j) for i in range(8) for j in range(16) if j != i and flat[i] == flat[j]}
        assert len(gone) == 2
        treatments = [(Table(teacher, "documents"), Distill(temperature=0.7)), ("identical", Mask(above=0.5))]
        ours = run(model, make(cached, model, "bm25", treatments=treatments), features(model, texts))
        formula = reference.listwise(teacher.tolist(), 0.5, 0.7, 20.0, taken_out=gone)
        assert_same(ours, run(model, reference.written(model, formula), features(model, texts)))


def similarities_normalized(guide, texts):
    return [torch.nn.functional.normalize(column, dim=-1) for column in similarities(guide, texts)]


class TestSoftening:
    """Eq. 4 of the paper over four directions, by what each block holds."""

    OPTIONS = (1.3, 0.7, 0.5, 0.1)

    def judged(self, table, directions, columns, compares):
        size = 8
        documents = size * columns
        one_way = table[:size, size : size + documents] if compares == "documents" else table[:size, :size]
        unknown = [None] * (documents - one_way.size(1))
        rows = {"query_to_doc": [row + unknown for row in one_way.tolist()]}
        if compares == "documents":
            square = table.clone()
            back = square[:size, size : 2 * size].T
            queries, both = square[:size, :size], square[size : 2 * size, size : size + documents]
        else:
            back, queries, both = one_way.T, one_way, None
        rows["doc_to_query"] = back.tolist()
        rows["query_to_query"] = queries.tolist()
        rows["doc_to_doc"] = both.tolist() if both is not None else rows["query_to_doc"]
        # A query's own documents are no candidates there, and count nowhere.
        rows["doc_to_doc"] = [
            [value if j % size != i or j == i else None for j, value in enumerate(row)]
            for i, row in enumerate(rows["doc_to_doc"])
        ]
        return {direction: rows[direction] for direction in ALL_DIRECTIONS if direction in directions}

    @pairwise(
        cached=KINDS,
        negatives=[0, 1, 2],
        compares=["queries", "documents"],
        options={
            "one-way": {"directions": ("query_to_doc",)},
            "both-ways": {"directions": ("query_to_doc", "doc_to_query")},
            "apart": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
            "four-ways": {"directions": ALL_DIRECTIONS},
            "documents": {"directions": ("doc_to_doc", "query_to_doc")},
        },
    )
    def test_equals_the_formula(self, model, cached, negatives, compares, options):
        columns = 1 + negatives
        generator = torch.Generator().manual_seed(1)
        table = torch.randn(8 * (1 + columns), 8 * (1 + columns), generator=generator, dtype=torch.float64)
        batch = features(model, COLUMNS[: 1 + columns])
        alpha, beta, temperature, least = self.OPTIONS
        loss = make(cached, model, Table(table, compares), Soften(alpha, beta, temperature, least), **options)
        judged = self.judged(table, options["directions"], columns, compares)
        formula = reference.softened(judged, self.OPTIONS, 20.0, apart="partition_mode" in options)
        assert_same(run(model, loss, batch), run(model, reference.written(model, formula), batch))
        assert_differ(run(model, loss, batch), run(model, make(cached, model, None, **options), batch))

    @kinds
    @pytest.mark.parametrize("name", ["bm25", "near-duplicate"])
    def test_estimators_of_documents_equal_the_formula_on_their_scores(self, model, cached, name):
        read = [[[word for word in text.split() if word in model.tokenizer.get_vocab()] for text in c] for c in TEXTS]
        documents = read[1] + read[2]
        if name == "bm25":
            estimator = BM25Estimator(compares="documents", tokens="all")
            scores = loops.bm25(read[0], documents, 1.2, 0.75)
        else:  # against the positive
            estimator = NearDuplicateEstimator()
            scores = [[loops.jaccard(one, other, 5) for other in documents] for one in read[1]]
        batch = features(model, TEXTS)
        ours = run(model, make(cached, model, estimator, Soften(*self.OPTIONS)), batch)
        formula = reference.softened({"query_to_doc": scores}, self.OPTIONS, 20.0)
        assert_same(ours, run(model, reference.written(model, formula), batch), rtol=1e-5, atol=1e-7)


def test_the_formulas_without_anything_are_the_hosts_loss(model):
    """Guards the formulas themselves."""
    batch = features(model, COLUMNS)
    host = run(model, MultipleNegativesRankingLoss(model, directions=ALL_DIRECTIONS), batch)
    nothing = reference.self_masked(10.0, 20.0, ALL_DIRECTIONS)
    assert_same(run(model, reference.written(model, nothing), batch), host)
    host = run(model, MultipleNegativesRankingLoss(model), batch)
    for formula in (
        reference.several_positives([[False] * 24] * 8, 20.0),
        reference.listwise([[0.0] * 24] * 8, 0.0, 1.0, 20.0),
        reference.cancelled([[0.0] * 8 + [0.0] * 16] * 8, 20.0, top_k=0),
    ):
        assert_same(run(model, reference.written(model, formula), batch), host)
