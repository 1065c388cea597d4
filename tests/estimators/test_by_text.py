"""What a user knows, found by what the model reads, and said when nothing is found."""

import warnings

import pytest
from conftest import DOCUMENTS, QUERIES

from st_softinfonce import ByText, TextColumn


def test_values_are_found_by_the_ids_that_the_model_reads(model):
    known = ByText(dict(zip(DOCUMENTS[:4], QUERIES, strict=False)), model)
    assert known.of(TextColumn(model.preprocess(DOCUMENTS), model.tokenizer)) == [*QUERIES[:4], *[None] * 4]


@pytest.mark.parametrize("hits", [False, True], ids=["none", "some"])
def test_a_mapping_that_finds_nothing_is_named_in_a_warning(static_model, hits):
    known = ByText({DOCUMENTS[0] if hits else "none": 1}, static_model)
    column = TextColumn(static_model.preprocess(DOCUMENTS), static_model.tokenizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(6):
            known.index(column)
    assert [("None of the texts" in str(w.message)) for w in caught] == ([] if hits else [True])
