"""The data flow of hand-written code: which occurrence of a variable gets its value from which."""

import re
import sys
import threading

import pytest
from graph_code_bert import extract_data_flow
from graph_code_bert.syntaxes import SYNTAXES

from st_softinfonce.data import parse_function

NAME = re.compile(r"@?\w+")


def numbered_edges(code, language):
    """The edges as {"x1<x0"}: the second x of the code (counted from 0) gets its value from the first."""
    flow = extract_data_flow(code, language)
    assert flow is not None, f"does not parse: {code}"
    seen = {}
    labels = []
    words = {match.start(): match.group() for match in NAME.finditer(flow.text)}
    for start, word in sorted(words.items()):
        count = seen[word] = seen.get(word, -1) + 1
        labels.append((start, f"{word}{count}"))
    by_start = dict(labels)
    names = [by_start[start] for start, _ in flow.variables]
    for (start, end), _ in zip(flow.variables, names, strict=True):
        assert flow.text[start:end] == words[start]
    return {f"{name}<{names[source]}" for name, row in zip(names, flow.sources, strict=True) for source in row}


CASES = r"""
# An assignment: the left from the right, the right from the parameter.
assignment: b0<a1 a1<a0 b1<b0
  python def f(a):\n    b = a\n    return b
  javascript function f(a) { let b = a; return b; }
  go func f(a int) int { b := a\n return b }
  java int f(int a) { int b = a; return b; }
  php function f($a) { $b = $a; return $b; }
  ruby def f(a)\n  b = a\n  b\nend
# x += y comes from both.
augmented: x1<x0 x1<y1 y1<y0 x2<x1
  python def f(x, y):\n    x += y\n    return x
  javascript function f(x, y) { x += y; return x; }
  go func f(x, y int) int { x += y\n return x }
  java int f(int x, int y) { x += y; return x; }
  php function f($x, $y) { $x += $y; return $x; }
  ruby def f(x, y)\n  x += y\n  x\nend
# x++ comes from x.
increment: x1<x0 x2<x1
  javascript function f(x) { x++; return x; }
  go func f(x int) int { x++\n return x }
  java int f(int x) { --x; return x; }
  php function f($x) { $x++; return $x; }
# Both branches may have given the value; the value from before has not.
if-else: c1<c0 x3<x1 x3<x2
  python def f(c):\n    x = 0\n    if c:\n        x = 1\n    else:\n        x = 2\n    return x
  javascript function f(c) { let x = 0; if (c) { x = 1; } else { x = 2; } return x; }
  go func f(c bool) int { x := 0\n if c { x = 1 } else { x = 2 }\n return x }
  java int f(boolean c) { int x = 0; if (c) x = 1; else { x = 2; } return x; }
  php function f($c) { $x = 0; if ($c) { $x = 1; } else { $x = 2; } return $x; }
  ruby def f(c)\n  x = 0\n  if c then x = 1 else x = 2 end\n  x\nend
# Without an else the value from before is a third, also after an else-if.
elif: c1<c0 c2<c0 x3<x0 x3<x1 x3<x2
  python def f(c):\n    x = 0\n    if c:\n        x = 1\n    elif c:\n        x = 2\n    return x
else-if: c1<c0 c2<c0 x3<x0 x3<x1 x3<x2
  javascript function f(c) { let x = 0; if (c) x = 1; else if (c) x = 2; return x; }
elseif: c1<c0 c2<c0 x3<x0 x3<x1 x3<x2
  php function f($c) { $x = 0; if ($c) $x = 1; elseif ($c) $x = 2; return $x; }
if-modifier: c1<c0 x2<x0 x2<x1
  ruby def f(c)\n  x = 0\n  x = 1 if c\n  x\nend
# A loop: the second pass takes its values from the first, and no pass at all is possible.
while: n1<n0 n2<n0 y0<x1 x1<x0 x1<x2 x2<n2 x3<x0 x3<x2
  python def f(n):\n    x = 0\n    while n:\n        y = x\n        x = n\n    return x
  javascript function f(n) { let x = 0; while (n) { let y = x; x = n; } return x; }
  java int f(int n) { int x = 0; while (n > 0) { int y = x; x = n; } return x; }
  php function f($n) { $x = 0; while ($n) { $y = $x; $x = $n; } return $x; }
  ruby def f(n)\n  x = 0\n  while n\n    y = x\n    x = n\n  end\n  x\nend
while: n1<n0 x0<n1 n2<n0 n3<n0 y0<x1 x1<x0 x1<x2 x2<n3 x3<x0 x3<x2
  go func f(n bool) bool { x := n\n for n { y := x\n x = n }\n return x }
# A do loop is gone through at least once.
do: x1<n1 n1<n0 n2<n0 x2<x1
  java int f(int n) { int x = 0; do { x = n; } while (n > 0); return x; }
# The three parts of a counting loop.
for: n1<n0 i1<i0 i1<i2 i2<i0 i3<i0 i3<i2 s1<s0 s1<i3 s2<s0 s2<s1
  javascript function f(n) { let s = 0; for (let i = 0; i < n; i++) { s += i; } return s; }
  java int f(int n) { int s = 0; for (int i = 0; i < n; i++) { s += i; } return s; }
  go func f(n int) int { s := 0\n for i := 0; i < n; i++ { s += i }\n return s }
  php function f($n) { $s = 0; for ($i = 0; $i < $n; $i++) { $s += $i; } return $s; }
# Elements of what is gone through.
for-in: a1<a0 b0<a1 b1<b0 c0<b1 c1<c0
  python def f(a):\n    for b in a:\n        c = b\n    return c
for-of: a1<a0 b0<a1 b1<b0
  javascript function f(a) { for (const b of a) { g(b); } }
range: a1<a0 i0<a1 b0<a1 i1<i0 b1<b0
  go func f(a []int) { for i, b := range a { g(i, b) } }
for-each: a1<a0 b0<a1 b1<b0
  java void f(int[] a) { for (int b : a) { g(b); } }
foreach: a1<a0 k0<a1 b0<a1 k1<k0 b1<b0
  php function f($a) { foreach ($a as $k => $b) { g($k, $b); } }
for-in: a1<a0 b0<a1 b1<b0
  ruby def f(a)\n  for b in a do\n    g(b)\n  end\nend
block: a1<a0 x1<b1 b1<b0 x2<x0 x2<x1
  ruby def f(a)\n  x = 0\n  a.each { |b| x = b }\n  x\nend
# Several at once, one by one where there are as many.
swap: a1<b2 b1<a2 a2<a0 b2<b0
  python def f(a, b):\n    a, b = b, a
  javascript function f(a, b) { [a, b] = [b, a]; }
  go func f(a, b int) { a, b = b, a }
  php function f($a, $b) { [$a, $b] = [$b, $a]; }
  ruby def f(a, b)\n  a, b = b, a\nend
unpack: b0<a1 c0<a1 d0<a1 a1<a0
  python def f(a):\n    b, (c, *d) = a
unpack: b0<a1 d0<a1 e0<a1 a1<a0
  javascript function f(a) { const {b, c: [d], ...e} = a; }
results: v0<m1 v0<k1 ok0<m1 ok0<k1 m1<m0 k1<k0 v1<v0 ok1<ok0
  go func f(m map[int]int, k int) { v, ok := m[k]\n g(v, ok) }
# Defaults of parameters.
default: a1<a0 b0<a1 b1<b0
  python def f(a, b=a):\n    return b
  javascript function f(a, b = a) { return b; }
  ruby def f(a, b = a)\n  b\nend
# A part is changed: the whole comes from what it was, and from the value.
element: a1<a0 a1<i1 a1<v1 i1<i0 v1<v0 a2<a1
  python def f(a, i, v):\n    a[i] = v\n    return a
  java int[] f(int[] a, int i, int v) { a[i] = v; return a; }
attribute: a1<a0 a1<v1 v1<v0 a2<a1
  javascript function f(a, v) { a.x = v; return a; }
  php function f($a, $v) { $a->x = $v; return $a; }
  ruby def f(a, v)\n  a.x = v\n  a\nend
pointer: p1<p0 p1<v1 v1<v0 p2<p1
  go func f(p *int, v int) { *p = v\n g(p) }
# Names that are no variables.
attribute-name: a1<a0 b3<b0
  python def f(a, b):\n    return a.b(b=b).a
method-name: a1<a0 b2<b0
  java int f(A a, int b) { return a.b(b).a; }
  ruby def f(a, b)\n  a.b(b)\nend
tag-name: a2<a0
  javascript function f(a) { return <a b={a}><a/></a>; }
# Inner variables of the same name: of functions, ...
shadowing: x3<x2 x4<x0
  python def f(x):\n    def g(x):\n        x = 1\n        return x\n    return x
lambda: x2<x1 x3<x0
  python def f(x):\n    g = lambda x: x\n    return x
comprehension: x1<x2 x2<x3 x3<x0 y0<x1 y0<x2 x4<x0
  python def f(x):\n    y = [x for x in x]\n    return x
arrow: x2<x1 x3<x0
  javascript function f(x) { const g = x => x; return x; }
func: x2<x1 x3<x0
  go func f(x int) int { g := func(x int) int { return x }\n return x }
lambda: y1<y0 z0<y1 z1<z0 x1<x0
  java int f(int x) { g(y -> { int z = y; return z; }); return x; }
closure: x2<x1 x3<x0
  php function f($x) { $g = function ($x) { return $x; }; return $x; }
block-parameter: x2<x1 x3<x0
  ruby def f(x)\n  g { |x| x }\n  x\nend
# ... and of blocks.
let: x2<x1 x3<x0
  javascript function f(x) { { let x = 1; g(x); } return x; }
var: x2<x1
  javascript function f() { var x = 0; { var x = 1; } return x; }
short-declaration: x2<x1 x3<x1 x4<x0
  go func f(x int) int { if x := 1; x > 0 { g(x) }\n return x }
blocks: x1<x0 x3<x2
  java void f() { { int x = 1; g(x); } { int x = 2; g(x); } }
# A function is made of what it takes from outside, and may change it where the language lets it.
closure: y1<x1 x1<x0 y2<y0 y2<y1
  javascript function f(x) { let y = 0; g(() => { y = x; }); return y; }
closure: a1<a0 x1<x0 g0<x1 g1<g0
  python def f(x):\n    g = lambda a: a + x\n    return g
# Cases.
switch: c1<c0 x3<x0 x3<x2 x4<x0 x4<x1 x4<x2
  javascript function f(c) { let x = 0; switch (c) { case 1: x = 1; break; case 2: x = 2; default: g(x); } return x; }
switch: c1<c0 x3<x1 x3<x2
  java int f(int c) { int x = 0; switch (c) { case 1: x = 1; break; default: x = 2; } return x; }
switch: c1<c0 x2<x0 x2<x1
  go func f(c int) int { x := 0\n switch c { case 1: x = 1 }\n return x }
  php function f($c) { $x = 0; switch ($c) { case 1: $x = 1; } return $x; }
case: c1<c0 x3<x1 x3<x2
  ruby def f(c)\n  x = 0\n  case c\n  when 1 then x = 1\n  else x = 2\n  end\n  x\nend
match: c1<c0 a0<c1 b0<c1 a1<a0 b1<b0
  python def f(c):\n    match c:\n        case [a, *b]:\n            return a, b
# Errors: the handler may start from before the body or after it.
try: e0<E0 x2<x0 x2<x1 e1<e0 x3<x0 x3<x1
  python def f():\n    x = 0\n    try:\n        x = 1\n    except E as e:\n        g(x, e)\n    return x
try: x2<x0 x2<x1 e1<e0 x3<x0 x3<x1
  java int f() { int x = 0; try { x = 1; } catch (E e) { g(x, e); } return x; }
rescue: x2<x1 e1<e0
  ruby def f\n  x = 0\n  x = 1\nrescue E => e\n  g(x, e)\nend
with: p1<p0 g0<open0 g0<p1 g1<g0
  python def f(p):\n    with open(p) as g:\n        return g
# Texts with variables in them.
f-string: x1<x0
  python def f(x):\n    return f'{x} x'
interpolation: x1<x0
  php function f($x) { return "a $x"; }
  ruby def f(x)\n  "a #{x} x"\nend
# A name that never got a value stands for itself from its first occurrence on.
free: g1<g0 a1<a0
  python def f():\n    g(a)\n    g(a)
instance: @x0<x1 x1<x0 @x1<@x0
  ruby def f(x)\n  @x = x\n  @x\nend
"""


def cases():
    """Read a construct, its edges, and below them the code of each language; a line break in it is written out."""
    name = edges = ""
    for line in CASES.splitlines():
        if line.startswith("  "):
            language, code = line.strip().split(" ", 1)
            yield pytest.param(language, code.replace(r"\n", "\n"), set(edges.split()), id=f"{language}-{name}")
        elif line and not line.startswith("#"):
            name, edges = line.split(": ")


@pytest.mark.parametrize(("language", "code", "edges"), list(cases()))
def test_values_come_from_where_the_program_takes_them(language, code, edges):
    assert numbered_edges(code, language) == edges


def test_every_language_is_tested():
    assert {param.values[0] for param in cases()} == set(SYNTAXES)


def test_text_is_the_tokens_without_comments_and_spans_are_in_it():
    flow = extract_data_flow("def f(é, b):  # comment é\n\tö = é+b\n\treturn 'a  b', ö", "python")
    assert flow.text == "def f ( é , b ) : ö = é + b return 'a  b' , ö"
    assert {flow.text[start:end] for start, end in flow.variables} == {"é", "b", "ö"}
    assert list(flow.variables) == sorted(flow.variables)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("java", "@Override public int f(int x) { return x; }"),
        ("java", "C(int x) { f(x); }"),
        ("php", "public static function f($x) { return $x; }"),
        ("javascript", "async f(x) { return x; }"),
        ("javascript", "function (x) { return x; }"),
    ],
    ids=["java", "java-constructor", "php", "javascript-method", "javascript-anonymous"],
)
def test_a_method_need_not_stand_in_its_class(language, code):
    assert numbered_edges(code, language) == {"x1<x0"}
    assert "class A" not in extract_data_flow(code, language).text


@pytest.mark.parametrize("language", sorted(SYNTAXES))
@pytest.mark.parametrize("code", ["", "  \n", "this is ( no {{ code"], ids=["empty", "blank", "text"])
def test_what_does_not_parse_has_no_data_flow(language, code):
    assert extract_data_flow(code, language) is None


def test_comments_alone_have_no_data_flow():
    assert extract_data_flow("# x = y", "python") is None


def test_lone_surrogates_do_no_harm():
    assert extract_data_flow("x = '\ud800'; y = x", "python").edges


@pytest.mark.parametrize("language", [None, "c", "Python", 3])
def test_unknown_languages_are_refused(language):
    with pytest.raises(ValueError, match=r"language must be one of \['go', 'java'.*got"):
        extract_data_flow("x = y", language)
    with pytest.raises(ValueError, match=r"language must be one of \['go', .*'typescript'\], got 'cobol'"):
        parse_function("x = y", "cobol")


DEEP = 20 * sys.getrecursionlimit()


@pytest.mark.parametrize(
    "code",
    [
        "x = " + "(" * DEEP + "x" + ")" * DEEP,
        "x = " + "-" * DEEP + "x",
        "x = 1" + " + x" * DEEP,
        "x" + ".a" * DEEP + " = x",
        "".join(" " * depth + "for x in x:\n" for depth in range(60)) + " " * 60 + "x = x",
    ],
    ids=["parentheses", "unary", "binary", "attributes", "loops"],
)
def test_deep_nesting_is_no_error_and_takes_no_exponential_time(code):
    assert extract_data_flow(code, "python").edges  # 60 loops would take for ever


def test_threads_get_the_same_answer():
    code = "def f(a):\n    b = a\n    return b"
    expected = extract_data_flow(code, "python")
    found = []
    threads = [
        threading.Thread(target=lambda: found.extend(extract_data_flow(code, "python") for _ in range(50)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert set(found) == {expected}
