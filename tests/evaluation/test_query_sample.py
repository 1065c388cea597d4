import zipfile

import pytest

from evaluation.corpus.query_sample import documentation, draw

TEXTS = ["Return the list of all users.", "Close the connection.", "Gibt alle Werte der Liste zurück."]


@pytest.fixture
def archives(tmp_path):
    for name in ("a", "b"):
        functions = (
            f'def f{number}(first):\n    """{text}"""\n    print("{name}")\n    total = {number}\n    return total\n'
            for number, text in enumerate(TEXTS)
        )
        with zipfile.ZipFile(tmp_path / f"{name}-1.0.zip", "w") as file:
            file.writestr(f"{name}/code.py", "\n".join(functions))
    return list(tmp_path.iterdir())


def test_archives_take_turns_and_a_seed_gives_the_same_pairs(archives):
    rows = list(draw("python", archives, seed=3))
    assert [row["archive"] for row in rows] == ["a-1.0.zip", "b-1.0.zip"] * 2
    assert sorted(row["query"] for row in rows) == sorted(TEXTS[:2] * 2)
    assert rows == list(draw("python", archives[::-1], seed=3))
    orders = {tuple(row["query"] for row in draw("python", archives, seed)) for seed in range(20)}
    assert len(orders) > 1


def test_documentation_in_other_languages_is_drawn_with_its_verdict(archives):
    rows = list(draw("python", archives, seed=3, read=documentation))
    assert {(row["query"], row["dropped"]) for row in rows} == {(text, text == TEXTS[2]) for text in TEXTS}
