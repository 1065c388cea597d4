"""What is looked up by text is preprocessed as a real trainer's collator does it: prompts, tasks and lengths."""

import pytest
import torch
from conftest import DOCUMENTS, NEGATIVES, QUERIES
from datasets import Dataset
from sentence_transformers import (
    MultiVectorEncoder,
    MultiVectorEncoderTrainer,
    MultiVectorEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Router, StaticEmbedding, Transformer
from tiny_models import make_transformer_model, make_word_tokenizer

from st_softinfonce import (
    ByText,
    KnownQueries,
    KnownRelevanceEstimator,
    SoftInfoNCELoss,
    TextColumn,
    TrainedModelEstimator,
)
from st_softinfonce._host import column_tokenizer
from st_softinfonce.losses import MultiVectorSoftInfoNCELoss
from st_softinfonce.pair_batches import PairTexts

PROMPTS = {"query": "find the ", "code": "def ", "negative": "def "}
MAPPING = {"query": "query", "code": "document", "negative": "document"}
# As the trainer is told, and as what is looked up is told: for documents, and for queries.
SETTINGS = {
    "plain": ("plain", {}, {}, {}, {}),
    "prompts": ("plain", {"prompts": PROMPTS}, {"prompt": "def "}, {"prompt": "find the "}, {}),
    "router": (
        "router",
        {"prompts": PROMPTS, "router_mapping": MAPPING},
        {"prompt": "def ", "task": "document"},
        {"prompt": "find the ", "task": "query"},
        {},
    ),
    "router-roles": ("router", {"router_mapping": MAPPING}, {}, {}, {}),
    # Both columns are read as documents are.
    "router-one-task": (
        "router",
        {"router_mapping": dict.fromkeys(MAPPING, "document")},
        {"task": "document"},
        {"task": "document"},
        {},
    ),
    "lengths": ("multi-vector", {}, {}, {}, {"max_length": 5}),
    "lengths-by-task": ("multi-vector", {}, {}, {}, {"max_length": {"query": 4, "document": 7}}),
    "lengths-and-prompts": (
        "multi-vector",
        {"prompts": PROMPTS},
        {"prompt": "def "},
        {"prompt": "find the "},
        {"max_length": {"query": 6, "document": 8}},
    ),
    "lengths-of-other-tasks": (
        "multi-vector",
        {"router_mapping": {"query": "document", "code": "query", "negative": "query"}},
        {"task": "query"},
        {"task": "document"},
        {"max_length": {"query": 7, "document": 5}},
    ),
}


def make_student(kind, bert_folder):
    if kind == "plain":
        model = make_transformer_model(bert_folder)
        model.max_seq_length = 7
        return model
    if kind == "router":
        long = Transformer(bert_folder, max_seq_length=7)
        torch.manual_seed(0)
        bags = StaticEmbedding(make_word_tokenizer(), embedding_dim=long.get_embedding_dimension())
        routes = Router.for_query_document([bags], [long, Pooling(long.get_embedding_dimension())])
        return SentenceTransformer(modules=[routes], device="cpu")
    modules = [
        Transformer(bert_folder),
        MultiVectorMask(),
        Dense(16, 4, bias=False, activation_function=torch.nn.Identity()),
    ]
    return MultiVectorEncoder(modules=modules, device="cpu")


def columns_of_training(model, folder, **options):
    """What the loss is given of the data, made by the trainer's own collator."""
    data = Dataset.from_dict({"query": QUERIES, "code": DOCUMENTS, "negative": NEGATIVES})
    of_tokens = isinstance(model, MultiVectorEncoder)
    arguments = (MultiVectorEncoderTrainingArguments if of_tokens else SentenceTransformerTrainingArguments)(
        str(folder), report_to="none", use_cpu=True, per_device_train_batch_size=8, **options
    )
    trainer = (MultiVectorEncoderTrainer if of_tokens else SentenceTransformerTrainer)(
        model,
        arguments,
        train_dataset=data,
        loss=(MultiVectorSoftInfoNCELoss if of_tokens else SoftInfoNCELoss)(model, "identical"),
    )
    batch = trainer.get_train_dataloader().collate_fn(data.to_list())  # in the order of the data
    features, _ = trainer.collect_features(batch)
    return [
        TextColumn(column, column_tokenizer(model, column), role="document" if place else "query")
        for place, column in enumerate(features)
    ]


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS.keys())
def training(request, bert_folder, tmp_path):
    kind, options, of_documents, of_queries, lengths = request.param
    model = make_student(kind, bert_folder)
    columns = columns_of_training(model, tmp_path, **options, **lengths)
    return model, columns, options, of_documents | lengths, of_queries | lengths


def test_values_are_found_for_every_text_of_training(training):
    model, (queries, documents, negatives), _, of_documents, of_queries = training
    for texts, columns, role, options in (
        (QUERIES, [queries], "query", of_queries),
        (DOCUMENTS + NEGATIVES, [documents, negatives], "document", of_documents),
    ):
        known = ByText({text: place for place, text in enumerate(texts)}, model, role=role, **options)
        found = [value for column in columns for value in known.of(column)]
        missing = [value is None for value in found]
        assert sum(missing) == known.ambiguous < len(texts) / 2
        assert [value for value in found if value is not None] == [
            place for place, gone in enumerate(missing) if not gone
        ]


def test_groups_and_vectors_are_found_for_every_text_of_training(training, bert_folder):
    model, columns, options, of_documents, _ = training
    estimator = KnownRelevanceEstimator(dict.fromkeys(DOCUMENTS, "one"), model, **of_documents)
    assert estimator.represent(columns[1]).tolist() == [0] * 8
    table = TrainedModelEstimator(make_transformer_model(bert_folder), on_miss="ignore")
    read = {"prompts": options.get("prompts"), "tasks": options.get("router_mapping")}
    read["max_length"] = of_documents.get("max_length")
    texts = {"query": QUERIES, "code": DOCUMENTS, "negative": NEGATIVES}
    table.precompute(texts, model, show_progress=False, **read)
    for column in columns:
        assert not table.represent(column).isnan().any()


def test_the_queries_of_mined_negatives_are_found_and_read_as_in_training(training):
    model, (queries, documents, _), _, of_documents, of_queries = training
    options = of_documents | {f"query_{name}": value for name, value in of_queries.items() if name != "max_length"}
    # One query each, so that no two texts that are read alike disagree.
    for place, (query, document) in enumerate(zip(QUERIES, DOCUMENTS, strict=True)):
        found, known = KnownQueries({document: query}, model, **options).of(documents)
        assert known[place]
        ids = queries.content_ids[place]
        read = found.content_ids[place]
        assert read[read >= 0].tolist() == ids[ids >= 0].tolist()


def test_pairs_are_read_as_in_training(training):
    model, columns, options, of_documents, _ = training
    pairs = Dataset.from_dict({"query": QUERIES, "code": DOCUMENTS})
    by_column = {
        name: {column: value for column, value in mapping.items() if column != "negative"}
        for name, mapping in options.items()
    }
    texts = PairTexts(pairs, model=model, max_length=of_documents.get("max_length"), **by_column)
    rows = [3, 0, 7]
    for role, column in zip(("query", "document"), columns, strict=False):
        read = texts.column(rows, role)
        expected = [[token for token in column.key_ids[row].tolist() if token >= 0] for row in rows]
        assert [[token for token in row if token >= 0] for row in read.key_ids.tolist()] == expected
