import ast
import json
import logging
import os
import random
import subprocess
import sys
import textwrap
import warnings
from collections import defaultdict
from pathlib import Path

import pytest
from datasets import Dataset

from st_softinfonce.data import MiningReport, mine_pairs

COLUMNS = ["query", "code", "language", "path", "name", "package", "version", "license", "line", "duplicate_group"]
GOOD = '''
def add_totals(first, second):
    """Add the totals of two orders."""
    total = first + second
    return total
'''


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(textwrap.dedent(content), encoding="utf-8")
    return folder


def function(name, doc="Add the totals of two orders.", body="total = first + second\n    return total"):
    return f'def {name}(first, second):\n    """{doc}"""\n    {body}\n'


def rows(paths, **options):
    return list(mine_pairs(paths, **options))


def mine_one(tmp_path, source, **options):
    found = rows(write(tmp_path / "one", {"module.py": source}), **options)
    assert len(found) == 1
    return found[0]


def dropped(tmp_path, source, **options):
    """The one rule that drops the one function of `source`, beside one that is kept."""
    report = MiningReport()
    kept = rows(write(tmp_path / "drop", {"a.py": GOOD, "b.py": source}), report=report, **options)
    assert [row["path"] for row in kept] == ["a.py"]
    (rule,) = [rule for rule, count in report.functions_dropped.items() if count]
    return rule


def skipped(report):
    return {rule: count for rule, count in report.files_skipped.items() if count}


# Columns


def test_columns_are_those_promised_and_hold_the_function(tmp_path):
    write(tmp_path, {"shop/__init__.py": "", "shop/orders.py": GOOD})
    pairs = mine_pairs(str(tmp_path))
    assert isinstance(pairs, Dataset)
    assert pairs.column_names == COLUMNS
    assert [feature.dtype for feature in pairs.features.values()] == ["string"] * 8 + ["int64"] * 2
    assert {name: value for name, value in pairs[0].items() if name != "duplicate_group"} == {
        "query": "Add the totals of two orders.",
        "code": "def add_totals(first, second):\n    total = first + second\n    return total",
        "language": "python",
        "path": "shop/orders.py",
        "name": "add_totals",
        "package": "shop",
        "version": "",
        "license": "",
        "line": 1 + GOOD.splitlines().index("def add_totals(first, second):"),
    }


def test_names_are_qualified_by_classes(tmp_path):
    source = "class Outer:\n    class Inner:\n" + textwrap.indent(function("method"), " " * 8) + function("plain")
    assert [row["name"] for row in rows(write(tmp_path, {"a.py": source}))] == ["Outer.Inner.method", "plain"]


# The query


@pytest.mark.parametrize(
    ("doc", "query"),
    [
        ("Add the\n    totals   here.\n\n    More text.", "Add the totals here."),
        ("Add the totals here.\n    :param x: number", "Add the totals here."),
        ("Add the totals here. :param x: number", "Add the totals here."),
        ("Add the totals here.\n    @param x number", "Add the totals here."),
        ("Add the totals here.\n    Args:\n        x: number", "Add the totals here."),
        ("Add the totals here.\n    Returns: a number", "Add the totals here."),
        ("Add the totals here.\n    Parameters\n    ----------\n    x : int", "Add the totals here."),
        ("Add the totals here.\n    >>> add(1)\n    2", "Add the totals here."),
        ("Add the totals here.\n    .. versionadded:: 3", "Add the totals here."),
        ("\n    Adding totals here\n    ==================\n\n    Text.", "Adding totals here"),
        ("add(x, y) -> int\n\n    Add the totals here.", "Add the totals here."),
        ("Add by :meth:`~shop.Order.add` the :func:`totals <x.y>`.", "Add by shop.Order.add the totals."),
        ("Add the totals here.\n    first (int, optional): number", "Add the totals here."),
        ("first (`Tensor` of shape `(n,)`)\n        Number of it.\n\n    Text.", None),
        ("Add by another\n    sum (of all): slow.", "Add by another sum (of all): slow."),
        ("Add totals: the args: and returns of it.", "Add totals: the args: and returns of it."),
    ],
    ids=[
        "paragraph", "sphinx", "inline sphinx", "epydoc", "google", "google inline", "numpy", "example", "directive",
        "title", "signature", "roles", "argument", "argument first", "brackets", "ordinary colons",
    ],
)  # fmt: skip
def test_query_is_the_first_paragraph_without_tags(tmp_path, doc, query):
    if query is None:
        assert dropped(tmp_path, function("add", doc)) == "query_too_short"
    else:
        assert mine_one(tmp_path, function("add", doc))["query"] == query


@pytest.mark.parametrize(
    ("literal", "query"),
    [
        (r'"Add the \x74otals\tof it."', "Add the totals of it."),
        (r'r"Add the \x74otals of it."', r"Add the \x74otals of it."),
        ('u"Add the totals of it."', "Add the totals of it."),
        ('"Add the " r"totals " \'of it.\'', "Add the totals of it."),
        ('("Add the "  # why\n     "totals of it.")', "Add the totals of it."),
        (r'"Add \d totals of it."', r"Add \d totals of it."),
        ('"""Add the \\\n    totals of it."""', "Add the totals of it."),
    ],
    ids=["escapes", "raw", "unicode", "concatenated", "parentheses", "invalid escape", "continued"],
)
def test_docstring_is_evaluated_as_python_does(tmp_path, literal, query):
    source = f"def add(first):\n    {literal}\n    total = first\n    return total\n"
    row = mine_one(tmp_path, source)
    assert row["query"] == query
    assert row["code"] == "def add(first):\n    total = first\n    return total"


@pytest.mark.parametrize(
    "literal",
    [
        'f"Add the totals {1}."',
        'b"Add the totals."',
        '"Add the totals." f"{1}"',
        '"Add the totals.",',
        '"Add %s totals" % 1',
    ],
    ids=["f-string", "bytes", "part f-string", "tuple", "expression"],
)
def test_other_expressions_are_no_docstring(tmp_path, literal):
    assert dropped(tmp_path, f"def add(first):\n    {literal}\n    x = first\n    return x\n") == "no_docstring"


# The filters


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        (function("f", "Two words."), "query_too_short"),
        (function("f", ":param first: the number of totals"), "query_too_short"),
        (function("f", "first (`int`, *optional*): The number of totals."), "query_too_short"),
        (function("f", "word\n    " * 257), "query_too_long"),
        (function("f", "Show the image <img src='x'> here."), "query_markup"),
        (function("f", "Make some text <b>bold</b> here."), "query_markup"),
        (function("f", "Follow the page at https://example.org here."), "query_markup"),
        (function("f", "Возвращает сумму двух чисел."), "query_not_english"),
        (function("f", "Gibt die Summe zurück und ist nicht für Texte."), "query_not_english"),
        (function("f", r"Broken \\ud800 text of this function.".replace("\\\\", "\\")), "query_not_english"),
        (function("f", body="return first"), "trivial"),
        (function("f", body="raise NotImplementedError(\n        first,\n        second,\n    )"), "trivial"),
        ('def f(first):\n    """Add the totals of it."""\n    # only a comment\n', "trivial"),
        ('def f(first): "Add the totals of it."\n', "trivial"),
        (function("f", body="print first\n    return second"), "syntax_error"),
        (function("f", body="total = (first\n    return total"), "syntax_error"),
        (function("__init__"), "special_method"),
        (function("__len__"), "special_method"),
        (function("test_add"), "test"),
        ("def outer():\n" + textwrap.indent(function("inner"), "    "), None),
        (function("f").replace("add_totals", "f").replace('"""Add the totals of two orders."""', ""), "no_docstring"),
    ],
    ids=[
        "short", "only tags", "only arguments", "long", "image", "tag", "link", "russian", "german", "surrogate",
        "trivial", "stub", "doc only", "doc only inline", "python 2", "unparsable", "constructor", "dunder", "test",
        "nested", "undocumented",
    ],
)  # fmt: skip
def test_filter_drops(tmp_path, source, rule):
    if rule is not None:
        assert dropped(tmp_path, source) == rule
        return
    report = MiningReport()
    mine_pairs(write(tmp_path, {"a.py": GOOD, "b.py": source}), report=report)
    assert report.functions_dropped["nested"] == 1
    assert report.functions_dropped["no_docstring"] == 1


@pytest.mark.parametrize(
    "doc",
    [
        "Scale μ by λ where a < b and c > d.",
        "Van der Corput sequence of numbers.",
        "Compute x -> y (in %), naïve but fast: 100 €.",
        "Convert tensor layout NCHW NHWC.",
    ],
    ids=["greek and comparison", "dutch name", "symbols", "no function words"],
)
def test_ordinary_english_with_symbols_is_kept(tmp_path, doc):
    assert mine_one(tmp_path, function("f", doc))["query"] == doc


def test_limits_are_options(tmp_path):
    write(tmp_path, {"a.py": function("f", "Two words.", "return first")})
    with pytest.warns(UserWarning, match="query_too_short 1"):
        assert rows(tmp_path) == []
    assert len(rows(tmp_path, min_query_tokens=2, min_code_lines=2, languages="python")) == 1
    with pytest.warns(UserWarning, match="query_too_long 1"):
        assert rows(tmp_path, min_query_tokens=1, max_query_tokens=1, min_code_lines=2) == []


def test_wrapped_signature_counts_as_one_line(tmp_path):
    source = 'def f(\n    first,\n    second,\n):\n    """Add the totals of it."""\n    return first\n'
    assert dropped(tmp_path, source) == "trivial"


# The code


def test_docstring_and_comments_are_removed_but_strings_stay(tmp_path):
    source = '''
    class Shop:
        @staticmethod
        def add(first,  # a comment
                second="#no comment"):
            # before
            """Add the totals of it."""  # after

            text = """# no comment

        kept as it is   """  # gone
            # whole line

            # another


            if first: # gone
                # gone
                return text + '#'
            def inner():
                "Inner documentation."
                return f"{first}#"
            return inner
    '''
    assert mine_one(tmp_path, source)["code"] == (
        "def add(first,\n"
        '        second="#no comment"):\n'
        '    text = """# no comment\n'
        "\n"
        '    kept as it is   """\n'
        "\n"
        "    if first:\n"
        "        return text + '#'\n"
        "    def inner():\n"
        '        return f"{first}#"\n'
        "    return inner"
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('"Add the totals of it."; a = 1\n    return a', "def f():\n    a = 1\n    return a"),
        ('"Add the totals of it."\n    a = 1 \\\n    # no\n    return a', "def f():\n    a = 1 \\\n\n    return a"),
        ('"Add the totals of it."\n    a = (1\n  + 2)\n    return a', "def f():\n    a = (1\n  + 2)\n    return a"),
        ('"Add the totals of it."\r\n    a = 1\r\n    return a', "def f():\n    a = 1\n    return a"),
    ],
    ids=["semicolon", "backslash", "brackets", "windows"],
)
def test_odd_layouts_still_parse(tmp_path, body, code):
    row = mine_one(tmp_path, f"def f():\n    {body}\n".encode())
    assert row["code"] == code
    ast.parse(row["code"])


def test_code_indented_by_tabs_is_dedented(tmp_path):
    source = 'class A:\n\tdef f(self):\n\t\t"Add the totals of it."\n\t\ta = 1\n\t\treturn a\n'
    assert mine_one(tmp_path, source)["code"] == "def f(self):\n\t\ta = 1\n\t\treturn a".replace("\t\t", "\t")


def without_docstring(node):
    node.decorator_list = []
    for inner in ast.walk(node):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if isinstance(inner, kinds) and len(inner.body) > 1 and ast.get_docstring(inner) is not None:
            del inner.body[0]
    return ast.dump(node)


def functions_by_name(source):
    found = defaultdict(set)
    pending = [("", ast.parse(source))]
    while pending:
        prefix, node = pending.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                pending.append((f"{prefix}{child.name}.", child))
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found[prefix + child.name].add(without_docstring(child))
            else:
                pending.append((prefix, child))
    return found


def test_mined_code_means_what_the_source_means():
    library = Path(os.__file__).parent
    modules = [
        library / name for name in ("argparse.py", "difflib.py", "tarfile.py", "email", "asyncio", "json", "xml")
    ]
    pairs = rows(modules)
    assert len(pairs) > 400
    functions = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer interpreters report invalid escapes of their own library
        for pair in pairs:
            if pair["path"] not in functions:
                functions[pair["path"]] = functions_by_name((library / pair["path"]).read_bytes())
            (mined,) = ast.parse(pair["code"]).body
            assert ast.dump(mined) in functions[pair["path"]][pair["name"]], (pair["path"], pair["name"])
            assert pair["query"] == " ".join(pair["query"].split())


# Duplicates


def test_same_code_counts_once_and_same_query_is_kept(tmp_path):
    report = MiningReport()
    write(
        tmp_path,
        {
            "a.py": function("f") + function("g"),
            "b.py": function("f", "Another text says so.", "total  =  first + second  # same\n\n    return total"),
        },
    )
    assert [(row["path"], row["name"]) for row in rows(tmp_path, report=report)] == [("a.py", "f"), ("a.py", "g")]
    assert report.functions_dropped["duplicate"] == 1


# Which files


def test_tests_generated_and_minified_files_are_skipped(tmp_path):
    report = MiningReport()
    write(
        tmp_path,
        {
            "a/code.py": GOOD,
            "a/tests/helper.py": function("b"),
            "a/test_x.py": function("c"),
            "a/x_test.py": function("d"),
            "a/conftest.py": function("e"),
            "a/idle_test/x.py": function("f"),
            "a/pb.py": "# Generated by the protocol buffer compiler.  DO NOT EDIT!\n" + function("g"),
            "a/auto.py": '"""This file is automatically generated."""\n' + function("h"),
            "a/mini.py": "x = '" + "y" * 5000 + "'\n" + function("i"),
            "a/.hidden.py": function("j"),
            "a/testing.py": function("k"),
            "a/generator.py": '"""Text is generated by this."""\nimport os\nHEAD = "# DO NOT EDIT"\n' + function("l"),
        },
    )
    found = rows(tmp_path, report=report)
    assert [row["name"] for row in found] == ["add_totals", "l", "k"]
    assert skipped(report) == {"hidden": 1, "test": 5, "generated": 2, "minified": 1}


def test_folders_that_hold_no_sources_of_their_own_are_not_entered(tmp_path):
    report = MiningReport()
    skipped_folders = [".git", "__pycache__", "node_modules", ".venv", "venv", "build", "dist", "lib/site-packages"]
    write(tmp_path, {f"{folder}/x.py": function(f"f{i}") for i, folder in enumerate(skipped_folders)})
    write(tmp_path, {"other_env/pyvenv.cfg": "", "other_env/x.py": function("g"), "code.py": GOOD})
    write(tmp_path, {"lib/build/__init__.py": function("kept")})
    assert [row["name"] for row in rows(tmp_path, report=report)] == ["add_totals", "kept"]
    counts = {rule: count for rule, count in report.folders_skipped.items() if count}
    assert counts == {"hidden": 2, "environment": 2, "build": 4, "vendored": 1}


@pytest.mark.parametrize(
    "folder",
    [".venv/lib/python3.11/site-packages", ".cache/code", "build", "tests"],
    ids=["packages", "hidden", "build", "tests"],
)
def test_given_folder_is_entered_wherever_it_lies(tmp_path, folder):
    write(tmp_path / folder, {"shop/orders.py": GOOD})
    (row,) = rows(tmp_path / folder)
    assert (row["package"], row["path"]) == ("shop", "shop/orders.py")


@pytest.mark.parametrize(
    ("root", "path", "package"),
    [
        ("", "shop/a/b.py", "shop"),
        ("shop", "shop/a/b.py", "shop"),
        ("shop/a", "shop/a/b.py", "shop"),
        ("shop/a/b.py", "shop/a/b.py", "shop"),
    ],
    ids=["above", "package", "subpackage", "file"],
)
def test_path_begins_with_the_topmost_package(tmp_path, root, path, package):
    write(tmp_path, {"shop/__init__.py": "", "shop/a/__init__.py": "", "shop/a/b.py": GOOD})
    (row,) = rows(tmp_path / root)
    assert (row["path"], row["package"]) == (path, package)


def test_package_of_source_folders_and_single_files(tmp_path):
    write(
        tmp_path,
        {
            "src/shop/x.py": function("a"),
            "lib/python/tool.py": function("b"),
            "single.py": function("c"),
            "python/__init__.py": "",
            "python/y.py": function("d"),
            "scripts/run.py": function("e"),
        },
    )
    found = {row["name"]: (row["package"], row["path"]) for row in rows(tmp_path)}
    assert found == {
        "a": ("shop", "shop/x.py"),
        "b": ("tool", "tool.py"),
        "c": ("single", "single.py"),
        "d": ("python", "python/y.py"),
        "e": ("scripts", "scripts/run.py"),
    }
    assert [row["package"] for row in rows(tmp_path / "single.py")] == ["single"]


def test_file_given_by_name_is_mined_whatever_its_name(tmp_path):
    write(tmp_path, {"test_helpers.py": GOOD})
    assert len(rows(tmp_path / "test_helpers.py")) == 1


def test_overlapping_paths_give_every_file_once(tmp_path):
    write(tmp_path, {"shop/__init__.py": "", "shop/a.py": GOOD, "shop/b.py": function("b")})
    report = MiningReport()
    found = rows([tmp_path / "shop" / "b.py", tmp_path, tmp_path / "shop", tmp_path], report=report)
    assert [row["path"] for row in found] == ["shop/b.py", "shop/a.py"]
    assert report.functions_dropped["duplicate"] == 0
    assert skipped(report) == {"overlap": 7}


def test_package_counts_once_however_many_folders_hold_it(tmp_path):
    write(tmp_path / "one", {"shop/a.py": GOOD})
    write(tmp_path / "two", {"shop/a.py": function("newer"), "shop/b.py": function("b")})
    report = MiningReport()
    found = rows([tmp_path / "one", tmp_path / "two"], report=report)
    assert [(row["path"], row["name"]) for row in found] == [("shop/a.py", "add_totals"), ("shop/b.py", "b")]
    assert skipped(report) == {"other_root": 1}


def test_links_are_followed_once_and_circles_end(tmp_path):
    write(tmp_path / "elsewhere", {"x.py": function("linked")})
    root = write(tmp_path / "root", {"zoo/a.py": GOOD})
    (root / "zoo" / "circle").symlink_to(root)
    (root / "alias").symlink_to(root / "zoo")
    (root / "again.py").symlink_to(root / "zoo" / "a.py")
    (root / "other").symlink_to(tmp_path / "elsewhere")
    (root / "self.py").symlink_to(root / "self.py")
    report = MiningReport()
    found = rows(root, report=report)
    assert [row["name"] for row in found] == ["add_totals", "linked"]
    assert found[1]["path"] == "other/x.py"
    assert report.functions_seen == 2
    assert report.problems == ["self.py (unreadable)"]


# Files that are broken


def test_broken_files_are_counted_and_never_fatal(tmp_path, caplog):
    write(
        tmp_path,
        {
            "bom.py": b"\xef\xbb\xbf" + function("bom", "Say é and more.").encode(),
            "cookie.py": b"# -*- coding: latin-1 -*-\n" + function("cookie", "Say é and more.").encode("latin-1"),
            "latin.py": function("latin", "Say é and more.").encode("latin-1"),
            "unknown.py": b"# coding: no-such-codec\n" + GOOD.encode(),
            "rot.py": b"# coding: rot13\n" + GOOD.encode(),
            "binary.py": b"\x00\x01\x02" + GOOD.encode(),
            "half.py": function("clean") + "\nx = = 3\n\ndef g(:\n    'No good at all.'\n    a = 1\n    return a\n",
            "large.py": function("large") + "#" * 80 + "\n" + "x = 1\n" * 2000,
            "empty.py": b"",
        },
    )
    report = MiningReport()
    with caplog.at_level(logging.WARNING, logger="st_softinfonce"):
        found = rows(tmp_path, report=report, max_file_bytes=10_000)
    assert [(row["name"], row["query"]) for row in found] == [
        ("bom", "Say é and more."),
        ("cookie", "Say é and more."),
        ("clean", "Add the totals of two orders."),
    ]
    assert skipped(report) == {"too_large": 1, "binary": 1, "undecodable": 3}
    assert report.files_mined + sum(report.files_skipped.values()) == report.files_seen == 9
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "5 files or folders could not be wholly read or parsed: binary.py (binary), half.py" in record.message


def test_deep_nesting_is_no_problem(tmp_path):
    deep = "(\n" * 5000 + "1" + ")\n" * 5000
    source = f'def f():\n    """Add the totals of it."""\n    x = {deep}\n    return x\n'
    chain = "def f():\n    '''Add the totals of it.'''\n    return (" + "a\n+ " * 5000 + "1)\n"
    parenthesised = (
        "def f():\n    " + "(\n" * 3000 + "'Add the totals of this.'" + ")\n" * 3000 + "    a = 1\n    return a\n"
    )
    functions = "".join(f"{' ' * level}def f{level}():\n" for level in range(300)) + " " * 300 + "pass\n"
    classes = "".join(f"{' ' * level}class C{level}:\n" for level in range(300)) + " " * 300 + "pass\n"
    write(tmp_path, {"a.py": source, "b.py": chain, "c.py": parenthesised, "d.py": functions, "e.py": classes})
    assert [row["path"] for row in rows(tmp_path)] == ["a.py", "b.py", "c.py"]


def test_unreadable_files_and_folders_are_counted(tmp_path, monkeypatch):
    write(tmp_path, {"a.py": GOOD, "b.py": function("b"), "c/d.py": function("d")})
    scan, open_file = os.scandir, Path.open

    def refuse_folder(path):
        if Path(path).name == "c":
            raise PermissionError
        return scan(path)

    def refuse_file(path, *args, **kwargs):
        if path.name == "b.py":
            raise FileNotFoundError
        return open_file(path, *args, **kwargs)

    monkeypatch.setattr(os, "scandir", refuse_folder)
    monkeypatch.setattr(Path, "open", refuse_file)
    report = MiningReport()
    assert [row["name"] for row in rows(tmp_path, report=report)] == ["add_totals"]
    assert skipped(report) == {"unreadable": 1}
    assert report.folders_skipped["unreadable"] == 1
    assert report.problems == [f"{tmp_path.name}/c (unreadable)", "b.py (unreadable)"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipe_is_not_waited_for(tmp_path):
    write(tmp_path, {"a.py": GOOD})
    os.mkfifo(tmp_path / "b.py")
    report = MiningReport()
    assert len(rows(tmp_path, report=report)) == 1
    assert skipped(report) == {"unreadable": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_name_of_undecodable_bytes_does_no_harm(tmp_path):
    write(tmp_path, {"a.py": GOOD})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.py")).write_text(function("b"))
    assert [row["path"] for row in rows(tmp_path)] == ["a.py", "b\ufffd.py"]


# Nothing there


def test_missing_path_is_named_before_anything_is_mined(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"paths must exist, got '.*nowhere': check its spelling"):
        mine_pairs([write(tmp_path, {"a.py": GOOD}), tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": []}, "paths must name at least one file or folder, got none"),
        ({"languages": ()}, r"languages must name some of \[.*'python'.*\], got none"),
        ({"languages": ("python", "cobol")}, r"languages must name some of \[.*'python'.*\], got 'cobol': choose"),
        ({"min_query_tokens": 0}, "min_query_tokens must be an integer of at least 1, got 0"),
        ({"max_file_bytes": 1e6}, "max_file_bytes must be an integer of at least 1, got 1000000.0"),
        ({"max_query_tokens": 2}, r"max_query_tokens must be at least min_query_tokens \(3\), got 2"),
    ],
    ids=["no paths", "no language", "unknown language", "zero", "float", "crossed"],
)
def test_bad_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        mine_pairs(**{"paths": write(tmp_path, {"a.py": GOOD}), **options})


def test_file_of_no_known_language_is_refused(tmp_path):
    write(tmp_path, {"notes.txt": "text"})
    with pytest.raises(ValueError, match=r"files ending in one of \['.py', .*\], got '.*notes.txt'"):
        mine_pairs(tmp_path / "notes.txt")


def test_empty_folder_gives_an_empty_dataset_and_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="0 source files and 0 functions seen; dropped: nothing"):
        pairs = mine_pairs(tmp_path)
    assert pairs.num_rows == 0
    assert pairs.column_names == COLUMNS
    assert [feature.dtype for feature in pairs.features.values()] == ["string"] * 8 + ["int64"] * 2


def test_warning_says_which_rules_left_nothing(tmp_path):
    write(tmp_path, {"a.py": function("test_a"), "site-packages/x.py": GOOD, "tests/y.py": GOOD})
    with pytest.warns(UserWarning, match="dropped: files test 1, folders environment 1, functions test 1") as caught:
        mine_pairs(tmp_path)
    assert caught[0].filename == __file__


# The report


def test_every_function_is_kept_or_counted_under_one_rule(tmp_path, caplog):
    report = MiningReport(functions_seen=99)
    library = Path(os.__file__).parent
    with caplog.at_level(logging.INFO, logger="st_softinfonce"):
        pairs = mine_pairs([library / "json", library / "logging", library / "textwrap.py"], report=report)
    assert report.functions_kept == pairs.num_rows > 50
    assert report.functions_seen == report.functions_kept + sum(report.functions_dropped.values())
    assert report.files_seen == report.files_mined + sum(report.files_skipped.values())
    source = [
        path.read_text()
        for path in (*(library / "json").iterdir(), *(library / "logging").iterdir())
        if path.suffix == ".py"
    ]
    source.append((library / "textwrap.py").read_text())
    nodes = [node for text in source for node in ast.walk(ast.parse(text))]
    assert report.functions_seen == sum(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in nodes)
    assert str(report) in caplog.text


def test_report_is_an_aligned_table(tmp_path):
    report = MiningReport()
    rows(write(tmp_path, {"a.py": GOOD + function("test_b"), "tests/b.py": "", ".git/c.py": ""}), report=report)
    assert str(report) == textwrap.dedent(
        """\
        files seen                        2
          mined                           1
          test                            1  test file, or in a test folder
        folders not entered               1
          hidden                          1  name begins with a dot
        functions seen                    2
          kept                            1
          test                            1  test function"""
    )


@pytest.mark.parametrize(
    ("shown", "expected"), [(True, True), (False, False), (None, False)], ids=["on", "off", "auto"]
)
def test_progress_is_shown_when_asked_for_or_in_a_terminal(tmp_path, capfd, shown, expected):
    rows(write(tmp_path, {"a.py": GOOD}), show_progress=shown)
    assert ("Mining" in capfd.readouterr().err) is expected


def test_progress_is_shown_in_a_terminal_unless_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    write(tmp_path, {"a.py": GOOD})
    rows(tmp_path, show_progress=False)
    assert capsys.readouterr().err == ""
    rows(tmp_path)
    assert "Mining" in capsys.readouterr().err


# Determinism


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    names = ["b.py", "a-b/x.py", "a/x.py", "a/y.py", "a/z/x.py", "c.py"]
    write(
        tmp_path,
        {name: function(f"f{i}") + function("same", body="a = 1\n    return a") for i, name in enumerate(names)},
    )
    (tmp_path / "link1").symlink_to(tmp_path / "a")
    for name in ("closed1", "closed2", "closed3"):
        (tmp_path / name).mkdir()
    scan = os.scandir

    def mine(order):
        def scan_in_other_order(path):
            if Path(path).name.startswith("closed"):
                raise PermissionError
            return order(list(scan(path)))

        monkeypatch.setattr(os, "scandir", scan_in_other_order)
        report = MiningReport()
        return rows(tmp_path, report=report), report

    expected = mine(lambda entries: sorted(entries, key=lambda entry: entry.name))
    assert [row["path"] for row in expected[0] if row["name"] != "same"] == sorted(names)
    assert len(expected[1].problems) == 3
    for seed in range(5):
        assert mine(lambda entries, seed=seed: random.Random(seed).sample(entries, len(entries))) == expected


def test_rows_do_not_depend_on_the_hash_seed(tmp_path):
    write(tmp_path, {f"p{i}/m{j}.py": function(f"f{i}{j}") for i in range(4) for j in range(4)})
    program = (
        "import json, sys, types\n"
        "package = types.ModuleType('st_softinfonce'); package.__path__ = [sys.argv[2]]\n"
        "sys.modules['st_softinfonce'] = package\n"
        "from st_softinfonce.data import mine_pairs, split_by_package\n"
        "pairs = mine_pairs(sys.argv[1])\n"
        "sys.stdout.write(json.dumps([list(pairs), list(split_by_package(pairs, 0.5)['test'])]))\n"
    )
    source = Path(sys.modules["st_softinfonce"].__file__).parent
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), str(source)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert json.loads(outputs.pop())[0] == rows(tmp_path)


# Several processes, limits, candidates


def test_rows_are_the_same_with_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("st_softinfonce.data.mining._FEW_FILES", 3)
    monkeypatch.setattr("st_softinfonce.data.mining.cores", lambda: 2)
    german = ("Gibt alle Werte der Liste zurück.", "Sucht den Benutzer anhand der Nummer.", "Liefert die Summe.")
    for i in range(6):
        for j in range(6):
            doc = german[j % 3] if i % 2 else "Add the totals of two orders."
            bare = f"def bare{i}{j}(first):\n    total = first\n    return total\n"
            write(tmp_path, {f"p{i}/m{j}.py": function(f"f{i}{j}", doc) + function("same", doc) + bare})
    reports = MiningReport(), MiningReport()
    alone = rows(tmp_path, report=reports[0], undocumented=True)
    assert alone == rows(tmp_path, report=reports[1], undocumented=True, num_proc=2)
    assert reports[0] == reports[1]
    assert {row["package"] for row in alone if row["query"]} == {"p0", "p2", "p4"}
    # What German documents is a candidate, as is what nothing does.
    assert {row["name"][:2] for row in alone if not row["query"]} == {"f1", "f3", "f5", "ba"}


@pytest.mark.parametrize("size", [2**31, 2**63, 2**100])
def test_huge_limits_are_no_problem(tmp_path, size):
    write(tmp_path, {"a.py": GOOD})
    assert len(rows(tmp_path, max_file_bytes=size, max_archive_bytes=size, max_query_tokens=size)) == 1


@pytest.mark.parametrize("options", [{"num_proc": 0}, {"num_proc": True}, {"seconds_per_file": -1}], ids=str)
def test_bad_numbers_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        rows(write(tmp_path, {"a.py": GOOD}), **options)


def test_candidates_are_kept_beside_the_same_pairs(tmp_path):
    bare = "def bare(first):\n    total = first\n    return total\n"
    write(tmp_path, {"a.py": bare + GOOD + function("short", "Two words.", "x = 1\n    return x")})
    report = MiningReport()
    found = rows(tmp_path, undocumented=True, report=report)
    assert [(row["name"], bool(row["query"])) for row in found] == [
        ("bare", False),
        ("add_totals", True),
        ("short", False),
    ]
    assert found[0]["code"] == bare.strip()
    assert [row["name"] for row in rows(tmp_path)] == ["add_totals"]
    assert (report.functions_kept, report.candidates_kept, report.functions_seen) == (1, 2, 3)


def test_files_of_other_languages_are_named(tmp_path):
    report = MiningReport()
    write(tmp_path, {"a.py": GOOD, "b.rs": "", "c.rs": "", "d.c": ""})
    rows(tmp_path, report=report)
    assert report.other_languages == {"C": 1, "Rust": 2}
    assert "Rust 2, C 1" in str(report)
