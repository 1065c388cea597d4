"""Frozen encoders as estimators, through the real trainer: never trained, moved, replaced or saved."""

import copy

import pytest
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES, features, pairwise, with_dropout
from datasets import Dataset, DatasetDict, IterableDatasetDict
from sentence_transformers import (
    SentenceTransformer,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Router
from sentence_transformers.util import cos_sim
from tiny_models import make_transformer_model

from st_softinfonce import BM25Estimator, Distill, KnownQueries, SoftInfoNCELoss, TextColumn
from st_softinfonce.estimators.encoder import SimCSEEstimator, TrainedModelEstimator
from st_softinfonce.estimators.simcse_training import train_simcse
from st_softinfonce.vectors import TableError

KINDS = {"trained-model": TrainedModelEstimator, "simcse": SimCSEEstimator}
kinds = pytest.mark.parametrize("name", KINDS)


@pytest.fixture
def teacher(bert_folder):
    """Another model than the one in training, with dropout that must stay off."""
    model = make_transformer_model(bert_folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return with_dropout(model, 0.5)


def triplets():
    return Dataset.from_dict({"query": QUERIES * 2, "code": DOCUMENTS * 2, "negative": NEGATIVES * 2})


class TestSimilarity:
    def test_trained_model_gives_dot_products_of_query_and_document(self, teacher):
        estimator = TrainedModelEstimator(teacher)
        queries, documents = (
            estimator.represent(TextColumn.from_texts(texts, teacher.tokenizer, role=role))
            for texts, role in ((QUERIES, "query"), (DOCUMENTS, "document"))
        )
        expected = (
            teacher.encode(QUERIES, convert_to_tensor=True) @ teacher.encode(DOCUMENTS, convert_to_tensor=True).T
        )
        torch.testing.assert_close(estimator.similarity(queries, documents), expected, rtol=2e-3, atol=1e-2)

    def test_the_teacher_reads_with_its_own_tokenizer_prompts_and_length(self, static_model, teacher):
        teacher.prompts = {"query": "find the ", "document": "def "}
        teacher.max_seq_length = 5
        estimator = TrainedModelEstimator(teacher)
        student = features(static_model)
        for column, texts, role in ((student[0], QUERIES, "query"), (student[1], DOCUMENTS, "document")):
            text_column = TextColumn(column, static_model.tokenizer, role=role)
            encode = teacher.encode_query if role == "query" else teacher.encode_document
            torch.testing.assert_close(
                estimator.represent(text_column).float(), encode(texts, convert_to_tensor=True), rtol=2e-3, atol=2e-3
            )

    def test_the_same_text_as_query_and_as_document_is_kept_apart(self, teacher):
        teacher.prompts = {"query": "find the first ", "document": "def list "}
        estimator = TrainedModelEstimator(teacher)
        as_query, as_document = (
            estimator.represent(TextColumn.from_texts([*QUERIES, ""], teacher.tokenizer, role=role))
            for role in ("query", "document")
        )
        assert not torch.isclose(as_query, as_document).all(dim=1).any()

    def test_normalize_gives_the_cosines_of_query_and_document_and_distils(self, teacher):
        estimator = TrainedModelEstimator(teacher, normalize=True)
        columns = (
            TextColumn.from_texts(texts, teacher.tokenizer, role=role)
            for texts, role in ((QUERIES, "query"), (DOCUMENTS, "document"))
        )
        queries, documents = (teacher.encode(texts, convert_to_tensor=True) for texts in (QUERIES, DOCUMENTS))
        similarity = estimator.similarity(*map(estimator.represent, columns))
        torch.testing.assert_close(similarity, cos_sim(queries, documents), rtol=2e-3, atol=2e-3)
        assert estimator.treatment == Distill(share=0.5, temperature=0.05)
        assert estimator.get_config_dict()["vectors"] == "normalized"
        assert TrainedModelEstimator(teacher).get_config_dict()["vectors"] == "raw"

    def test_a_model_that_normalises_gets_the_temperature_of_cosines(self, teacher):
        normalised = [*teacher, Normalize()]
        assert TrainedModelEstimator(teacher).treatment.temperature == 5.0
        for modules in (normalised, [Router.for_query_document(normalised, normalised)]):
            estimator = TrainedModelEstimator(SentenceTransformer(modules=modules, device="cpu"))
            assert estimator.treatment.temperature == 0.1


class TestTable:
    @kinds
    @pytest.mark.parametrize("folder", [None, "table"], ids=["memory", "disk"])
    def test_precomputed_weights_are_those_without_a_table(self, transformer_model, teacher, tmp_path, name, folder):
        plain = SoftInfoNCELoss(transformer_model, KINDS[name](teacher))
        expected = plain(features(transformer_model), None)
        estimator = KINDS[name](teacher, table=folder and tmp_path / folder)
        estimator.precompute(triplets(), transformer_model, show_progress=False)
        encoded = count_encodings(teacher)
        loss = SoftInfoNCELoss(transformer_model, estimator)
        torch.testing.assert_close(loss(features(transformer_model), None), expected, rtol=1e-4, atol=1e-4)
        assert encoded == []
        unweighted = SoftInfoNCELoss(transformer_model, None)(features(transformer_model), None)
        assert abs(expected - unweighted) > 1e-4

    @kinds
    def test_a_text_is_encoded_once(self, transformer_model, teacher, name):
        loss = SoftInfoNCELoss(transformer_model, KINDS[name](teacher))
        encoded = count_encodings(teacher)
        for _ in range(3):
            loss(features(transformer_model), None)
        assert sum(map(len, encoded)) == (
            len({*QUERIES}) if name == "simcse" else len(QUERIES + DOCUMENTS + NEGATIVES)
        )

    def test_an_interrupted_build_goes_on(self, transformer_model, teacher, tmp_path):
        estimator = TrainedModelEstimator(teacher, table=tmp_path)
        encode, calls = teacher.encode_document, []

        def stop_early(texts, **options):
            calls.append(texts)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return encode(texts, **options)

        teacher.encode_document = stop_early
        with pytest.raises(KeyboardInterrupt):
            estimator.precompute(triplets(), transformer_model, chunk_size=5, show_progress=False)
        teacher.encode_document = encode
        again = TrainedModelEstimator(teacher, table=tmp_path)
        encoded = count_encodings(teacher)
        again.precompute(triplets(), transformer_model, chunk_size=5, show_progress=False)
        assert sum(map(len, encoded)) == len(DOCUMENTS + NEGATIVES) - len(set(calls[0]))

    def test_the_original_text_is_encoded_where_the_student_truncates(self, transformer_model, teacher):
        transformer_model.max_seq_length = 5
        estimator = TrainedModelEstimator(teacher)
        encoded = count_encodings(teacher)
        estimator.precompute({"query": QUERIES, "code": DOCUMENTS}, transformer_model, show_progress=False)
        assert [text for texts in encoded for text in texts] == QUERIES + DOCUMENTS
        encoded.clear()
        SoftInfoNCELoss(transformer_model, estimator)(features(transformer_model, (QUERIES, DOCUMENTS)), None)
        assert encoded == []

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ("weights", "teacher_revision='weights"),
            ("weights of a commit", "teacher_revision='abc, weights"),
            ("pooling", "teacher_modules"),
            ("pooling on a route", "teacher_modules"),
            ("the student's tokenizer", "student_tokenizer"),
        ],
    )
    def test_a_table_of_something_else_is_refused(self, transformer_model, teacher, tmp_path, change, named):
        def estimator(pooling="mean"):
            model = teacher
            if change.startswith("pooling"):
                modules = [teacher[0], Pooling(16, pooling)]
                routes = [Router.for_query_document(modules, [*teacher])]
                model = SentenceTransformer(modules=routes if "route" in change else modules, device="cpu")
            return SimCSEEstimator(model, table=tmp_path)

        if "commit" in change:
            teacher[0].model.config._commit_hash = "abc"
        estimator().precompute(triplets(), transformer_model, show_progress=False)
        if "weights" in change:
            with torch.no_grad():
                next(iter(teacher.parameters())).add_(1.0)
        if "student" in change:
            transformer_model.tokenizer.add_tokens(["another"])
        with pytest.raises(TableError, match=f"was made with {named}"):
            estimator("cls").precompute(triplets(), transformer_model)

    def test_equal_ids_of_two_tokenizers_are_two_texts(self, teacher, tokenizer):
        other = copy.deepcopy(tokenizer)
        other.add_tokens(["another"])
        estimator = SimCSEEstimator(teacher)
        estimator.represent(TextColumn.from_texts(QUERIES, tokenizer))
        encoded = count_encodings(teacher)
        estimator.represent(TextColumn.from_texts(QUERIES, other))
        assert sum(map(len, encoded)) == len(QUERIES)

    @pairwise(folder=[None, "table"], chunk_size=[1, 2, 4096], order={"forwards": 1, "backwards": -1})
    def test_texts_that_the_student_reads_alike_share_the_vector_of_the_first(
        self, transformer_model, teacher, tmp_path, chunk_size, order, folder
    ):
        transformer_model.max_seq_length = 5
        alike = ["def sort list and return first", "def sort list in file of bytes", "def sort list"][::order]
        other = "def read a file of bytes"
        estimator = TrainedModelEstimator(teacher, on_miss="ignore", table=folder and tmp_path / folder)
        documents = [alike[0], other, alike[0], alike[1], alike[2]]
        data = {"query": QUERIES[:5], "code": documents}
        shared = estimator.precompute(data, transformer_model, chunk_size=chunk_size, show_progress=False)
        assert shared == 2 + count_alike(QUERIES[:5], transformer_model)
        if folder:
            estimator = TrainedModelEstimator(teacher, on_miss="ignore", table=tmp_path / folder)
        features = transformer_model.preprocess(documents)
        column = TextColumn(features, transformer_model.tokenizer, role="document")
        vectors = estimator.represent(column).float()
        first = alike[0]
        expected = teacher.encode([first, other, first, first, first], convert_to_tensor=True)
        torch.testing.assert_close(vectors, expected, rtol=2e-3, atol=2e-3)
        read = teacher.encode([alike[1]], convert_to_tensor=True)
        assert not torch.allclose(vectors[:1], read, rtol=2e-3, atol=2e-3)

    def test_the_first_text_of_all_data_sets_gives_the_vector(self, transformer_model, teacher, tmp_path, caplog):
        transformer_model.max_seq_length = 5
        texts = ["sort list return first", "sort list return last", "sort list return bytes"]
        for text in (texts[0], texts[1], texts[2], texts[0]):
            estimator = SimCSEEstimator(teacher, table=tmp_path)
            assert estimator.precompute({"query": [text]}, transformer_model, show_progress=False) == 0
        column = TextColumn(transformer_model.preprocess(texts), transformer_model.tokenizer)
        first = teacher.encode(texts[:1] * 3, convert_to_tensor=True, normalize_embeddings=True)
        torch.testing.assert_close(estimator.represent(column).float(), first, rtol=2e-3, atol=2e-3)
        encoded = count_encodings(teacher)
        with caplog.at_level("INFO"):
            again = SimCSEEstimator(teacher, table=tmp_path)
            assert again.precompute({"query": texts}, transformer_model, show_progress=False) == 2
        assert encoded == []
        assert "2 texts share the vector of an earlier text" in caplog.text

    def test_a_text_that_is_cut_at_two_lengths_shares_no_vector_with_itself(self, transformer_model, teacher):
        transformer_model.max_seq_length = 6
        data = {"query": QUERIES, "code": DOCUMENTS, "negative": DOCUMENTS}
        estimator = TrainedModelEstimator(teacher, on_miss="ignore")
        prompts = {"negative": "def "}  # takes up length, so that the same documents are cut earlier
        alone = {name: data[name] for name in ("query", "code")}
        expected = TrainedModelEstimator(teacher).precompute(alone, transformer_model, show_progress=False)
        assert estimator.precompute(data, transformer_model, prompts=prompts, show_progress=False) == expected
        for prompt in (None, "def "):
            features = transformer_model.preprocess(DOCUMENTS, prompt=prompt)
            column = TextColumn(features, transformer_model.tokenizer, role="document")
            assert not estimator.represent(column).isnan().any()

    @pytest.mark.parametrize("option", ["prompts", "tasks"])
    def test_options_for_several_datasets_are_refused_with_the_remedy(self, transformer_model, teacher, option):
        with pytest.raises(
            ValueError, match=rf"{option} must be those of one dataset, got .*\['train'\].*each dataset"
        ):
            TrainedModelEstimator(teacher).precompute(
                triplets(), transformer_model, **{option: {"train": {"query": "query"}}}
            )

    def test_a_label_column_is_left_out_and_another_number_refused(self, transformer_model, teacher):
        data = triplets().add_column("label", [1.0] * 16)
        TrainedModelEstimator(teacher).precompute(data, transformer_model, show_progress=False)
        with pytest.raises(ValueError, match=r"dataset\['size'\]\[0\] must be a text, got 1. Remove .*remove_columns"):
            TrainedModelEstimator(teacher).precompute(data.add_column("size", [1] * 16), transformer_model)

    @pytest.mark.parametrize(
        ("data", "error", "message"),
        [
            (
                {"query": ["a", None]},
                ValueError,
                r"dataset\['query'\]\[1\] must be a text, got None. Remove such rows",
            ),
            ({"query": "sort"}, ValueError, r"dataset\['query'\] must be a list of texts, got a str. Put one"),
            ({"query": 3}, ValueError, r"dataset\['query'\] must be a list of texts, got a int"),
            ({}, ValueError, r"dataset must have the column of the queries, .*got \[\]"),
            ({"label": [1]}, ValueError, r"dataset must have the column of the queries, .*got \[\]"),
            (triplets().to_iterable_dataset(), TypeError, r"dataset must be a datasets.Dataset .*Iterable.*from_list"),
            (QUERIES, TypeError, r"dataset must be a datasets.Dataset or a mapping .*got list"),
            (DatasetDict(train=triplets()), ValueError, r"the 1 datasets \['train'\]. Call precompute"),
            (
                IterableDatasetDict(train=triplets().to_iterable_dataset()),
                ValueError,
                r"the 1 datasets \['train'\]. Call precompute",
            ),
        ],
        ids=["None", "str", "int", "empty", "labels", "streamed", "list", "datasets", "streams"],
    )
    def test_data_that_cannot_be_read_is_refused_before_anything_is_encoded(
        self, transformer_model, teacher, data, error, message
    ):
        encoded = count_encodings(teacher)
        with pytest.raises(error, match=message):
            SimCSEEstimator(teacher).precompute(data, transformer_model)
        assert encoded == []

    @pytest.mark.parametrize(
        ("factor", "norm"),
        [(1e8, r"[\de+.]+"), (1e-12, r"[\de.-]+"), (float("nan"), "nan")],
        ids=["inf", "zero", "nan"],
    )
    def test_vectors_that_half_precision_cannot_hold_are_refused(self, transformer_model, teacher, factor, norm):
        encode = teacher.encode_query
        teacher.encode_query = lambda texts, **options: encode(texts, **options) * factor
        message = (
            rf"model of the estimator 'trained-model' gives the text '{QUERIES[0]}' a vector of norm {norm}, which "
            r"half precision cannot hold.*Normalize"
        )
        with pytest.raises(ValueError, match=message):
            TrainedModelEstimator(teacher).precompute(triplets(), transformer_model, show_progress=False)
        with pytest.raises(ValueError, match=message):
            TrainedModelEstimator(teacher).represent(TextColumn.from_texts(QUERIES, teacher.tokenizer))

    def test_a_students_vocabulary_may_hold_lone_surrogates(self, teacher):
        """One of all characters has some."""
        words = [chr(number) for number in (0xD800, 0xDFFF, *map(ord, "abc"))]
        vocabulary = {word: number for number, word in enumerate(words)}

        class Characters:
            all_special_ids = ()
            unk_token_id = None

            def get_vocab(self):
                return vocabulary

            def batch_decode(self, rows, **_):
                return ["".join(words[number] for number in row) for row in rows]

        estimator = SimCSEEstimator(teacher)
        column = TextColumn({"input_ids": torch.tensor([[2, 3, 4]])}, Characters())
        assert estimator.represent(column).shape == (1, 16)
        assert BM25Estimator().represent(column).shape == (1, 3)
        encoded = count_encodings(teacher)
        vocabulary["\ud801"] = 5
        estimator.represent(TextColumn({"input_ids": column.input_ids}, Characters()))
        assert encoded == [["abc"]]  # another vocabulary, other keys

    def test_negatives_whose_query_is_not_known_are_no_misses(self, transformer_model, teacher):
        """pytest turns the warning into an error."""
        estimator = SimCSEEstimator(teacher, on_miss="ignore")
        estimator.precompute(triplets(), transformer_model, show_progress=False)
        known = KnownQueries({"def none true": "find none"}, transformer_model)
        negatives = TextColumn(transformer_model.preprocess(NEGATIVES), transformer_model.tokenizer)
        assert estimator.represent(known.of(negatives)[0]).isnan().all()  # the first column, which is looked at

    @pytest.mark.parametrize(
        ("on_miss", "consequence"),
        [("ignore", "they are treated as similar to nothing"), ("encode", "they are encoded as they come")],
    )
    def test_a_table_for_other_data_is_said_once(self, transformer_model, teacher, on_miss, consequence):
        estimator = SimCSEEstimator(teacher, on_miss=on_miss)
        estimator.precompute({"query": QUERIES[:6]}, transformer_model, show_progress=False)
        loss = SoftInfoNCELoss(transformer_model, estimator)
        with pytest.warns(UserWarning, match=f"The table of the estimator 'simcse' lacks 2 of 8 texts: {consequence}"):
            value = loss(features(transformer_model), None)
        torch.testing.assert_close(loss(features(transformer_model), None), value)
        expected = SoftInfoNCELoss(transformer_model, SimCSEEstimator(teacher))(features(transformer_model), None)
        assert torch.isfinite(value)
        assert (abs(value - expected) < 1e-4) == (on_miss == "encode")

    def test_ignoring_misses_of_an_empty_table_is_refused(self, transformer_model, teacher):
        loss = SoftInfoNCELoss(transformer_model, SimCSEEstimator(teacher, on_miss="ignore"))
        with pytest.raises(ValueError, match=r"on_miss='ignore' needs a table, .* Call precompute"):
            loss(features(transformer_model), None)


def count_alike(texts, model):
    """Count the different texts that read like an earlier one."""
    texts = dict.fromkeys(texts)
    return len(texts) - len({tuple(row) for row in model.preprocess(list(texts))["input_ids"].tolist()})


def count_encodings(teacher):
    """Record the texts that the teacher is asked to encode from now on."""
    encoded = []
    for method in ("encode_query", "encode_document"):
        encode = getattr(teacher, method)

        def record(texts, encode=encode, **options):
            encoded.append(texts)
            return encode(texts, **options)

        setattr(teacher, method, record)
    return encoded


class TestTrainSimCSE:
    @property
    def options(self):
        return {"disable_tqdm": True, "use_cpu": True, "epochs": 30, "batch_size": 8, "learning_rate": 5e-3}

    def test_a_query_becomes_more_similar_to_itself_than_to_others(self, teacher, tmp_path):
        with_dropout(teacher, 0.1)
        before = copy.deepcopy(teacher.state_dict())
        trained = train_simcse([*QUERIES, *QUERIES, " "], teacher, output_dir=tmp_path, **self.options)
        assert not trained.training
        assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items()), (
            "the base was trained"
        )

        def spread(model):
            vectors = model.eval().encode(QUERIES, convert_to_tensor=True)
            similarity = cos_sim(vectors, vectors)
            return (similarity.sum() - similarity.trace()) / (len(QUERIES) * (len(QUERIES) - 1))

        assert spread(trained) < spread(teacher) - 0.1
        assert SimCSEEstimator(trained).represent(TextColumn.from_texts(QUERIES, trained.tokenizer)).shape == (8, 16)

    def test_a_model_without_dropout_is_refused(self, static_model, tmp_path):
        with pytest.raises(ValueError, match="base_model has no dropout"):
            train_simcse(QUERIES, static_model, output_dir=tmp_path, **self.options)

    def test_too_few_queries_are_refused(self, teacher, tmp_path):
        with pytest.raises(ValueError, match="at least 2 different texts, got 1"):
            train_simcse(["read a file", "read a file"], teacher, output_dir=tmp_path, **self.options)
