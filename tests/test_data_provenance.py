# ruff: noqa: E501
import json

import pytest

from st_softinfonce.data import MiningReport, mine_pairs
from st_softinfonce.data.provenance import Provenance, license_from_text, read_provenance, to_spdx

FUNCTION = 'def add(first):\n    """Add the totals of it."""\n    total = first\n    return total\n'
MIT = "Copyright (c) me\n\nPermission is hereby granted, free of charge, to any person\nobtaining a copy of this software"
BSD = "Redistribution and use in source and binary forms, with or without\nmodification"
HEAD = "Metadata-Version: 2.4\nName: kit\nVersion: 1\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("PKG-INFO", HEAD + "License-Expression: MIT\nLicense: other\n", ("kit", "1", "MIT")),
        ("METADATA", HEAD + "License: BSD 3-Clause\n", ("kit", "1", "BSD-3-Clause")),
        ("METADATA", HEAD + "Classifier: License :: OSI Approved :: MIT License\n", ("kit", "1", "MIT")),
        ("METADATA", HEAD + "License: " + MIT.replace("\n", "\n        ") + "\n", ("kit", "1", "MIT")),
        ("package.json", json.dumps({"name": "@a/b", "version": "2", "license": "ISC"}), ("@a/b", "2", "ISC")),
        ("package.json", json.dumps({"name": "b", "licenses": [{"type": "MIT"}, {"type": "BSD-2-Clause"}]}), ("b", "", "MIT OR BSD-2-Clause")),
        ("composer.json", json.dumps({"name": "a/b", "license": ["MIT", "GPL-2.0-only"]}), ("a/b", "", "MIT OR GPL-2.0-only")),
        ("pyproject.toml", '[project]\nname = "p"\nversion = "3"\nlicense = {text = "MIT License"}\n', ("p", "3", "MIT")),
        ("pyproject.toml", '[tool.poetry]\nname = "p"\nversion = "3"\nlicense = "Apache-2.0"\n', ("p", "3", "Apache-2.0")),
        ("x.gemspec", 's.name = "g"\ns.version = \'4\'\ns.licenses = ["MIT"]\n', ("g", "4", "MIT")),
        ("pom.xml", '<project xmlns="u"><artifactId>j</artifactId><version>5</version><licenses><license><name>The Apache License, Version 2.0</name></license></licenses></project>', ("j", "5", "Apache-2.0")),
        ("go.mod", "module example.org/m\n\ngo 1.20\n", ("example.org/m", "", None)),
        ("control", "Package: d\nVersion: 1:6-7\n", ("d", "1:6-7", None)),
        ("copyright", "Format: f\n\nFiles: *\nLicense: Expat\n", ("", "", "MIT")),
        ("LICENSE.txt", MIT, ("", "", "MIT")),
        ("COPYING", "GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007", ("", "", "GPL-3.0")),
    ],
)  # fmt: skip
def test_file_tells_where_code_comes_from(name, content, expected):
    assert read_provenance([name], {name: content.encode()}.__getitem__) == Provenance(*expected)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("package.json", "[1, 2"),
        ("package.json", "[1, 2]"),
        ("package.json", json.dumps({"name": 7, "version": None, "license": {"x": 1}})),
        ("package.json", "[" * 100_000),
        ("pyproject.toml", "= = ="),
        ("pyproject.toml", "[project]\nlicense = 3\n"),
        ("pom.xml", "<project>"),
        ("METADATA", "\x00\x01"),
    ],
)
def test_broken_files_say_nothing(name, content):
    assert read_provenance([name], {name: content.encode()}.__getitem__) == Provenance()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Apache License\n   Version 2.0, January 2004", "Apache-2.0"),
        (f"{BSD}\nNeither the name of it", "BSD-3-Clause"),
        (BSD, "BSD-2-Clause"),
        ("                  GNU LESSER GENERAL PUBLIC LICENSE\n Version 2.1, February 1999", "LGPL-2.1"),
        (f"{MIT}\n\nThe parser is under the Apache License, Version 2.0", "MIT"),
        ("Mozilla Public License Version 2.0\n====", "MPL-2.0"),
        ("", ""),
    ],
)
def test_licence_is_told_by_its_text(text, name):
    assert license_from_text(text) == name


@pytest.mark.parametrize(
    ("name", "spdx"),
    [
        ("Expat", "MIT"),
        ("GPL-2+ or Artistic", "GPL-2.0-or-later OR Artistic"),
        ("LGPL-2.1", "LGPL-2.1-only"),
        ("MIT AND Apache-2.0", "MIT AND Apache-2.0"),
        ("MIT/X11", "MIT"),
        ("MIT OR GNU GPLv3", "MIT OR GPL-3.0-only"),
        ("GNU GPL v3 or later", "GPL-3.0-or-later"),
        ("GNU Lesser General Public License, version 2.1", "LGPL-2.1-only"),
        ("GNU Library General Public License v2 or later", "LGPL-2.0-or-later"),
        ("AGPLv3+", "AGPL-3.0-or-later"),
        ("Apache License v2.0", "Apache-2.0"),
        ("The BSD 3-Clause License", "BSD-3-Clause"),
        ("MPLv2.0", "MPL-2.0"),
        ("X11", "X11"),
        # Nothing says which.
        ("BSD", "BSD"),
        ("GNU GPL", "GNU GPL"),
        ("MIT style", "MIT style"),
        ("Something  else", "Something else"),
    ],
)
def test_names_become_spdx(name, spdx):
    assert to_spdx(name) == spdx


def test_nearest_files_of_a_checkout_count(tmp_path):
    files = {
        "repo/pyproject.toml": '[project]\nname = "kit"\nversion = "1.5"\n',
        "repo/LICENSE": MIT,
        "repo/src/shop/a.py": FUNCTION,
        "repo/src/shop/vendored/LICENSE": BSD,
        "repo/src/shop/vendored/b.py": FUNCTION.replace("add", "other"),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    for path in ("repo", "repo/src", "repo/src/shop"):
        rows = list(mine_pairs(tmp_path / path, languages="python"))
        assert [(row["package"], row["version"], row["license"]) for row in rows] == [
            ("shop" if path != "repo/src/shop" else rows[0]["package"], "1.5", "MIT"),
            (rows[1]["package"], "1.5", "BSD-2-Clause"),
        ]


def test_site_packages_are_known_by_their_distributions(tmp_path):
    info = tmp_path / "site-packages" / "kit-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(HEAD + "License-Expression: 0BSD\n")
    (info / "RECORD").write_text("shop/a.py,,\n")
    for package in ("shop", "other"):
        (tmp_path / "site-packages" / package).mkdir()
        (tmp_path / "site-packages" / package / "a.py").write_text(FUNCTION.replace("add", package))
    rows = list(mine_pairs(tmp_path / "site-packages", languages="python"))
    assert [(row["package"], row["version"], row["license"]) for row in rows] == [
        ("other", "", ""),
        ("shop", "1", "0BSD"),
    ]


def test_a_licence_that_is_not_known_hides_the_parents(tmp_path):
    files = {
        "repo/LICENSE": MIT,
        "repo/src/shop/a.py": FUNCTION,
        "repo/src/other/LICENSE": "All rights reserved. Nothing like the Apache License, Version 2.0.",
        "repo/src/other/b.py": FUNCTION.replace("add", "other"),
        "repo/third_party/x/c.py": FUNCTION.replace("add", "vendored"),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    rows = list(mine_pairs(tmp_path / "repo", languages="python"))
    licenses = {row["name"]: row["license"] for row in rows}
    assert licenses["add"] == "MIT"
    assert "vendored" not in licenses
    (row,) = mine_pairs(tmp_path / "repo" / "third_party", languages="python")
    assert (row["package"], row["license"]) == ("x", "")


def test_packages_of_one_scope_and_workspaces_are_told_apart(tmp_path):
    source = "/** Sum up the two numbers. */\nfunction {}(a, b) {{\n  return a + b;\n}}\n"
    places = {"node_modules/@s/a": "@s/a", "node_modules/@s/b": "@s/b", "apps/web": "@org/web", "apps/api": "@org/api"}
    for number, (place, name) in enumerate(places.items()):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.js").write_text(source.format(f"f{number}"))
        if place.startswith("apps"):
            (tmp_path / place / "package.json").write_text(json.dumps({"name": name, "version": str(number)}))
    for root in ("node_modules", "node_modules/@s", "apps"):
        rows = list(mine_pairs(tmp_path / root, languages="javascript"))
        assert sorted(row["package"] for row in rows) == sorted(
            name for place, name in places.items() if place.startswith(root)
        )


def places(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return {row["name"]: (row["package"], row["version"], row["license"], row["path"]) for row in mine_pairs(folder)}


def script(name):
    return f"/** Sum up the two numbers. */\nfunction {name}(a, b) {{\n  return a + b;\n}}\n"


def test_what_pip_installs_into_a_target_is_no_part_of_the_project(tmp_path):
    record = "shop/a.py,,\none.py,,\n"
    target = {
        "shop/a.py": FUNCTION.replace("add", "shop"),
        "one.py": FUNCTION.replace("add", "one"),
        "other/b.py": FUNCTION.replace("add", "other"),
        "kit-1.dist-info/METADATA": HEAD + "License: MIT\n",
        "kit-1.dist-info/RECORD": record,
    }
    files = {f"libs/{name}": content for name, content in target.items()}
    files |= {"app/main.py": FUNCTION.replace("add", "main"), "LICENSE": BSD}
    assert places(tmp_path, files) == {"main": ("app", "", "BSD-2-Clause", "app/main.py")}
    # Each is its distribution's, and what no distribution holds is nobody's: not the project's around them.
    assert places(tmp_path / "libs", {}) == {
        "one": ("one", "1", "MIT", "one.py"),
        "other": ("other", "", "", "other/b.py"),
        "shop": ("shop", "1", "MIT", "shop/a.py"),
    }


def test_submodules_workspaces_and_modules_have_what_is_their_own(tmp_path):
    files = {
        ".git/HEAD": "",
        "LICENSE": MIT,
        "package.json": json.dumps({"name": "root", "version": "1", "license": "MIT"}),
        "src/a.js": script("a"),
        "lib/sub/.git": "gitdir: elsewhere",
        "lib/sub/b.js": script("b"),
        "packages/w/package.json": json.dumps({"name": "@o/w"}),
        "packages/w/src/d.js": script("d"),
        "packages/v/package.json": json.dumps({"name": "@o/v", "version": "7", "license": "ISC"}),
        "packages/v/e.js": script("e"),
        "node_modules/m/package.json": json.dumps({"name": "m", "version": "2", "license": "ISC"}),
        "node_modules/m/f.js": script("f"),
        "node_modules/@s/n/lib/g.js": script("g"),
    }
    assert places(tmp_path / "repo", files) == {
        "a": ("root", "1", "MIT", "root/src/a.js"),
        "b": ("sub", "", "", "sub/b.js"),
        "d": ("@o/w", "", "MIT", "@o/w/src/d.js"),
        "e": ("@o/v", "7", "ISC", "@o/v/e.js"),
    }
    assert places(tmp_path / "repo" / "node_modules", {}) == {
        "f": ("m", "2", "ISC", "m/f.js"),
        "g": ("@s/n", "", "", "@s/n/lib/g.js"),
    }


def test_encodings_are_those_that_files_declare(tmp_path):
    method = "# Sums up the two numbers (naïvely).\ndef {}(a, b)\n  c = a\n  c + b\nend\n"
    files = {
        "a.rb": "# encoding: ASCII-8BIT\n" + method.format("a"),
        "b.rb": "# encoding: binary\n" + method.format("b"),
        "c.rb": ("# encoding: iso-8859-1\n" + method.format("c")).encode("latin-1"),
        "d.rb": ("# encoding: ASCII-8BIT\n" + method.format("d")).encode("latin-1"),
        "e.rb": b"\xef\xbb\xbf" + method.format("e").encode(),
        "f.rb": "# encoding: nonsense\n" + method.format("f"),
        "g.py": ("# coding: cp1252\n" + FUNCTION.replace("add", "g")).encode("cp1252"),
        "h.py": FUNCTION.encode("utf-16"),
    }
    report = MiningReport()
    places(tmp_path, files)
    pairs = mine_pairs(tmp_path, report=report, keep_duplicates=True)
    assert pairs["name"][:] == ["a", "b", "c", "e", "g"]
    assert set(pairs["query"][:4]) == {"Sums up the two numbers (naïvely)."}
    assert report.problems == ["d.rb (undecodable)", "f.rb (undecodable)", "h.py (binary)"]
