"""Tiny hand-made copies of CodeSearchNet in each layout that exists."""

from __future__ import annotations

import gzip
import json

from datasets import Dataset

LANGUAGES = ("python", "javascript", "go", "java", "php", "ruby")

# A function of each language with comments, and the same without.
FUNCTIONS = {
    "python": (
        'def read(self, path):\n        """Read."""\n        # go\n        s = "# no comment"\n        return s  #\n',
        'def read(self, path):\n        s = "# no comment"\n        return s',
    ),
    "javascript": (
        "function(path) {\n  // open\n  var s = '// no comment';\n  return s; /* end */\n}",
        "function(path) {\n  var s = '// no comment';\n  return s;\n}",
    ),
    "go": (
        'func (r *R) Read(path string) string {\n\t// open\n\ts := "// no comment"\n\treturn s /* end */\n}',
        'func (r *R) Read(path string) string {\n\ts := "// no comment"\n\treturn s\n}',
    ),
    "java": (
        '@A\npublic String read(String path) {\n  // open\n  String s = "// no comment";\n  return s; /* end */\n}',
        '@A\npublic String read(String path) {\n  String s = "// no comment";\n  return s;\n}',
    ),
    "php": (
        "public function read($path)\n{\n  # open\n  $s = '# no comment';\n  return $s; // end\n}",
        "public function read($path)\n{\n  $s = '# no comment';\n  return $s;\n}",
    ),
    "ruby": (
        "def read(path)\n  # open\n  s = '# no comment'\n  s # end\nend",
        "def read(path)\n  s = '# no comment'\n  s\nend",
    ),
}
BROKEN = {
    "python": "def read(:\n    return",
    "javascript": "function( {",
    "go": "func (r *R Read(",
    "java": "public String read(",
    "php": "public function (",
    "ruby": "def read(\n",
}


def url(language, number):
    return f"https://github.com/owner/repo{number % 3}/blob/0a1b/src/file{number}.{language}#L1-L9"


def prepared_row(language, number, query=None, code=None):
    return {
        "url": url(language, number),
        "code_tokens": (code or f"def f{number} ( ) : return {number}").split(),
        "docstring_tokens": (query or f"Return the number {number}").split(),
    }


def write_jsonl(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text, encoding="utf-8")


def write_prepared(folder, language, *, suffix="", test=None, codebase=None):
    """GraphCodeBERT's layout: the candidates are the rows of test and valid and more."""
    rows = [prepared_row(language, number) for number in range(30)]
    test = rows[:8] if test is None else test
    for name, part in (
        ("train", rows[20:]),
        ("valid", rows[8:12]),
        ("test", test),
        ("codebase", rows[:20] if codebase is None else codebase),
    ):
        write_jsonl(folder / f"{name}.jsonl{suffix}", part)


def raw_rows(language):
    """Six good rows and one for every filter."""
    code = FUNCTIONS[language][0]
    good = [f"Read the file number {number} ." for number in range(6)]
    bad = [
        "Read it",
        "word " * 257,
        "See https://example.org for what it does",
        'Draw <img src="a.png"> on the page',
        "Liest die Datei und gibt das Ergebnis nicht zurück",
        "Читает файл и возвращает результат",
    ]
    rows = [{"documentation": text, "code": f"{code}\n"} for text in good + bad]
    rows.append({"documentation": "Read a broken file .", "code": BROKEN[language]})
    for number, row in enumerate(rows):
        row["tokens"] = row["documentation"].replace("<img", "< img").replace("https:", "https :").split()
        row["number"] = number
        row["code"] = row["code"].replace("no comment", f"no comment {number}")
    return rows


def original_row(language, row, start=0):
    return {
        "repo": "owner/repo",
        "path": f"src/{row['number']}",
        "func_name": "R.read",
        "original_string": row["code"],
        "language": language,
        "code": row["code"],
        "code_tokens": row["code"].split(),
        "docstring": f"{row['documentation']}\n\nMore of it.",
        "docstring_tokens": row["tokens"],
        "url": url(language, start + row["number"]),
    }


def hub_row(language, row, start=0):
    return {
        "repository_name": "owner/repo",
        "func_path_in_repository": f"src/{row['number']}",
        "func_name": "R.read",
        "whole_func_string": row["code"],
        "language": language,
        "func_code_string": row["code"],
        "func_code_tokens": row["code"].split(),
        "func_documentation_string": f"{row['documentation']}\n\nMore of it.",
        "func_documentation_tokens": row["tokens"],
        "split_name": "test",
        "func_code_url": url(language, start + row["number"]),
    }


def write_original(folder, language):
    rows = raw_rows(language)
    for position, name in enumerate(("train", "valid", "test")):
        made = [original_row(language, row, 100 * position) for row in rows]
        for part in (0, 1):
            write_jsonl(folder / "final" / "jsonl" / name / f"{language}_{name}_{part}.jsonl.gz", made[part::2])


def write_hub(folder, languages=LANGUAGES):
    """A dataset repository of the Hub's columns, one configuration a language, as a local folder."""
    configs = []
    for language in languages:
        files = []
        for position, split in enumerate(("train", "validation", "test")):
            name = f"{language}/{split}-00000-of-00001.parquet"
            (folder / language).mkdir(parents=True, exist_ok=True)
            rows = [hub_row(language, row, 100 * position) for row in raw_rows(language)]
            Dataset.from_list(rows).to_parquet(folder / name)
            files.append(f"  - split: {split}\n    path: {name}\n")
        configs.append(f"- config_name: {language}\n  data_files:\n{''.join(files)}")
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n", encoding="utf-8")
