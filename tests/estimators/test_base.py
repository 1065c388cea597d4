"""TextColumn over the host's input layouts, and the checks that hold plugins to the contract."""

import pytest
import torch
from conftest import QUERIES

from st_softinfonce import SimilarityEstimator, Soften, SoftInfoNCELoss, TextColumn, get_estimator
from st_softinfonce.estimators.base import join_rows


class Constant(SimilarityEstimator):
    treatment = Soften(1.0, 1.0, 1.0)
    compares = "queries"

    def represent(self, column):
        return torch.zeros(len(column), 1)

    def similarity(self, queries, candidates):
        return torch.zeros(len(queries), len(candidates))


TEXTS = ["read a file", "", "sort unheardof list"]


def words_of(column, tokenizer):
    return [[tokenizer.convert_ids_to_tokens(i) for i in row if i >= 0] for row in column.content_ids.tolist()]


class TestTextColumn:
    def padded(self, tokenizer, side):
        tokenizer.padding_side = side
        return dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))

    def flattened(self, tokenizer):
        rows = tokenizer(TEXTS)["input_ids"]
        lengths = torch.tensor([0, *(len(row) for row in rows)])
        return {
            "input_ids": torch.tensor([[token for row in rows for token in row]]),
            "cu_seq_lens_q": lengths.cumsum(0),
            "max_length_q": int(lengths.max()),
        }

    @pytest.mark.parametrize("layout", ["right", "left", "flattened", "bags"])
    def test_every_layout_gives_the_same_content(self, layout, tokenizer, static_model):
        if layout == "bags":
            features = static_model.preprocess(TEXTS)
            column = TextColumn(features, static_model.tokenizer)
        else:
            features = self.flattened(tokenizer) if layout == "flattened" else self.padded(tokenizer, layout)
            column = TextColumn(features, tokenizer)
        assert len(column) == 3
        assert words_of(column, tokenizer) == [["read", "a", "file"], [], ["sort", "list"]]

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("kind", [int, torch.tensor], ids=["int", "tensor"])
    def test_the_prompt_is_no_content(self, tokenizer, side, kind):
        tokenizer.padding_side = side
        features = dict(tokenizer(["find the read a file", "find the sort"], padding=True, return_tensors="pt"))
        column = TextColumn(features | {"prompt_length": kind(3)}, tokenizer)  # [CLS] find the
        assert words_of(column, tokenizer) == [["read", "a", "file"], ["sort"]]

    def test_the_prompt_length_the_host_reports_covers_the_prompt(self, transformer_model):
        features = transformer_model.preprocess(["read a file"], prompt="find the ")
        column = TextColumn(features, transformer_model.tokenizer)
        assert column.texts == ["read a file"]

    def test_texts_are_what_the_model_sees_decoded_once(self, tokenizer, monkeypatch):
        features = dict(tokenizer(["read a file of bytes"], truncation=True, max_length=5, return_tensors="pt"))
        calls = []
        decode = tokenizer.batch_decode
        monkeypatch.setattr(tokenizer, "batch_decode", lambda rows: calls.append(rows) or decode(rows))
        column = TextColumn(features, tokenizer)
        assert column.texts == ["read a file"]
        assert column.texts == ["read a file"]
        assert len(calls) == 1

    def test_from_texts_reads_as_the_model_would(self, transformer_model):
        expected = TextColumn(transformer_model.preprocess(QUERIES), transformer_model.tokenizer)
        made = TextColumn.from_texts(QUERIES, transformer_model.tokenizer)
        assert torch.equal(made.content_ids, expected.content_ids)

    def test_a_column_without_token_ids_is_refused(self):
        with pytest.raises(ValueError, match=r"features must hold the tensor 'input_ids', got the keys \['pixel"):
            TextColumn({"pixel_values": torch.zeros(1)})

    def test_texts_without_a_tokenizer_are_refused(self):
        with pytest.raises(ValueError, match="tokenizer is None"):
            _ = TextColumn({"input_ids": torch.ones(1, 2, dtype=torch.int64)}).texts


class TestContract:
    """What a plugin answers is checked where the loss asks for it."""

    def ask(self, model, **answers):
        estimator = type("Plugin", (Constant,), {name: lambda *_, answer=it: answer for name, it in answers.items()})()
        return SoftInfoNCELoss(model, estimator)([model.preprocess(QUERIES[:4]) for _ in range(3)])

    @pytest.mark.parametrize(
        ("returned", "message"),
        [
            ([1, 2], r"Plugin.represent\(\) must return a tensor .* of 4 texts, or a tuple of such, got list"),
            (torch.zeros(3, 4), r"one row for each of 4 texts, .*got the shape \(3, 4\)"),
            (torch.zeros(4, 4, requires_grad=True), r"Plugin.represent\(\) returned a tensor that requires a grad"),
            (torch.zeros(4, 4, device="meta"), "on cpu, got one on meta"),
            (torch.zeros(4, 4).to_sparse(), r"got a sparse one. Call .to_dense\(\)"),
            (torch.zeros(()), r"got the shape \(\)"),
            ((), "got tuple"),
            ((torch.zeros(4, 1), (torch.zeros(3),)), r"got the shape \(3,\)"),
        ],
        ids=["no-tensor", "rows", "gradient", "device", "sparse", "scalar", "empty", "nested-part"],
    )
    def test_a_broken_representation_is_refused(self, static_model, returned, message):
        with pytest.raises(ValueError, match=message):
            self.ask(static_model, represent=returned)

    @pytest.mark.parametrize(
        ("returned", "message"),
        [
            (None, r"Plugin.similarity\(\) must return .* of shape \(4, 4\) \(queries, candidates\), got NoneType"),
            (torch.zeros(4, 2), r"shape \(4, 4\) .*, got torch.float32 of shape \(4, 2\)"),
            (torch.zeros(4, 4, dtype=torch.int64), r"floating-point tensor .*, got torch.int64"),
            (torch.zeros(4, 4, requires_grad=True), r"Plugin.similarity\(\) returned a tensor that requires a grad"),
            (torch.zeros(4, 4).to_sparse(), r"got a sparse one. Call .to_dense\(\)"),
        ],
        ids=["no-tensor", "wrong-shape", "integers", "gradient", "sparse"],
    )
    def test_a_broken_similarity_is_refused(self, static_model, returned, message):
        with pytest.raises(ValueError, match=message):
            self.ask(static_model, represent=torch.zeros(4, 1), similarity=returned)

    def test_for_batch_must_return_an_estimator(self, static_model):
        with pytest.raises(TypeError, match=r"Plugin.for_batch\(\) must return an estimator, got .*Return self"):
            self.ask(static_model, represent=torch.zeros(4, 1), for_batch=3)

    def test_an_estimator_is_never_differentiated_through(self, static_model):
        layer = torch.nn.Linear(1, 1)

        class Learning(Constant):
            def represent(self, column):
                return layer(torch.ones(len(column), 1))

            def similarity(self, queries, candidates):
                return queries @ candidates.T

        SoftInfoNCELoss(static_model, Learning())([static_model.preprocess(QUERIES) for _ in range(2)]).backward()
        assert layer.weight.grad is None

    def test_an_estimator_is_no_module(self):
        class Module(torch.nn.Module, Constant):
            pass

        with pytest.raises(TypeError, match=r"estimator is an nn\.Module, which the trainer would move"):
            get_estimator(Module())

    def test_something_else_is_refused_by_its_type(self):
        with pytest.raises(TypeError, match="must be the name of an estimator or a SimilarityEstimator, got dict"):
            get_estimator({})

    @pytest.mark.parametrize(
        ("attribute", "value", "message"),
        [
            ("treatment", (1, 1, 1), r"estimator must have a 'treatment' such as Soften\(.*, got \(1, 1, 1\)"),
            ("compares", "code", "estimator must have 'compares' set to one of .*'documents'.*, got 'code'"),
        ],
        ids=["treatment", "compares"],
    )
    def test_a_missing_declaration_is_refused(self, attribute, value, message):
        estimator = Constant()
        setattr(estimator, attribute, value)
        with pytest.raises(ValueError, match=message):
            get_estimator(estimator)


class TestJoin:
    def test_narrower_rows_are_filled_up(self):
        joined = join_rows([torch.ones(1, 3), torch.ones(2, 1)], padding=-1)
        assert joined.tolist() == [[1, 1, 1], [1, -1, -1], [1, -1, -1]]

    def test_different_widths_without_padding_are_refused(self):
        with pytest.raises(ValueError, match=r"shapes \[\(1, 3\), \(2, 1\)\].*Set the estimator's 'padding'"):
            join_rows([torch.ones(1, 3), torch.ones(2, 1)], padding=None)

    def test_tuples_are_joined_part_by_part_each_with_its_padding(self):
        one = torch.ones(1, 2), (torch.ones(1, 1), torch.ones(1))
        other = torch.ones(1, 1), (torch.ones(1, 3), torch.ones(1))
        first, (second, third) = join_rows([one, other], padding=(-1, (7, None)))
        assert first.tolist() == [[1, 1], [1, -1]]
        assert second.tolist() == [[1, 7, 7], [1, 1, 1]]
        assert third.tolist() == [1, 1]


def test_writing_into_the_ids_leaves_the_features_alone(model):
    for layout in (model.preprocess(QUERIES), model.preprocess(QUERIES, prompt="find the ")):
        before = {name: value.clone() for name, value in layout.items() if isinstance(value, torch.Tensor)}
        column = TextColumn(layout, model.tokenizer)
        column.input_ids.fill_(5)
        column.attention_mask.fill_(False)
        column.content_ids.fill_(5)
        assert all(torch.equal(layout[name], value) for name, value in before.items())
