import contextlib
import random
import textwrap
import time

import pytest

from st_softinfonce.data import MiningReport, mine_pairs
from st_softinfonce.data.docstrings import make_query, query_rule
from st_softinfonce.data.languages import EXTENSIONS, SURROUNDINGS, load_miners
from st_softinfonce.data.languages.base import GarbageError
from st_softinfonce.data.remarks import is_remark

LANGUAGES = ["python", "javascript", "typescript", "go", "java", "php", "ruby"]
COMMENTED = LANGUAGES[1:]
MINERS = load_miners(None)


def dedent(source):
    return textwrap.dedent(source).lstrip("\n")


def parse(language, source):
    return list(
        MINERS[language].parse(source if language != "php" or "<?php" in source else f"<?php\n{source}").functions
    )


def mine(language, source):
    """Name, query and code of each function that its language does not drop."""
    found = [item for item in parse(language, dedent(source)) if item.rule is None]
    return [(item.name, make_query(item.doc), item.extract()) for item in found]


def mine_one(language, source):
    ((name, query, code),) = mine(language, source)
    return name, query, code


def rules(language, source):
    return {item.name: item.rule for item in parse(language, dedent(source))}


def parses(language, code):
    miner = MINERS[language]
    return any(not miner.parse(f"{before}{code}\n{after}").has_error for before, after in SURROUNDINGS[language])


def in_block(doc, function="function add(first, second) {\n  return first + second;\n}\n"):
    return "/**\n" + "".join(f" * {line}".rstrip() + "\n" for line in doc.split("\n")) + " */\n" + function


def documented(language, doc):
    code = {
        "javascript": "function add(first, second) {\n  return first + second;\n}\n",
        "typescript": "function add(first: number, second: number) {\n  return first + second;\n}\n",
        "php": "function add($first, $second) {\n  return $first + $second;\n}\n",
        "java": "int add(int first, int second) {\n  return first + second;\n}\n",
        "go": "func add(first, second int) int {\n\treturn first + second\n}\n",
        "ruby": "def add(first, second)\n  first + second\nend\n",
    }[language]
    if language in ("go", "ruby"):
        sign = "//" if language == "go" else "#"
        source = "".join(f"{sign} {line}".rstrip() + "\n" for line in doc.split("\n")) + code
    else:
        source = in_block(doc, code)
    return {"java": f"class A {{\n{source}}}\n", "go": f"package a\n\n{source}"}.get(language, source)


def query_of(language, doc):
    if language == "python":
        return mine_one(language, f'def f(a):\n    """{doc}"""\n    return a\n')[1]
    return mine_one(language, documented(language, doc))[1]


# What is known


def test_seven_languages_are_known_by_their_names_and_extensions():
    assert list(load_miners()) == list(load_miners(None)) == LANGUAGES
    assert EXTENSIONS == {
        ".py": "python", ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript", ".jsx": "javascript",
        ".ts": "typescript", ".tsx": "typescript", ".mts": "typescript", ".cts": "typescript",
        ".go": "go", ".java": "java", ".php": "php", ".rb": "ruby", ".rake": "ruby",
    }  # fmt: skip


def test_miners_are_those_asked_for_in_the_tables_order():
    assert list(load_miners(["ruby", "go", "ruby"])) == ["go", "ruby"]
    with pytest.raises(ValueError, match="got 'cobol'"):
        load_miners("cobol")


# Forms of functions: language, source, name, code


JAVASCRIPT = {
    "declaration": ("function add(a, b) {\n  return a + b;\n}", "add", None),
    "async": ("async function add(a, b) {\n  return a + b;\n}", "add", None),
    "generator": ("function* add(a, b) {\n  yield a + b;\n}", "add", None),
    "export": ("export function add(a, b) {\n  return a;\n}", "add", "function add(a, b) {\n  return a;\n}"),
    "export default": ("export default function add(a) {\n  return a;\n}", "add", "function add(a) {\n  return a;\n}"),
    "export anonymous": ("export default function (a) {\n  return a;\n}", "default", "function (a) {\n  return a;\n}"),
    "export const": ("export const add = (a) => {\n  return a;\n};", "add", "const add = (a) => {\n  return a;\n}"),
    "arrow": ("const add = (a, b) => {\n  return a + b;\n};", "add", "const add = (a, b) => {\n  return a + b;\n}"),
    "expression arrow": ("const add = (a, b) =>\n  a + b;", "add", "const add = (a, b) =>\n  a + b"),
    "let": ("let add = function (a) {\n  return a;\n};", "add", "let add = function (a) {\n  return a;\n}"),
    "prototype": ("A.prototype.add = function(a) {\n  return a;\n};", "A.add",
                  "A.prototype.add = function(a) {\n  return a;\n}"),
    "exports": ("exports.add = function(a) {\n  return a;\n};", "add", "exports.add = function(a) {\n  return a;\n}"),
    "two targets": ("exports.sum = exports.add = function(a) {\n  return a;\n};", "add",
                    "exports.sum = exports.add = function(a) {\n  return a;\n}"),
    "module": ("module.exports = function add(a) {\n  return a;\n};", "add",
               "module.exports = function add(a) {\n  return a;\n}"),
}  # fmt: skip


@pytest.mark.parametrize("form", JAVASCRIPT)
def test_javascript_functions_are_found_in_each_form(form):
    function, name, code = JAVASCRIPT[form]
    found = mine_one("javascript", in_block("Add the two numbers.\n@param {number} a One.", function))
    assert found[:2] == (name, "Add the two numbers.")
    assert found[2].text == (code or function)
    assert parses("javascript", found[2].text)


JAVASCRIPT_MEMBERS = {
    "method": ("class A {\n  DOC\n  add(a) {\n    return a;\n  }\n}", "A.add", "add(a) {\n  return a;\n}"),
    "static": ("class A {\n  DOC\n  static async add(a) {\n    return a;\n  }\n}", "A.add",
               "static async add(a) {\n  return a;\n}"),
    "getter": ("class A {\n  DOC\n  get sum() {\n    return 1;\n  }\n}", "A.sum", "get sum() {\n  return 1;\n}"),
    "private": ("class A {\n  DOC\n  #add(a) {\n    return a;\n  }\n}", "A.#add", "#add(a) {\n  return a;\n}"),
    "field": ("class A {\n  DOC\n  add = (a) => {\n    return a;\n  };\n}", "A.add", "add = (a) => {\n  return a;\n}"),
    "class expression": ("const A = class {\n  DOC\n  add(a) {\n    return a;\n  }\n}", "A.add",
                         "add(a) {\n  return a;\n}"),
    "object method": ("const a = {\n  DOC\n  add(a) {\n    return a;\n  }\n}", "a.add", "add(a) {\n  return a;\n}"),
    "object pair": ("const a = {\n  DOC\n  add: function(a) {\n    return a;\n  },\n}", "a.add",
                    "add: function(a) {\n  return a;\n}"),
    "inner object": ("a.b = { c: {\n  DOC\n  'add': (a) => {\n    return a;\n  },\n}}", "a.b.c.add",
                     "'add': (a) => {\n  return a;\n}"),
    "exported object": ("module.exports = {\n  DOC\n  add(a) {\n    return a;\n  }\n}", "add",
                        "add(a) {\n  return a;\n}"),
    "prototype object": ("A.prototype = {\n  DOC\n  add(a) {\n    return a;\n  }\n}", "A.add",
                         "add(a) {\n  return a;\n}"),
    "class helper": ("var A = new Class({\n  DOC\n  add: function(a) {\n    return a;\n  }\n});", "A.add",
                     "add: function(a) {\n  return a;\n}"),
    "module wrapper": (";(function() {\n  DOC\n  function add(a) {\n    return a;\n  }\n}.call(this));", "add",
                       "function add(a) {\n  return a;\n}"),
    "quoted key": ("const a = {\n  DOC\n  'add-item': (a) => {\n    return a;\n  },\n}", "a.add-item",
                   "'add-item': (a) => {\n  return a;\n}"),
    "key with dots": ("x({\n  DOC\n  \"click .item\": function() {\n    return a;\n  },\n})", "click .item",
                      "\"click .item\": function() {\n  return a;\n}"),
    "quoted method": ("class A {\n  DOC\n  'add-item'() {\n    return a;\n  }\n}", "A.add-item",
                      "'add-item'() {\n  return a;\n}"),
    "computed key": ("class A {\n  DOC\n  ['add item'] = () => {\n    return a;\n  }\n}", "A.add item",
                     "['add item'] = () => {\n  return a;\n}"),
    "quoted subscript": ("DOC\nA.prototype['add-item'] = function() {\n  return a;\n};", "A.add-item",
                         "A.prototype['add-item'] = function() {\n  return a;\n}"),
    "quoted export": ("DOC\nexports['add-item'] = () => {\n  return a;\n};", "add-item",
                      "exports['add-item'] = () => {\n  return a;\n}"),
    "amd wrapper": ("define(['x'], (x) => {\n  DOC\n  x.add = function(a) {\n    return a;\n  };\n});", "x.add",
                    "x.add = function(a) {\n  return a;\n}"),
    "decorated": ("class A {\n  DOC\n  @cached(1)\n  add(a) {\n    return a;\n  }\n}", "A.add",
                  "@cached(1)\nadd(a) {\n  return a;\n}"),
}  # fmt: skip


@pytest.mark.parametrize("form", JAVASCRIPT_MEMBERS)
def test_javascript_members_are_found_and_named_by_what_surrounds_them(form):
    source, name, code = JAVASCRIPT_MEMBERS[form]
    found = mine_one("javascript", source.replace("DOC", "/** Add the two numbers. */"))
    assert found[:2] == (name, "Add the two numbers.")
    assert found[2].text == code
    assert found[2].lines == code.count("\n") + 1 if form != "decorated" else 3
    assert parses("javascript", code)


WRAPPED = {
    "memo": ("const A = memo(function B(p) {\n  return p;\n});", "A", None),
    "forwardRef": ("export const A = React.memo(forwardRef((p, r) => {\n  return p;\n}), same);", "A",
                   "const A = React.memo(forwardRef((p, r) => {\n  return p;\n}), same)"),
    "asyncHandler": ("exports.add = asyncHandler(async (req, res) => {\n  return p;\n});", "add", None),
    "module": ("module.exports = asyncHandler(async function add(req) {\n  return p;\n});", "add", None),
    "default": ("export default memo(function A() {\n  return p;\n});", "A", "memo(function A() {\n  return p;\n})"),
    "pair": ("x({\n/** Add the two numbers. */\nadd: debounce(function() {\n  return p;\n}, 100) });", "add",
             "add: debounce(function() {\n  return p;\n}, 100)"),
    "field": ("class A {\n/** Add the two numbers. */\nadd = throttle(() => {\n  return p;\n});\n}", "A.add",
              "add = throttle(() => {\n  return p;\n})"),
    "last argument": ("const add = createSelector([a, b], (a, b) => {\n  return p;\n});", "add", None),
    "brackets": ("const add = (function(a) {\n  return p;\n});", "add", None),
}  # fmt: skip


@pytest.mark.parametrize("language", ["javascript", "typescript"])
@pytest.mark.parametrize("form", WRAPPED)
def test_functions_given_to_a_call_are_found_with_it(language, form):
    source, name, code = WRAPPED[form]
    if "/**" not in source:
        source = f"/** Add the two numbers. */\n{source}"
    found = mine_one(language, source)
    assert found[:2] == (name, "Add the two numbers.")
    assert found[2].text == (code or source.partition("\n")[2].removesuffix(";"))
    assert found[2].lines == 3


@pytest.mark.parametrize(
    "value", ["list.map((a) => a)", "(function() { return 1; })()", "new A(() => 1)", "setTimeout(() => 1)", "f(a)",
              "f(g)(() => 1)", "f()", "[1].sort((a) => a)", "await f(() => 1)"],
)  # fmt: skip
def test_what_calls_return_is_no_function_for_that(value):
    assert parse("javascript", f"/** Add the two numbers. */\nconst a = {value};") == []


def test_wrapped_stubs_have_no_lines():
    assert mine_one("javascript", "/** Sum it. */\nconst a = memo(function() {\n  // no\n}, 1);")[2].lines == 0


TYPESCRIPT = {
    "types": ("DOC\nexport async function add<T>(a: T, b?: number): Promise<T> {\n  return a;\n}", "add",
              "async function add<T>(a: T, b?: number): Promise<T> {\n  return a;\n}"),
    "typed arrow": ("DOC\nexport const add: F<T> = (a) => {\n  return a;\n};", "add",
                    "const add: F<T> = (a) => {\n  return a;\n}"),
    "cast": ("DOC\nconst add = ((a) => {\n  return a;\n}) as F;", "add",
             "const add = ((a) => {\n  return a;\n}) as F"),
    "element": ("DOC\nconst Add = (a: A) => {\n  return <div>{a}</div>;\n};", "Add",
                "const Add = (a: A) => {\n  return <div>{a}</div>;\n}"),
    "assertion": ("DOC\nfunction add(a) {\n  return <T>a;\n}", "add", "function add(a) {\n  return <T>a;\n}"),
    "method": ("abstract class A<T> {\n  DOC\n  protected override async add(a: T) {\n    return a;\n  }\n}",
               "A.add", "protected override async add(a: T) {\n  return a;\n}"),
    "decorated": ("class A {\n  DOC\n  @Get('x')\n  @Role(f(1))\n  add(a: T) {\n    return a;\n  }\n}", "A.add",
                  "@Get('x')\n@Role(f(1))\nadd(a: T) {\n  return a;\n}"),
    "field": ("class A {\n  DOC\n  private add = (a: T): U => {\n    return a;\n  };\n}", "A.add",
              "private add = (a: T): U => {\n  return a;\n}"),
    "namespace": ("namespace N.M {\n  DOC\n  export function add(a) {\n    return a;\n  }\n}", "N.M.add",
                  "function add(a) {\n  return a;\n}"),
    "constant object": ("const o = {\n  DOC\n  add(a) {\n    return a;\n  },\n} as const;", "o.add",
                        "add(a) {\n  return a;\n}"),
    "overloads": ("DOC\nexport function add(a: string): void;\nexport function add(a: number): void;\n"
                  "export function add(a: any) {\n  return a;\n}", "add", "function add(a: any) {\n  return a;\n}"),
    "method overloads": ("class A {\n  DOC\n  add(a: string): void;\n  add(a: any) {\n    return a;\n  }\n}",
                         "A.add", "add(a: any) {\n  return a;\n}"),
}  # fmt: skip


@pytest.mark.parametrize("form", TYPESCRIPT)
def test_typescript_functions_are_found_in_each_form(form):
    source, name, code = TYPESCRIPT[form]
    found = mine_one("typescript", source.replace("DOC", "/** Add the two numbers. */"))
    assert found[:2] == (name, "Add the two numbers.")
    assert found[2].text == code


def test_typescript_without_bodies_is_not_counted():
    source = (
        "DOC\ninterface A { DOC\nadd(a: T): U; }\nDOC\ndeclare function f(): void;\nabstract class B { abstract g(); }"
    )
    assert parse("typescript", source.replace("DOC", "/** Sum it. */")) == []


OTHERS = {
    "go function": ("go", "package a\n\n// Add adds two numbers.\nfunc Add(a int) int {\n\treturn a\n}\n",
                    "Add", "Adds two numbers.", "func Add(a int) int {\n\treturn a\n}"),
    "go pointer method": ("go", "package a\n\n// Add adds two numbers.\nfunc (t *T) Add(a int) int {\n\treturn a\n}\n",
                          "T.Add", "Adds two numbers.", "func (t *T) Add(a int) int {\n\treturn a\n}"),
    "go generic method": ("go", "package a\n\n// Add adds two.\nfunc (t T[K, V]) Add(a K) K {\n\treturn a\n}\n",
                          "T.Add", "Adds two.", "func (t T[K, V]) Add(a K) K {\n\treturn a\n}"),
    "go unnamed receiver": ("go", "package a\n\n// Add adds two.\nfunc (*T) Add() int {\n\treturn a\n}\n",
                            "T.Add", "Adds two.", "func (*T) Add() int {\n\treturn a\n}"),
    "go block comment": ("go", "package a\n\n/*\nAdd adds two numbers.\n\nMore.\n*/\nfunc Add() int {\n"
            "\treturn 1\n}\n",
                         "Add", "Adds two numbers.", "func Add() int {\n\treturn 1\n}"),
    "go directive": ("go", "package a\n\n// Add adds two numbers.\n//\n//go:noinline\nfunc Add() int {\n"
            "\treturn 1\n}\n",
                     "Add", "Adds two numbers.", "func Add() int {\n\treturn 1\n}"),
    "java method": ("java", "class A {\n  /** Adds two numbers. */\n  int add(int a) {\n    return a;\n  }\n}\n",
                    "A.add", "Adds two numbers.", "int add(int a) {\n  return a;\n}"),
    "java annotated": ("java", "class A {\n  /** Adds two. */\n  @X(\"y\")\n  public <T> T add(T a) {\n"
            "    return a;\n  }\n}\n",
                       "A.add", "Adds two.", "@X(\"y\")\npublic <T> T add(T a) {\n  return a;\n}"),
    "java inner": ("java", "class A { enum B { C; record D(int x) {\n/** Adds two. */\nint add() {\n"
            "  return 1;\n}\n}}}",
                   "A.B.D.add", "Adds two.", "int add() {\n  return 1;\n}"),
    "java interface": ("java", "interface A {\n/** Adds two. */\ndefault int add() {\n  return 1;\n}\n}",
                       "A.add", "Adds two.", "default int add() {\n  return 1;\n}"),
    "php function": ("php", "<?php\n/**\n * Adds two numbers.\n */\nfunction add($a)\n{\n    return $a;\n}\n",
                     "add", "Adds two numbers.", "function add($a)\n{\n    return $a;\n}"),
    "java markdown": ("java", "class A {\n  /// Adds [two][Two] of\n  /// [List#of].\n  ///\n  /// More.\n"
            "  int add() {\n    return 1;\n  }\n}\n",
                      "A.add", "Adds two of List.of.", "int add() {\n  return 1;\n}"),
    "java after annotation": ("java", "class A {\n  @Override\n  /** Adds two. */\n  public int add() {\n"
            "    return 1;\n  }\n}\n",
                              "A.add", "Adds two.", "@Override\npublic int add() {\n  return 1;\n}"),
    "php after attribute": ("php", "<?php\n#[Pure]\n/** Adds two. */\nfunction add() {\n  return 1;\n}\n",
                            "add", "Adds two.", "#[Pure]\nfunction add() {\n  return 1;\n}"),
    "php between attributes": ("php", "<?php class A {\n#[A(1)]\n/** Adds two. */\n#[B]\n"
            "public function add() {\n  return 1;\n}\n}",
                               "A.add", "Adds two.", "#[A(1)]\n#[B]\npublic function add() {\n  return 1;\n}"),
    "javascript after export": ("javascript", "export /** Adds two. */ function add() {\n  return 1;\n}\n",
                                "add", "Adds two.", "function add() {\n  return 1;\n}"),
    "ruby long signature": ("ruby", "# Adds two.\nsig do\n  params(a: Integer)\n    .returns(Integer)\nend\n"
            "def add(a)\n  a\nend\n",
                            "add", "Adds two.", "def add(a)\n  a\nend"),
    "ruby braced signature": ("ruby", "# Adds two.\nsig(:final) {\n  params(a: {b: Integer}).void\n}\n"
            "private def add(a)\n  a\nend\n",
                              "add", "Adds two.", "def add(a)\n  a\nend"),
    "three stars": ("javascript", "/*** Adds two. */\nfunction add() {\n  return 1;\n}\n",
                    "add", "Adds two.", "function add() {\n  return 1;\n}"),
    "three stars around": ("java", "class A {\n/***\n * Adds two.\n ***/\nint add() {\n  return 1;\n}\n}\n",
                           "A.add", "Adds two.", "int add() {\n  return 1;\n}"),
    "php method": ("php", "<?php\nnamespace X;\nfinal class A {\n    /** Adds two. */\n    #[Pure]\n"
                          "    public static function add($a)\n    {\n        return $a;\n    }\n}\n",
                   "A.add", "Adds two.", "#[Pure]\npublic static function add($a)\n{\n    return $a;\n}"),
    "php trait": ("php", "<?php\ntrait A {\n/** Adds two. */\nfunction &add() {\n  return $this->a;\n}\n}",
                  "A.add", "Adds two.", "function &add() {\n  return $this->a;\n}"),
    "php template": ("php", "<html><?php\n/** Adds two. */\nfunction add() {\n  return 1;\n} ?>\n<b>x</b>\n",
                     "add", "Adds two.", "function add() {\n  return 1;\n}"),
    "php conditional": ("php", "<?php\nif (!function_exists('add')) {\n  /** Adds two. */\n  function add() {\n"
                               "    return 1;\n  }\n}\n", "add", "Adds two.", "function add() {\n  return 1;\n}"),
    "ruby method": ("ruby", "module M\n  class A::B < C\n    # Adds two numbers.\n    def add(a)\n      a\n"
            "    end\n  end\nend\n",
                    "M.A.B.add", "Adds two numbers.", "def add(a)\n  a\nend"),
    "ruby class method": ("ruby", "class A\n  # Adds two.\n  def self.add!(a)\n    a\n  end\nend\n",
                          "A.add!", "Adds two.", "def self.add!(a)\n  a\nend"),
    "ruby singleton": ("ruby", "class A\n  class << self\n    # Adds two.\n    def add(a)\n      a\n    end\n"
            "  end\nend\n",
                       "A.add", "Adds two.", "def add(a)\n  a\nend"),
    "ruby private": ("ruby", "class A\n  # Adds two.\n  private def add(a)\n    a\n  end\nend\n",
                     "A.add", "Adds two.", "def add(a)\n  a\nend"),
    "ruby begin": ("ruby", "=begin\nAdds two numbers.\n\nMore.\n=end\ndef add(a)\n  a\nend\n",
                   "add", "Adds two numbers.", "def add(a)\n  a\nend"),
    "ruby pragma": ("ruby", "# Adds two numbers.\n# rubocop:disable Style/All\ndef add(a)\n  a\nend\n",
                    "add", "Adds two numbers.", "def add(a)\n  a\nend"),
    "ruby signature": ("ruby", "# Adds two numbers.\nsig { params(a: Integer).void }\ndef add(a)\n  a\nend\n",
                       "add", "Adds two numbers.", "def add(a)\n  a\nend"),
    "ruby block": ("ruby", "A = Class.new do\n  # Adds two.\n  def add(a)\n    a\n  end\nend\n",
                   "add", "Adds two.", "def add(a)\n  a\nend"),
}  # fmt: skip


@pytest.mark.parametrize("form", OTHERS)
def test_functions_of_other_languages_are_found_in_each_form(form):
    language, source, name, query, code = OTHERS[form]
    found = mine_one(language, source)
    assert found[:2] == (name, query)
    assert found[2].text == code
    assert parses(language, code)


# What stands before a function


def test_one_empty_line_between_block_comment_and_function_is_some_peoples_style():
    function = "function add(a) {\n  return a;\n}\n"
    assert mine("javascript", "/** Add the two numbers. */\n\n" + function)
    assert not mine("javascript", "/** Add the two numbers. */\n\n\n" + function)


@pytest.mark.parametrize(("language", "sign"), [("go", "//"), ("ruby", "#")])
def test_line_comments_document_without_an_empty_line_only(language, sign):
    function = {"go": "func add() int {\n\treturn 1\n}\n", "ruby": "def add\n  1\nend\n"}[language]
    start = {"go": "package a\n\n", "ruby": ""}[language]
    assert mine_one(language, f"{start}{sign} Sum it\n{sign} all up.\n{function}")[1] == "Sum it all up."
    assert mine_one(language, f"{start}{sign} Not this.\n\n{sign} Sum it all up.\n{function}")[1] == "Sum it all up."
    assert not mine(language, f"{start}{sign} Sum it all up.\n\n{function}")


@pytest.mark.parametrize(
    ("language", "before"),
    [
        ("javascript", "// Add the two numbers."),
        ("javascript", "/* Add the two numbers. */"),
        ("javascript", "/*** Add the two numbers. ***/"),
        ("javascript", "/**/"),
        ("javascript", "/** Add the two numbers. */\nconst other = 1;"),
        ("javascript", "/** @license MIT, see the file for this. */"),
        ("javascript", "/**\n * Copyright (c) 2020 by all of us.\n */"),
        ("javascript", "/** @fileoverview Adds the numbers. */"),
        ("javascript", "/**\n * Options of all kinds.\n * @typedef {Object} Options\n */"),
        ("javascript", "/** @callback adder\n * @param {number} a One. */"),
        ("javascript", "/****************\n * Adding of it\n ****************/"),
        ("javascript", "/** ref().add(), ref().end(); */"),
        ("go", "// nolint:errcheck"),
        ("go", "// #nosec"),
        ("go", "// +kubebuilder:rbac:groups=core"),
        ("go", "//lint:ignore U1000 for now"),
        ("ruby", "#: (Integer) -> Integer"),
        ("ruby", "# @rbs a: Integer"),
        ("ruby", "# steep:ignore"),
        ("go", "x := 1 // Add the two numbers."),
        ("go", "//go:generate stringer -type=Pill"),
        ("go", "// ---------------\n// Adding of the numbers\n// ---------------"),
        ("go", "// func add(a int) int {\n//\treturn a\n// }"),
        ("ruby", "x = 1 # Add the two numbers."),
        ("ruby", "# def add(a)\n#   a + 1\n# end"),
        ("ruby", "####################\n# Adding of numbers\n####################"),
        ("ruby", "# SPDX-License-Identifier: all of MIT"),
    ],
)
def test_other_comments_are_no_documentation(language, before):
    function = {
        "javascript": "function add(a) {\n  return a;\n}\n",
        "go": "func add() int {\n\treturn 1\n}\n",
        "ruby": "def add\n  1\nend\n",
    }[language]
    start = "package a\n\n" if language == "go" else ""
    assert rules(language, f"{start}{before}\n{function}") == {"add": "no_docstring"}


@pytest.mark.parametrize("pragma", ["// eslint-disable-next-line no-undef", "/* istanbul ignore next */"])
def test_comments_for_tools_do_not_part_documentation_and_function(pragma):
    source = f"/** Add the two numbers. */\n{pragma}\nfunction add(a) {{\n  return a;\n}}\n"
    name, query, code = mine_one("javascript", source)
    assert (name, query, code.text) == ("add", "Add the two numbers.", "function add(a) {\n  return a;\n}")


# The documentation's text


# The languages, then documentation and query.
QUERIES = {
    "javascript typescript go java php ruby": [
        ("Sum the\n  two   numbers.\n\nMore text.", "Sum the two numbers."),
        ("Sum the two numbers.\n@param first A number.", "Sum the two numbers."),
        ("Sum the two numbers.\nTODO: sum three of them.", "Sum the two numbers."),
        ("Sum the two numbers.\n----------\nMore.", "Sum the two numbers."),
        ("Sum the two numbers.\nArgs:\n  first: a number", "Sum the two numbers."),
        ("@param first A number, all of it.", ""),
        ("TODO: sum the numbers.", ""),
        ("Sums all of it.\ntodo: more of it", "Sums all of it."),
        ("Sums all of it.\n#TODO(me): more of it", "Sums all of it."),
        ("Sums all of it.\n```js\nadd(1)\n```", "Sums all of it."),
        ("Sums all of it.\n~~~\nadd(1)", "Sums all of it."),
    ],
    "javascript java php": [
        ("Sums as {@link Order#add} does.", "Sums as Order.add does."),
        ("Sums as {@link Order#add(int, int) adding} does.", "Sums as adding does."),
        ("Sums as {@link Order|the order} does.", "Sums as the order does."),
        ("Sums as [the order]{@link Order} does.", "Sums as the order does."),
        ("Sums as [the order](http://example.org/a) does.", "Sums as the order does."),
        ("Sums {@code a[0]} and {@literal {b}}.", "Sums a[0] and {b}."),
        ("Sums <code>a</code> and <b>all <i>of</i></b> it.", "Sums a and all of it."),
        ('Sums <a href="http://example.org">all of it</a>.', "Sums all of it."),
        ("Sums all of it.<p>More text.", "Sums all of it."),
        ("Sums all of it.\n<p>\nMore text.", "Sums all of it."),
        ("<p>Sums all of it.</p>\nMore text.", "Sums all of it."),
        ("Sums all of it:\n<ul>\n<li>one</li>\n</ul>", "Sums all of it:"),
        ("Sums all<br/>\nof it.", "Sums all of it."),
        ("Sums where a &lt; b &amp; c.", "Sums where a < b & c."),
        ("{@inheritDoc}", ""),
        ("{@inheritdoc}", ""),
        ("@inheritDoc", ""),
        ("@description Sums all of it.\n@param first A number.", "Sums all of it."),
        ("@param first A number.\n@summary Sums all\n of it.\n@public", "Sums all of it."),
    ],
    "ruby": [
        ("Sums +a+ and <tt>b</tt>.", "Sums a and b."),
        (":call-seq:\n  add(a) -> b\n\nSums all of it.", "Sums all of it."),
        ("  add(a) # => 1\n\nSums all of it.", "Sums all of it."),
        ("add(a) -> number\n\nSums all of it.", "Sums all of it."),
        ("add(a) -> number\nadd(a) { |x| } => other\nSums all of it.", "Sums all of it."),
        ("Sums all of it.\n  add([1, 2],\n    3)\n  #  =>  6\nMore.", "Sums all of it."),
        ("Sums all of it.\n add(1, 2) # => 3", "Sums all of it."),
        ("Sums all\n  of it.", "Sums all of it."),
        ("= Adding\nSums all of it.", "Sums all of it."),
        ("--\nNot for all of us.\n++\nSums all of it.", "Sums all of it."),
        (":nodoc:", ""),
        ("Sums all of it.\n@return [Integer] the sum", "Sums all of it."),
        ("Sums all into\n@total of it.", "Sums all into @total of it."),
        ("Sums {all of it}[https://example.org].", "Sums all of it."),
        ("@return [Array<String>, nil] the names of all", "Returns the names of all"),
        ("Predicate version of {#assert_ancestor}", "Predicate version of assert_ancestor"),
        ("Sums as {Order#add} and {Order::Item its item} do.", "Sums as Order#add and its item do."),
        ("Reads {file:README.md the text} with all of it.", "Reads the text with all of it."),
        ("[Boolean] whether all of it is so", "whether all of it is so"),
        ("Public: Sums all of it.\n\na - One.", "Sums all of it."),
        ("@liquid_public_docs\n@liquid_type filter\n@liquid_summary\n  Sums all of it.", "Sums all of it."),
        ("(see above)\n\nSums all of it.", "Sums all of it."),
        ("checks whether the sum is known", "checks whether the sum is known"),
        ("sums of what is known", "sums of what is known"),
    ],
    "java": [
        ("{@return the sum of {@code a} and {@link B#c}}", "Returns the sum of a and B.c."),
        ("{@return the sum of all.}\nFor each of it.", "Returns the sum of all. For each of it."),
        ("@return the upper bounds of the region\n@since 1", "Returns the upper bounds of the region"),
        ("@return The name of it.", "Returns the name of it."),
        ("@return {@code true} if it is empty", "Returns true if it is empty"),
        ("@return Returns the name.", "Returns the name."),
        ("Uses {@link Map<String, Integer>} a lot.", "Uses Map<String, Integer> a lot."),
        ("Uses {@link Map<String, List<Integer>> a map} here.", "Uses a map here."),
        ("Returns a {@code List<T>} of it.", "Returns a List<T> of it."),
        ("Renders {@code <div>} as it is.", "Renders `<div>` as it is."),
        ("Sums all of it.\n{@snippet :\n  if (a) { b(c -> { d(); }); }\n}", "Sums all of it."),
        ("{@code Integer} the sum of all of it", "Integer the sum of all of it"),
        ("Add: one more of it all", "one more of it all"),
        ("adding: one more of it all", "adding: one more of it all"),
        ("Note that it is slow.\n\nSums all of it.", "Sums all of it."),
        ("Should be called once only. Sums all of it.", "Sums all of it."),
        ("Internal method. Sums all of it.", "Sums all of it."),
        ("Called when the sum of it is known.", "Called when the sum of it is known."),
        ("Used to sum all of it.", "Used to sum all of it."),
        ("Can be called to sum all of it.", "Can be called to sum all of it."),
        ("See if the sum of it is known.", "See if the sum of it is known."),
        ("Note the sum of it all.", "Note the sum of it all."),
        ("The sum that has to be paid.", "The sum that has to be paid."),
        ("(Re)creates all of it.", "(Re)creates all of it."),
    ],
    "javascript": [
        ("@returns {Promise<string>} the name of it", "Returns the name of it"),
        ("@returns {number}", ""),
        ("Renders a `<div>` of it.", "Renders a `<div>` of it."),
        ("Renders a <code>&lt;T&gt;</code> of it.", "Renders a <T> of it."),
        ("Sums all of it. //TODO: be faster", "Sums all of it."),
        ("Sums all of it. TODO be faster", "Sums all of it."),
        ("Sums all of it.\n> [!NOTE]\n> Slow.", "Sums all of it."),
        ("Sums all of it:\n- first\n- second", "Sums all of it:"),
        ("Sums all of it. Options are:\n  * `a` - first", "Sums all of it."),
        ("Sums ![all](x.png) of **it all**.", "Sums all of it all."),
        ("[Array<string>] the names of all of it", "the names of all of it"),
        ("`add()`: sums up all of it", "sums up all of it"),
        ("Deprecated: use b instead. Sums all of it.", "Sums all of it."),
    ],
    "typescript": [
        ("@returns the name of it", "Returns the name of it"),
        ("Sums as [[Order]] and %%other%% do.", "Sums as Order and other do."),
        ("Sums all of it.\n@remarks\nSlow.", "Sums all of it."),
        ("{?number} - The sum of all of it.", "The sum of all of it."),
        ("[Order] sums up all of it.", "[Order] sums up all of it."),
        ("> NOTE: Slow, and\n> not safe.\n\nSums all of it.", "Sums all of it."),
    ],
    "php": [
        ("@return array<string, int>|null The names of all.", "Returns the names of all."),
        ("@return array{a: int, b: string}|array<never> The sums of all.", "Returns the sums of all."),
        ("@return $this", ""),
        ("Sums all of it.\n@phpstan-param int $a", "Sums all of it."),
        ("Sums all of it. phpcs:ignore", "Sums all of it."),
        ("(array) The names of all of it.", "The names of all of it."),
        ("add - sums up all of it", "sums up all of it"),
        ("Not supported. Sums all of it.", "Sums all of it."),
    ],
    "python": [
        ("Fires the L{Deferred} with C{None}.", "Fires the Deferred with None."),
        ("Reads L{the text<a.b>} and I{L{C{x}}}.", "Reads the text and x."),
        ("Sums all of it.  # noqa: D401", "Sums all of it."),
        ("bool: Whether it is so.", "Whether it is so."),
        ("(list of str) Names of all.", "Names of all."),
        ("`Optional[int]`: Sum of all.", "Sum of all."),
        ("f - Sums all of it.", "Sums all of it."),
        ("Sums as `the page <https://example.org>`_ does [1]_.", "Sums as the page does."),
        ("Forwards it to the\n    :meth:`~a.b` of it.", "Forwards it to the a.b of it."),
    ],
    "go": [
        ("kindOf returns the kind of the given interface{}", "kindOf returns the kind of the given interface{}"),
        ("Sums it all (by the way of a) and returns nil;", "Sums it all (by the way of a) and returns nil;"),
    ],
}


@pytest.mark.parametrize(
    ("language", "doc", "query"),
    [
        pytest.param(language, doc, query, id=f"{language}-{doc[:24]}")
        for languages, rows in QUERIES.items()
        for doc, query in rows
        for language in languages.split()
    ],
)
def test_documentation_becomes_its_query(language, doc, query):
    assert query_of(language, doc) == query
    assert not query or (query_rule(query, 2, 256) is None and not is_remark(query))


@pytest.mark.parametrize("language", ["javascript", "java", "php"])
def test_other_html_is_left_and_is_markup(language):
    query = query_of(language, "Renders a <div> element of it.")
    assert query == "Renders a <div> element of it."
    assert query_rule(query, 3, 256) == "query_markup"


def test_documentation_without_leading_stars_keeps_its_text():
    source = "/**\n  Sums **all** of\n  it.\n\n  More.\n*/\nfunction add(a) {\n  return a;\n}\n"
    assert mine_one("javascript", source)[1] == "Sums all of it."


@pytest.mark.parametrize(
    ("language", "comment"),
    [
        ("ruby", "##\n# Sums all of it."),
        ("ruby", "###\n# Sums all of it.\n###"),
        ("ruby", "## Sums all\n## of it."),
        ("ruby", "##\n# Sums all of it.\n##\n# More."),
        ("go", "/// Sums all\n/// of it."),
        ("go", "//\n// Sums all of it.\n//"),
    ],
)
def test_doubled_comment_signs_are_no_text(language, comment):
    functions = {"go": "func Do() int {\n\treturn 1\n}\n", "ruby": "def do_it\n  1\nend\n"}
    start = "package a\n\n" if language == "go" else ""
    assert mine_one(language, f"{start}{comment}\n{functions[language]}")[1] == "Sums all of it."


GO = [
    ("Sum", "Sum returns the total.", "Returns the total."),
    ("sum", "sum returns the total.", "Returns the total."),
    ("SumAll", "SumAll() is the total.", "Is the total."),
    ("SumAll", "SumAll: the total of it.", "The total of it."),
    ("SumAll", "SumAll the total of it.", "The total of it."),
    ("SumAll", "SumAll returns x. If y, SumAll panics.", "Returns x. If y, it panics."),
    ("SumAll", "T.SumAll returns the total.", "Returns the total."),
    ("SumAll", "SumAllOf returns the total.", "SumAllOf returns the total."),
    ("Close", "Close the file at once.", "Close the file at once."),
    ("Close", "Close closes the file.", "Closes the file."),
    ("Reset", "Reset values to zero.", "Reset values to zero."),
    ("Reset", "Reset clears values.", "Clears values."),
    ("Read", "Read blocks the caller.", "Blocks the caller."),
    ("Write", "Write headers and trailers.", "Write headers and trailers."),
    ("Sum", "Returns the total of it.", "Returns the total of it."),
    ("Sum", "Deprecated: use Add instead.", ""),
    ("Sum", "Sum returns the total.\n//\n// Deprecated: use Add.", "Returns the total."),
    ("Sum", "Deprecated: use\n// Add instead.\n//\n// Sum returns the total.", "Returns the total."),
    ("getRegion", "GetRegion returns the region.", "Returns the region."),
    ("GetRegion", "getRegion returns the region, getRegion fails.", "Returns the region, it fails."),
    ("SumAll", "[SumAll] returns [io.EOF].", "Returns io.EOF."),
    ("SumAll", "`SumAll` returns the total.", "Returns the total."),
    ("SumAll", "(t *T) SumAll returns the total.", "Returns the total."),
    ("SumAll", "func SumAll returns the total.", "Returns the total."),
    ("SumAll", "SumAll(a, b)(c) returns the total.", "Returns the total."),
    ("SumAll", "(*T)SumAll returns the total.", "Returns the total."),
    ("SumAll", "SumAll/SumMost return the total.", "SumAll/SumMost return the total."),
    ("SumRows", "SumRows within a transaction.", "Sum rows within a transaction."),
    ("OR", "OR combines them by logical OR.", "Combines them by logical OR."),
    ("Sum", "sum of all numbers given.", "sum of all numbers given."),
    ("SumAll", 'SumAll is a shortcut for Handle("SumAll", f).', 'Is a shortcut for Handle("SumAll", f).'),
]


@pytest.mark.parametrize(("name", "doc", "query"), GO, ids=[f"{name}: {doc[:24]}" for name, doc, _ in GO])
def test_go_documentation_does_not_begin_with_the_name(name, doc, query):
    found = mine_one("go", f"package a\n\n// {doc}\nfunc {name}() int {{\n\treturn 1\n}}\n")
    assert found[1] == query
    assert found[2].text == f"func {name}() int {{\n\treturn 1\n}}"


REMARKS = """
Other methods where we don't return only an argument
Every plugin must register itself by calling this.
Curl.http( [ { :url => 'url1', :method => :post,
tokenize("foo") # => ["foo"]
Pulled out into a method so it's easy to stub time
To make unit-testing easier
some of the headers sent by the client are derived from the session
By default those errors contain a header.
String-interpolated text must be compiled with this because we escape values.
:dynamic is optimized in other filters
Modeled after IO.write
We can get here in a variety of ways.
Override this in your uploader to change the name.
In MySQL 5.5+ messages are always constructed as UTF-8.
Base64.encode is not available on Ruby 1.8.7
Shop Pro overrides this
The type of message has been extracted to its own method.
The C generator doesn't like mashies
Workaround for issue 516
Introduced in DOM Level 2.
I don't know why this is needed
Assumes that q is sorted
Subclasses should call this method whenever it changes.
Zip time is only stored with two seconds accuracy
Masked arrays cannot be resized in place.
The mail adapter does not need the pool to convert errors.
Validators might influence others.
PostgreSQL requires parentheses around compound datasets.
It's funny to think of a result of an input.
There is no consistent way to do this.
We keep a copy of the raw token for initial communication
Since the path separator is '/', they are no-ops.
Called by the game when its window triggers.
This only exists for testing.
This method is needed because it must be called by yield.
Passing statements as an array is deprecated.
You should use add_all rather than add.
If you are calling this in a plugin, use the loop.
For machine-readable output.
Maintained for backwards compatibility.
Helper function used by read_tuple and read_set.
Call before any resource loading starts
""".strip().splitlines()
NO_REMARKS = """
Sums some of the headers sent by the client.
To string conversion of a total
Assumes hash partitioning, sets the largest value.
Is this tagged appropriately?
Overrides the total of this order.
Redefine this type to represent a different one.
This ensures that the total is set.
On Windows, returns the short path.
Based on the size, picks a buffer.
Maybe shrink the stack used by it.
The total that doesn't include taxes.
Each element of the list, doubled.
Fetches the orders that are not always paid.
Checks this order cannot be resized.
An array is returned for each order.
The value that should be used by the order.
Called by the loader, starts the download of it.
Call when a stage is visible to push it to the front.
For a given order, return its total.
Always returns the total.
""".strip().splitlines()


@pytest.mark.parametrize("text", REMARKS)
def test_sentences_that_do_not_say_what_a_function_does_are_remarks(text):
    assert is_remark(text)


@pytest.mark.parametrize("text", NO_REMARKS)
def test_sentences_that_say_what_a_function_does_are_no_remarks(text):
    assert not is_remark(text)


@pytest.mark.parametrize(
    "doc",
    [
        "NOTE: it is slow.", "Note that it is slow.", "See Order.add for more.", "Called by Order.add only.",
        "This method should not be called.", "Must be called with the lock held.", "a.lock must be held.",
        "The caller must own the lock.", "We need this for the tests.", "Not used by this class.",
        "Convenience method that is equivalent to:", "Deprecated as of 1.4.", "Use b instead of it.",
        "Copied from another package.", "For internal use of it only.", "Describe the method here.",
        "Description of the Method", "The count has to be set before.", "(provisional, must document)",
        "This method will be removed soon.", "Dirty hack for the tests.", "Is meant to be called last.",
        "Is deprecated, use b.",
        "libxml2 >= 2.9.2 fails to escape comments.", "some of the headers are derived from the session",
    ],
)  # fmt: skip
@pytest.mark.parametrize("language", COMMENTED)
def test_remarks_that_stand_alone_are_known(language, doc):
    assert is_remark(query_of(language, doc))


@pytest.mark.parametrize(
    ("language", "doc"),
    [
        ("java", "error.sum.of.all=\\\nsum of all: {0}"),
        ("php", 'Sum ::= Number {"+" Number}*'),
        ("javascript", "a = b;"),
    ],
)
def test_properties_grammars_and_code_are_no_documentation(language, doc):
    assert [item.rule for item in parse(language, documented(language, doc))] == ["no_docstring"]


@pytest.mark.parametrize(
    "doc",
    [
        "Sums all of it.\n@param {Function} a As in @callback adder.",
        "Sums all of it.\n\nCopyright (C) signs are kept.",
        "Sums all of it.\n@copyright 2020 by us\n@param a One.",
        "Sums all of it.\n\nSee the files licensed under MIT.",
        "Sums all of it.\n@param a The class of a @class tag.",
        "Sums all of it.\n@param a Its @file or @license.",
    ],
)
def test_words_further_down_do_not_cost_a_documentation(doc):
    # A licence in the first comment of a file is the file's.
    assert mine_one("javascript", "/* eslint-env node */\n" + in_block(doc))[1] == "Sums all of it."


@pytest.mark.parametrize("doc", ["Shop 1.0\n\nCopyright (C) 2020 by us", "Shop 1.0\n@license MIT"])
def test_a_licence_in_the_first_comment_is_the_files(doc):
    assert rules("javascript", in_block(doc)) == {"add": "no_docstring"}


@pytest.mark.parametrize(
    "body",
    [
        'raise E, "x"', "return a <> b", "x = `a`", "x = 0777", "x = 10L", 'x = ur"a"', "async = 1", "a.async()",
        "x = lambda (a, b): a", "try:\n        a\n    except E, e:\n        pass", "x = [a for a in 1, 2]",
        "if a:\n\tx = 1\n        y = 2", "print a", "exec a",
    ],
)  # fmt: skip
def test_what_only_python_2_parses_does_not_parse(body):
    (found,) = parse("python", f'def f(a):\n    """Sum it up."""\n    {body}\n    return a\n')
    assert found.rule == "syntax_error" or found.extract() is None


@pytest.mark.parametrize(
    "body",
    [
        "x = 0",
        "x = 0o17",
        "x = 1_0",
        "x = 00",
        "try:\n        a\n    except A, B:\n        pass",
        'x = u"a"',
        "a.await_()",
    ],
)
def test_what_python_3_parses_does(body):
    (found,) = parse("python", f'def f(a):\n    """Sum it up."""\n    {body}\n    return a\n')
    assert found.extract() is not None


def test_python_2_parameters_do_not_parse():
    (found,) = parse("python", 'def f(x, (a, b)):\n    """Sum it up."""\n    c = a\n    return c\n')
    assert found.extract() is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_functions_without_documentation_have_their_code(language):
    source = {
        "python": "def f(a):\n    # no\n    b = a\n    return b\n",
        "ruby": "def f(a)\n  # no\n  a\nend\n",
        "go": "package a\n\nfunc f(a int) int {\n\t// no\n\treturn a\n}\n",
        "java": "class A {\n  int f(int a) {\n    // no\n    return a;\n  }\n}\n",
        "php": "function f($a) {\n  // no\n  return $a;\n}\n",
    }.get(language, "function f(a) {\n  // no\n  return a;\n}\n")
    (found,) = parse(language, source)
    assert (found.rule, found.doc) == ("no_docstring", "")
    assert "no" not in found.extract().text
    assert found.extract().lines == 3


# Rules


@pytest.mark.parametrize(
    ("language", "source", "expected"),
    [
        ("javascript", "DOC\nfunction a() { DOC\nfunction b() {} }", {"a": None, "a.b": "nested"}),
        ("javascript", "const a = () => {\n  DOC\n  const b = () => 1;\n};", {"a": "no_docstring", "a.b": "nested"}),
        ("javascript", "function a() { return { DOC\nb() {} } }", {"a": "no_docstring", "a.b": "nested"}),
        ("java", "class A { void a() { new B() { DOC\nvoid b() {} }; } }", {"A.a": "no_docstring", "A.a.b": "nested"}),
        ("php", "function a() { DOC\nfunction b() {} }", {"a": "no_docstring", "a.b": "nested"}),
        ("ruby", "def a\n  # Sum it all up.\n  def b\n  end\nend", {"a": "no_docstring", "a.b": "nested"}),
    ],
)
def test_functions_inside_functions_are_nested(language, source, expected):
    assert rules(language, source.replace("DOC", "/** Sum it all up. */")) == expected


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("javascript", "class A { DOC\nconstructor() { x(); } }"),
        ("javascript", "A.prototype.toString = function() { return ''; };"),
        ("javascript", "/**\n * Sums it all up.\n * @constructor\n */\nfunction A() { x(); }"),
        ("go", "package a\nfunc init() { x() }"),
        ("go", "package a\nfunc (a *A) String() string { return `` }"),
        ("go", "package a\nfunc (a A) Error() string { return `` }"),
        ("java", "class A { DOC\nA() { x(); } }"),
        ("java", "record A(int x) { DOC\nA { y(); } }"),
        ("java", "class A { DOC\npublic boolean equals(Object o) { return true; } }"),
        ("java", "class A { DOC\npublic int hashCode() { return 1; } }"),
        ("java", "class A { DOC\npublic String toString() { return null; } }"),
        ("php", "class A { DOC\nfunction __construct() { x(); } }"),
        ("php", "class A { DOC\nfunction __toString() { return ''; } }"),
        ("ruby", "class A\n# Sum it all up.\ndef initialize\n  x\nend\nend"),
        ("ruby", "class A\n# Sum it all up.\ndef ==(other)\n  true\nend\nend"),
        ("ruby", "class A\n# Sum it all up.\ndef to_s\n  ''\nend\nend"),
    ],
)
def test_constructors_and_standard_methods_are_special(language, source):
    assert list(rules(language, source.replace("DOC", "/** Sum it all up. */")).values()) == ["special_method"]


def test_functions_only_called_like_standard_methods_are_not_special():
    assert rules("go", "package a\nfunc Error(x int) {}\nfunc (l *L) Error(x int) {}\n") == {
        "Error": "no_docstring",
        "L.Error": "no_docstring",
    }
    assert rules("ruby", "def hash_of\nend\n") == {"hash_of": "no_docstring"}


@pytest.mark.parametrize(
    ("language", "source", "expected"),
    [
        ("javascript", "function testSum() {}\nfunction tester() {}", ["test", "no_docstring"]),
        ("go", "package a\nfunc TestSum() {}\nfunc Tester() {}\n"
                "func BenchmarkX() {}", ["test", "no_docstring", "test"]),
        ("java", "class A { @Test int a() {} @Testing int b() {} }", ["test", "no_docstring"]),
        ("php", "class A { function testSum() {} function testify() {} }", ["test", "no_docstring"]),
        ("ruby", "def test_sum\nend\ndef testify\nend", ["test", "no_docstring"]),
    ],
)  # fmt: skip
def test_tests_are_known_by_name(language, source, expected):
    assert list(rules(language, source).values()) == expected


TEST_PATHS = {
    "javascript": (
        ["__tests__/a.js", "lib/a.test.js", "a.spec.mjs", "test/a.js", "tests/x/a.cjs", "test.js"],
        ["lib/a.js", "lib/contest.js", "testing/a.js", "latest/a.js"],
    ),
    "go": (["a_test.go", "x/testdata/a.go"], ["a.go", "test_a.go", "testing/a.go"]),
    "java": (
        ["src/test/java/A.java", "src/it/java/A.java", "FooTest.java", "FooTests.java", "TestFoo.java"],
        ["src/main/java/A.java", "src/main/java/it/A.java", "Testament.java", "Contest.java", "Latest.java"],
    ),
    "php": (["tests/A.php", "Tests/A.php", "src/FooTest.php"], ["src/A.php", "src/Contest.php", "Testing/A.php"]),
    "ruby": (["test/a.rb", "spec/a.rb", "a_spec.rb", "a_test.rb", "test_a.rb"], ["lib/a.rb", "aspec.rb", "latest.rb"]),
}


@pytest.mark.parametrize("language", TEST_PATHS)
def test_tests_are_known_by_path(language):
    tests, others = TEST_PATHS[language]
    assert [path for path in tests if not MINERS[language].is_test(path.split("/"))] == []
    assert [path for path in others if MINERS[language].is_test(path.split("/"))] == []


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("javascript", "DOC\nfunction a() {}"),
        ("javascript", "DOC\nfunction a() {\n  // nothing\n  /* at all */\n}"),
        ("javascript", "DOC\nfunction a() {\n  throw new Error(\n'a is not implemented');\n}"),
        ("javascript", "DOC\nfunction a() {\n  throw new Error('must be overridden');\n}"),
        ("go", "package a\n\n// Sum it all up.\nfunc a()\n"),
        ("go", "package a\n\n// Sum it all up.\nfunc a() {\n\tpanic(\"not implemented\")\n}\n"),
        ("java", "abstract class A { DOC\nabstract int a(); }"),
        ("java", "interface A { DOC\nint a(); }"),
        ("java", "class A { DOC\nint a() {\n throw new UnsupportedOperationException();\n } }"),
        ("php", "interface A { DOC\nfunction a(); }"),
        ("php", "class A { DOC\nfunction a()\n{\n} }"),
        ("php", "class A { DOC\nfunction a()\n{\n throw new \\LogicException('Not implemented.');\n} }"),
        ("ruby", "# Sum it all up.\ndef a\nend"),
        ("ruby", "# Sum it all up.\ndef a; end"),
        ("ruby", "# Sum it all up.\ndef a\n  # nothing\nend"),
        ("ruby", "# Sum it all up.\ndef a\n  raise NotImplementedError\nend"),
        ("ruby", "# Sum it all up.\ndef a(b)\n  raise NotImplementedError, \"#{self.class} has no a\"\nend"),
    ],
)  # fmt: skip
def test_stubs_have_no_lines(language, source):
    assert mine_one(language, source.replace("DOC", "/** Sum it all up. */"))[2].lines == 0


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("javascript", "DOC\nfunction bad() {\n  return (1;\n}\nDOC\nfunction good() {\n  return 1;\n}"),
        ("go", "package a\n\n// Sum it.\nfunc bad() {\n\tx := := 1\n}\n\n// Sum it.\nfunc good() {\n\tx()\n}\n"),
        ("java", "class A { DOC\nint bad() { return 1 +; }\nDOC\nint good() { return 1; } }"),
        ("php", "DOC\nfunction bad() { return 1 +; }\nDOC\nfunction good() { return 1; }"),
        ("ruby", "# Sum it.\ndef bad\n  x = ) 1\nend\n\n# Sum it.\ndef good\n  1\nend\n"),
    ],
)
def test_broken_functions_are_dropped_and_those_beside_them_kept(language, source):
    found = rules(language, source.replace("DOC", "/** Sum it. */"))
    assert {name.rpartition(".")[2]: rule for name, rule in found.items()} == {"bad": "syntax_error", "good": None}


# The code


CODES = {
    "javascript comments": (
        "javascript",
        "/** Sum it. */\nfunction a( // first\n  b, /* c */ d\n) {\n  // one\n\n  /* two\n     three */\n\n"
        "  return/* x */b; // d\n\n\n  // end\n}",
        "function a(\n  b, d\n) {\n\n  return b;\n\n}", 3,
    ),
    "javascript text": (
        "javascript",
        "class A {\n  /** Sum it. */\n  a() {\n    x = '// no' + \"/* no */\" + /\\/\\/ no/;\n    return `\n"
                "  // no\n\n\n"
        "  ${b /* yes */}\n`;\n  }\n}",
        "a() {\n  x = '// no' + \"/* no */\" + /\\/\\/ no/;\n  return `\n  // no\n\n\n  ${b /* yes */}\n`;\n}", 7,
    ),
    "javascript line end in a comment": (
        "javascript", "/** Sum it. */\nfunction a() {\n  return /* one\n  two */ 2\n}",
        "function a() {\n  return\n 2\n}", 4,
    ),
    "go comments": (
        "go", "package a\n\n// Sum it.\nfunc a(b int, // b\n\tc int) int { // d\n\t// e\n\tf := `\n// no\n\n\n"
                "`\n\treturn f /* g */\n}\n",
        "func a(b int,\n\tc int) int {\n\tf := `\n// no\n\n\n`\n\treturn f\n}", 6,
    ),
    "java text block": (
        "java", "class A {\n    /** Sum it. */\n    String a() {\n        // no\n        return \"\"\"\n"
                "            // yes\n\n\n"
                "            \"\"\";\n    }\n}",
        "String a() {\n    return \"\"\"\n            // yes\n\n\n            \"\"\";\n}", 5,
    ),
    "php here document": (
        "php", "<?php\n    /** Sum it. */\n    function a()\n    {\n        # no\n        return <<<X\n"
                "    // yes\n\n\n    X;\n    }\n",
        "function a()\n{\n    return <<<X\n    // yes\n\n\n    X;\n}", 5,
    ),
    "php page": (
        "php", "<?php\n    /** Sum it. */\n    function a() {\n        // no\n        ?>\n"
                "    <b># yes</b>\n\n\n    <?php\n    }\n",
        "function a() {\n    ?>\n    <b># yes</b>\n\n\n    <?php\n}", 5,
    ),
    "ruby here document": (
        "ruby", "  # Sum it.\n  def a(b,\n        c) # no\n    # no\n    d = <<~X # no\n      # yes #{e}\n\n\n"
                "    X\n    d # no\n  end\n",
        "def a(b,\n      c)\n  d = <<~X\n    # yes #{e}\n\n\n  X\n  d\nend", 6,
    ),
    "ruby rescue": (
        "ruby", "# Sum it.\ndef a\n  # no\n  b\nrescue C\n  # no\n  d\nend\n", "def a\n  b\nrescue C\n  d\nend", 5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CODES)
def test_code_loses_comments_and_nothing_else(case):
    language, source, code, lines = CODES[case]
    found = mine_one(language, source)[2]
    assert (found.text, found.lines) == (code, lines)
    assert parses(language, code)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("function a() { return 1; }", 1),
        ("function a() {\n  return 1;\n}", 3),
        ("function a(\n  b,\n  c\n) {\n  return 1;\n}", 3),
        ("function a()\n{\n  return 1;\n}", 3),
        ("const a = (b) =>\n  b + 1;", 2),
        ("const a = (b) => b + 1;", 1),
    ],
)
def test_a_signature_is_one_line_of_code(source, lines):
    assert mine_one("javascript", "/** Sum it. */\n" + source)[2].lines == lines


# Files that are hard to read


@pytest.mark.parametrize("language", COMMENTED)
def test_deep_nesting_is_no_error(language):
    depth = 20_000
    deep = {
        "javascript": "x = " + "[" * depth + "]" * depth,
        "typescript": "x = " + "[" * depth + "]" * depth,
        "go": "package a\nvar x = " + "(" * depth + "1" + ")" * depth,
        "java": "class A { int x = " + "(" * depth + "1" + ")" * depth + "; }",
        "php": "<?php $x = " + "[" * depth + "]" * depth + ";",
        "ruby": "x = " + "[" * depth + "]" * depth,
    }[language]
    assert parse(language, deep) == []


def test_functions_nested_thousands_deep_are_all_found():
    depth = 2_000
    found = parse("javascript", "function a() { " * depth + "}" * depth)
    assert [item.rule for item in found] == ["no_docstring"] + ["nested"] * (depth - 1)


@pytest.mark.parametrize(
    "doc",
    [
        "-" * 5_000 + "x",
        "[" * 9_000,
        "{@link a" + " " * 9_000 + "}",
        "add" + "()" * 4_000 + "\n\nSums all of it.",
        "  a  \n" * 1_500 + "b",
        "<b>" * 3_000,
        "Sums all of it.\n\n" + "x" * 1_000_000,
    ],
    ids=["ruler", "brackets", "tag", "calls", "indented", "html", "long"],
)
@pytest.mark.parametrize("language", COMMENTED)
def test_strange_documentation_takes_no_time(language, doc):
    source = documented(language, doc)
    start = time.process_time()
    mine(language, source)
    assert time.process_time() - start < 1


OPEN = {
    "javascript": ["/** Read the lines of it.\n", "/* Read\n", "'abc\n", "`${\n", "x = (1;\n", "f(function() {\n"],
    "typescript": ["/** Read the lines of it.\n", "'abc\n", "foo(a: string);\n", "@A(\n"],
    "java": ["/** Read the lines of it.\n", '"abc\n', "/// Read the lines.\n"],
    "php": ["/** Read the lines of it.\n", "$x = <<<A\n", "#[A\n"],
    "go": ["/* Read the lines of it.\n", "// Read the lines of it.\n", "`a\n"],
    "ruby": ["=begin\n", "# Read the lines of it.\n", "sig {\n", "x = <<~A\n"],
    "python": ['"""\n', "x = (\n", "# Read\n"],
}


@pytest.mark.parametrize(("language", "line"), [(language, line) for language in OPEN for line in OPEN[language]])
def test_what_is_left_open_takes_linear_time(language, line):
    # Where it is quadratic, the first of them takes a minute.
    start = time.process_time()
    with contextlib.suppress(GarbageError):
        for item in parse(language, {"go": "package a\n", "java": "class A {\n"}.get(language, "") + line * 8_000):
            item.extract()
    assert time.process_time() - start < 5


@pytest.mark.parametrize("language", [name for name in COMMENTED if name != "ruby"])
def test_an_open_comment_is_an_error_and_what_stands_before_it_is_found(language):
    source = ("<?php\n" if language == "php" else "") + documented(language, "Sum it all up.")
    assert not MINERS[language].parse(f"{source}/* closed */").has_error
    assert MINERS[language].parse(f"{source}/* open").has_error
    assert mine_one(language, f"{source}/* open")[1] == "Sum it all up."


def test_names_of_deeply_nested_functions_do_not_fill_the_memory():
    found = parse("javascript", "function add() { " * 20_000 + "}" * 20_000)
    assert len(found) == 20_000
    assert sum(len(item.name) for item in found) < 20_000_000


@pytest.mark.parametrize("language", COMMENTED)
def test_any_bytes_that_decode_are_no_error(language):
    letters = "(){}[]<>/*#'\"`\n\\ ;=:@$?é\u2028" + "abdefn"
    random.seed(7)
    for _ in range(100):
        text = "".join(random.choices(letters, k=200)) + "\n/** Sum it. */\n# Sum it.\nfunction a() {"
        for item in parse(language, text):
            item.extract()


@pytest.mark.parametrize("language", LANGUAGES)
def test_byte_order_mark_is_no_text(language):
    assert MINERS[language].decode(b"\xef\xbb\xbfx = 1") == "x = 1"


@pytest.mark.parametrize("language", COMMENTED)
def test_other_encodings_are_refused_unless_declared(language):
    with pytest.raises(UnicodeDecodeError):
        MINERS[language].decode(b"x = '\xe9'")


@pytest.mark.parametrize(
    ("language", "data"),
    [
        ("ruby", b"# encoding: iso-8859-1\nx = '\xe9'"),
        ("ruby", b"#!/usr/bin/ruby\n# -*- coding: latin-1 -*-\nx = '\xe9'"),
        ("php", b"<?php declare(encoding='ISO-8859-1');\n$x = '\xe9';"),
    ],
)
def test_declared_encodings_are_used(language, data):
    assert "'é'" in MINERS[language].decode(data)


def test_unknown_encodings_are_named():
    with pytest.raises(LookupError, match="klingon"):
        MINERS["ruby"].decode(b"# encoding: klingon\n")


# Packages


@pytest.mark.parametrize(
    ("language", "manifest", "content"),
    [
        ("javascript", "package.json", '{"name": "shop"}'),
        ("go", "go.mod", "module shop"),
        ("java", "pom.xml", "<project/>"),
        ("java", "module-info.java", "module shop {}"),
        ("php", "composer.json", "{}"),
        ("ruby", "shop.gemspec", ""),
    ],
)
def test_a_folder_with_a_manifest_is_a_package(tmp_path, language, manifest, content):
    miner = load_miners(language)[language]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / manifest).write_text(content)
    assert miner.is_package(tmp_path / "shop")
    assert not miner.is_package(tmp_path)


@pytest.mark.parametrize("content", ['{"type": "module"}', "[]", "{", "[" * 100_000])
def test_a_manifest_without_a_name_makes_no_package(tmp_path, content):
    (tmp_path / "package.json").write_text(content)
    assert not load_miners("javascript")["javascript"].is_package(tmp_path)


# Together


def test_a_tree_of_all_languages_is_mined_at_once(tmp_path):
    sources = {
        "a.py": 'def add(a, b):\n    """Sum up the two numbers."""\n    c = a + b\n    return c\n',
        "b.js": "/** Sum up the two numbers. */\r\nfunction add(a, b) {\r\n  return a + b;\r\n}\r\n",
        "g.ts": "/** Sum up the two numbers. */\nexport function add(a: number) {\n  return a + 1;\n}\n",
        "c.go": "package a\n\n// Add sums up the two numbers.\nfunc Add(a, b int) int {\n\treturn a + b\n}\n",
        "D.java": "class D {\n  /** Sum up the two numbers. */\n  int add(int a, int b) {\n    return a + b;\n"
        "  }\n}\n",
        "e.php": "<?php\n/** Sum up the two numbers. */\nfunction add($a, $b) {\n  return $a + $b;\n}\n",
        "f.rb": "# Sum up the two numbers.\ndef add(a, b)\n  a + b\nend\n",
    }
    (tmp_path / "shop").mkdir()
    for name, source in sources.items():
        (tmp_path / "shop" / name).write_bytes(source.encode())
    report = MiningReport()
    pairs = mine_pairs(tmp_path, languages=LANGUAGES, report=report, show_progress=False)
    assert report.functions_seen == report.functions_kept == 7
    assert sorted(pairs["language"]) == sorted(LANGUAGES)
    assert {query.lower() for query in pairs["query"]} == {"sum up the two numbers.", "sums up the two numbers."}
    assert all(parses(row["language"], row["code"]) and "\r" not in row["code"] for row in pairs)
    assert set(pairs["package"]) == {"shop"}


def test_remarks_are_dropped_and_counted_by_their_rule(tmp_path):
    source = "/** {} */\nfunction add(a, b) {{\n  return a + b;\n}}\n"
    (tmp_path / "a.js").write_text(
        source.format("Called by Order.add only.") + source.format("Note that. Sums it all.")
    )
    report = MiningReport()
    pairs = mine_pairs(tmp_path, report=report, show_progress=False, keep_duplicates=True)
    assert pairs["query"][:] == ["Sums it all."]
    assert (report.functions_seen, report.functions_dropped["query_remark"]) == (2, 1)


@pytest.mark.parametrize("folder", ["node_modules", "vendor"])
def test_other_peoples_packages_are_mined_by_name_only(tmp_path, folder):
    source = "/** Sum up the two numbers. */\nfunction add(a, b) {\n  return a + b;\n}\n"
    for place in (tmp_path / "shop", tmp_path / "shop" / folder / "left"):
        place.mkdir(parents=True)
        (place / "a.js").write_text(source.replace("add", f"add_{place.name}"))
    assert list(mine_pairs(tmp_path, languages="javascript", show_progress=False)["name"]) == ["add_shop"]
    inside = tmp_path / "shop" / folder
    assert list(mine_pairs(inside, languages="javascript", show_progress=False)["name"]) == ["add_left"]


@pytest.mark.parametrize(
    ("language", "source"),
    [
        (
            "python",
            "import os\n\n@cached\n@traced(\n    1\n)\ndef add(first):\n    '''Add the totals.'''\n    return 1\n",
        ),
        ("python", "class A:\n    x = 1\n\n    def add(self):\n        return 1\n"),
        ("javascript", "let a = 1;\n\n/** Add the totals. */\nfunction add(first) {\n  return 1;\n}\n"),
        (
            "typescript",
            "class A {\n  b = 1;\n\n  // Add the totals.\n  add(first: number): number {\n    return 1;\n  }\n}\n",
        ),
        ("go", "package a\n\n// add adds the totals.\nfunc add(first int) int {\n\treturn 1\n}\n"),
        ("java", "class A {\n  /** Add the totals. */\n\n  int add(int first) {\n    return 1;\n  }\n}\n"),
        ("php", "<?php\n\n\n// Add the totals.\nfunction add($first) {\n  return 1;\n}\n"),
        ("ruby", "# Add the totals.\n\ndef add(first)\n  1\nend\n"),
    ],
    ids=lambda value: value if value in LANGUAGES else "",
)
def test_the_line_is_the_one_on_which_the_function_begins_below_its_documentation(language, source):
    (found,) = (item for item in parse(language, source) if item.rule in (None, "no_docstring"))
    assert "add(" in source.splitlines()[found.line - 1]
    assert "otals" not in source.splitlines()[found.line - 1]
