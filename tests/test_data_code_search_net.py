"""Reading CodeSearchNet from its three sources, on tiny hand-made trees of the same layouts."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from code_search_net_trees import (
    BROKEN,
    FUNCTIONS,
    LANGUAGES,
    prepared_row,
    raw_rows,
    url,
    write_hub,
    write_jsonl,
    write_original,
    write_prepared,
)
from datasets import Dataset, DatasetDict

from st_softinfonce.data import code_search_net, load_code_search_net
from st_softinfonce.data.code_search_net import PAPER_COUNTS, SPLITS, count_differences, source_fingerprint

COLUMNS = ["query", "code", "language", "url", "path", "name", "package"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("nested", [True, False], ids=["parent-folder", "language-folder"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_prepared_files_are_taken_row_by_row(tmp_path, language, nested, suffix):
    write_prepared(tmp_path / language, language, suffix=suffix)
    data = load_code_search_net(tmp_path if nested else str(tmp_path / language), language)
    assert isinstance(data, DatasetDict)
    assert {split: len(table) for split, table in data.items()} == {
        "train": 10, "validation": 4, "test": 8, "codebase": 20,
    }  # fmt: skip
    assert all(table.column_names == COLUMNS for table in data.values())
    assert data["test"][3] == {
        "query": "Return the number 3",
        "code": "def f3 ( ) : return 3",
        "language": language,
        "url": url(language, 3),
        "path": f"src/file3.{language}",
        "name": "",
        "package": "owner/repo0",
    }


def test_prepared_rows_that_the_filters_would_drop_are_kept(tmp_path):
    rows = [
        prepared_row("go", 0, query="two words"),
        prepared_row("go", 1, query="see https : //x.org <a> here"),
        prepared_row("go", 2, query="liest die Datei und gibt das nicht zurück"),
        prepared_row("go", 3, code="not code ((("),
        prepared_row("go", 4, query="word " * 300),
    ]
    write_prepared(tmp_path, "go", test=rows)
    assert len(load_code_search_net(tmp_path, "go")["test"]) == 5


def test_candidates_need_no_documentation(tmp_path):
    rows = [{"url": url("go", 1), "code_tokens": ["a"]}, prepared_row("go", 2)]
    write_prepared(tmp_path, "go", codebase=rows)
    assert load_code_search_net(tmp_path, "go")["codebase"]["query"][:] == ["", "Return the number 2"]


def test_only_the_splits_asked_for_are_needed(tmp_path):
    write_prepared(tmp_path, "go")
    (tmp_path / "train.jsonl").unlink()
    assert list(load_code_search_net(tmp_path, "go", splits=["codebase", "test"])) == ["test", "codebase"]
    with pytest.raises(FileNotFoundError, match=r"has no train.jsonl, which holds the split 'train': add it"):
        load_code_search_net(tmp_path, "go")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("source", ["hub", "original"])
def test_other_sources_are_filtered_and_their_comments_removed(tmp_path, language, source):
    if source == "hub":
        write_hub(tmp_path, [language])
    else:
        write_original(tmp_path / language, language)
    data = load_code_search_net(tmp_path, language)
    for position, split in enumerate(("train", "validation", "test")):
        assert data[split].column_names == COLUMNS
        assert sorted(data[split]["query"]) == [f"Read the file number {number} ." for number in range(6)]
        row = next(row for row in data[split] if "number 4" in row["query"])
        assert row == {
            "query": "Read the file number 4 .",
            "code": FUNCTIONS[language][1].replace("no comment", "no comment 4"),
            "language": language,
            "url": url(language, 100 * position + 4),
            "path": "src/4",
            "name": "R.read",
            "package": "owner/repo",
        }
    # Candidates are all of validation and test that parse, whatever their documentation.
    assert len(data["codebase"]) == 2 * (len(raw_rows(language)) - 1)
    assert set(data["test"]["url"]) < set(data["codebase"]["url"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_code_that_does_not_parse_is_dropped_and_whole_code_is_not(language):
    clean = code_search_net._clean
    assert clean(BROKEN[language], language) is None
    assert clean(FUNCTIONS[language][0], language) == FUNCTIONS[language][1]
    assert clean(FUNCTIONS[language][1], language) == FUNCTIONS[language][1]
    assert clean("  ", language) is None


def test_docstring_that_is_the_whole_body_stays():
    clean = partial(code_search_net._clean, language="python")
    assert clean('def f():\n    """Nothing."""') == 'def f():\n    """Nothing."""'
    assert clean('def f():\n    """D."""\n    def g():\n        "E."\n        return 1\n    return g') == (
        "def f():\n    def g():\n        return 1\n    return g"
    )
    assert clean('def f():\n    x = """a\n\n    # b"""\n\n    return x') == (
        'def f():\n    x = """a\n\n    # b"""\n\n    return x'
    )


@pytest.mark.parametrize("method", ["read(path) { return path; }", "async read() {}", "constructor(a) { super(a); }"])
def test_methods_of_javascript_parse(method):
    assert code_search_net._clean(method, "javascript") == method


def test_rows_of_other_languages_are_left_out_of_a_common_configuration(tmp_path):
    write_hub(tmp_path, ["go"])
    rows = Dataset.from_parquet(
        str(tmp_path / "go/test-00000-of-00001.parquet"), cache_dir=str(tmp_path / "c")
    ).to_list()
    for row in rows[:2]:
        row["language"] = "ruby"
    other = tmp_path / "other"
    other.mkdir()
    Dataset.from_list(rows).to_parquet(other / "test.parquet")
    assert len(load_code_search_net(other, "go", splits=["test"])["test"]) == 4


# The paper's counts


@pytest.mark.parametrize(("missing", "warned"), [(0, False), (3, True)])
def test_other_counts_than_the_papers_are_told_of_whole_data_only(tmp_path, monkeypatch, missing, warned):
    monkeypatch.setitem(PAPER_COUNTS, "go", (10, 4, 8 + missing, 20))
    write_prepared(tmp_path, "go")
    if warned:
        with pytest.warns(UserWarning, match=r"other numbers of rows.*: test 8 \(paper: 11\)\. Scores cannot"):
            load_code_search_net(tmp_path, "go")
    else:
        load_code_search_net(tmp_path, "go")


@pytest.mark.parametrize("language", LANGUAGES)
def test_counts_of_the_real_data_are_the_papers(language):
    folder = os.environ.get("CODE_SEARCH_NET")
    if folder is None:
        pytest.skip("CODE_SEARCH_NET names no folder with GraphCodeBERT's files")
    assert count_differences(load_code_search_net(Path(folder), language), language) == {}


def test_table_of_counts_has_all_languages_and_splits():
    assert set(PAPER_COUNTS) == set(LANGUAGES)
    assert all(len(counts) == len(SPLITS) for counts in PAPER_COUNTS.values())
    assert sum(counts[0] for counts in PAPER_COUNTS.values()) == 908_224


# Fingerprints


@pytest.mark.parametrize("write", [write_prepared, write_original], ids=["prepared", "original"])
def test_fingerprint_follows_the_content_of_local_files(tmp_path, write):
    write(tmp_path, "go")
    first = source_fingerprint(tmp_path, "go", ["test", "codebase"])
    assert source_fingerprint(tmp_path, "go", ["codebase", "test"]) == first
    assert source_fingerprint(tmp_path, "go", ["test"]) != first
    file = next(tmp_path.glob("**/*test*"))
    if file.is_dir():
        file = next(file.iterdir())
    write_jsonl(file, [prepared_row("go", 77)])
    assert source_fingerprint(tmp_path, "go", ["test", "codebase"]) != first


# Errors


def test_sources_and_arguments_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"language='rust' is not in CodeSearchNet: pass one of"):
        load_code_search_net(tmp_path, "rust")
    with pytest.raises(ValueError, match=r"splits='test' is not valid: pass some of"):
        load_code_search_net(tmp_path, "go", splits="test")
    with pytest.raises(ValueError, match=r"splits=\['valid'\] is not valid"):
        load_code_search_net(tmp_path, "go", splits=["valid"])
    with pytest.raises(FileNotFoundError, match=r"holds neither go/test.jsonl nor test.jsonl"):
        load_code_search_net(tmp_path, "go")
    with pytest.raises(FileNotFoundError, match=r"is no folder and no dataset id"):
        load_code_search_net(tmp_path / "absent" / "further", "go")
    with pytest.raises(FileNotFoundError, match=r"'absent/further' is no folder here, and no dataset that could be"):
        load_code_search_net("absent/further", "go")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"test.jsonl, line 2, is no JSON \("),
        ("[1]", r"line 2, is no JSON object"),
        ('{"url": "u", "code_tokens": ["a"]}', r"row 2, has no 'docstring_tokens': repair"),
        ('{"url": "", "code_tokens": ["a"], "docstring_tokens": ["b"]}', r"row 2, has no 'url'"),
        (
            '{"url": "u", "code_tokens": ["a"], "docstring_tokens": ["b"], "language": "php"}',
            r"row 2, is php, not go: pass the folder of that language",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    write_prepared(tmp_path, "go", test=[prepared_row("go", 0)])
    with (tmp_path / "test.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        load_code_search_net(tmp_path, "go")
