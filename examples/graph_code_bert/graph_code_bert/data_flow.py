"""Where the values of a function's variables come from, by tree-sitter: the data flow that GraphCodeBERT reads."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tree_sitter import TreeCursor

from graph_code_bert.syntaxes import (
    SYNTAXES,
    Assign,
    Bind,
    Comprehension,
    Function,
    If,
    Loop,
    Reach,
    Rule,
    Switch,
    Syntax,
    Try,
    Update,
    check_language,
)
from st_softinfonce.data import parse_function


@dataclass(frozen=True)
class DataFlow:
    """The variables of a piece of code, and where the value of each comes from.

    Args:
        text: The code's tokens, a space between any two, without comments: what the paper's model reads.
        variables: (start, end) in :attr:`text` of each occurrence of a variable that a value comes from or goes to,
            in order of position.
        sources: For each of them, the variables (as positions in :attr:`variables`) that its value comes from.
    """

    text: str
    variables: tuple[tuple[int, int], ...]
    sources: tuple[tuple[int, ...], ...]

    @property
    def edges(self) -> list[tuple[str, str]]:
        """The edges for reading: (variable, where its value comes from), each as ``name@place in the text``."""
        names = [f"{self.text[start:end]}@{start}" for start, end in self.variables]
        return [(name, names[source]) for name, row in zip(names, self.sources, strict=True) for source in row]


def extract_data_flow(code: str, language: str) -> DataFlow | None:
    """Find where the values of the variables of a piece of code come from.

    The graph is that of Guo et al. (2021, section 3): a node for each occurrence of a variable; one that is read gets
    its value from wherever the variable may have been given one last, one that is assigned to from the variables on
    the right-hand side. Branches are merged, and loops are gone through twice, so that a value may come from the
    pass before. A name that is read before it has a value stands for itself from there on. Jumps are not followed.

    Departing from the authors' published parsers, names of attributes and (where the grammar tells them) of methods
    and types are no variables, blocks and inner functions have variables of their own, and the ``x`` of ``x += y``
    comes from ``x`` as well.

    Args:
        code: A function, or any other part of a program that parses by itself. A method need not stand in its class.
        language: ``"go"``, ``"java"``, ``"javascript"``, ``"php"``, ``"python"`` or ``"ruby"``.

    Returns:
        The data flow; ``None`` where the code does not parse or holds nothing but comments.

    Raises:
        ValueError: The language is not known.

    Example:
        >>> extract_data_flow("b = a", "python").edges
        [('b@0', 'a@4')]
    """
    syntax = SYNTAXES[check_language(language)]
    parsed = parse_function(code, language)
    if parsed is None:
        return None
    root, words = _read_tree(parsed.root.walk(), parsed.data, syntax, parsed.start, parsed.end)
    return _data_flow(root, words, parsed.data, syntax) if words else None


def _data_flow(root: _Node, words: list[tuple[int, int]], data: bytes, syntax: Syntax) -> DataFlow:
    pieces = [data[start:end].decode() for start, end in words]
    places = [0]
    for piece in pieces:
        places.append(places[-1] + len(piece) + 1)
    starts = [start for start, _ in words]

    def place(position: int) -> int:
        word = bisect_right(starts, position) - 1
        return places[word] + len(data[starts[word] : position].decode())

    sources = _Flow(data, syntax).run(root)
    kept = sorted({end for variable, row in sources.items() if row for end in (variable, *row)})
    numbers = {variable: number for number, variable in enumerate(kept)}
    return DataFlow(
        " ".join(pieces),
        tuple((place(start), place(start) + len(data[start:end].decode())) for start, end in kept),
        tuple(tuple(sorted(numbers[source] for source in sources.get(variable, ()))) for variable in kept),
    )


class _Node:
    """A node of a syntax tree without what is no variable: cheaper to ask than tree-sitter's."""

    __slots__ = ("children", "end", "field", "kind", "parent", "start")

    def __init__(self, kind: str, field: str | None, parent: str, start: int, end: int) -> None:
        self.kind, self.field, self.parent, self.start, self.end = kind, field, parent, start, end
        self.children: list[_Node] = []


def _read_tree(
    cursor: TreeCursor, data: bytes, syntax: Syntax, begin: int, stop: int
) -> tuple[_Node, list[tuple[int, int]]]:
    """Copy a tree without recursion, and list its words between two positions."""
    words: list[tuple[int, int]] = []
    root = parent = _Node("", None, "", 0, 0)
    path: list[_Node] = []
    atom_end = 0
    while True:
        node = cursor.node
        assert node is not None
        kind, field, start, end = node.type, cursor.field_name, node.start_byte, node.end_byte
        copy = _Node(kind, field, parent.kind, start + syntax.sigil * (kind in syntax.variables), end)
        if (
            (field is not None or node.is_named or kind == ":=")
            and kind not in syntax.ignored_kinds
            and (parent.kind, field) not in syntax.ignored
            and (parent.kind, kind) not in syntax.ignored_children
        ):
            parent.children.append(copy)
        has_children = cursor.goto_first_child()
        if atom_end <= start and begin <= start and end <= stop and (not has_children or kind in syntax.atoms):
            if "comment" not in kind and data[start:end].strip():
                words.append((start, end))
            atom_end = end
        if has_children:
            path.append(parent)
            parent = copy
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return root.children[0], words
            parent = path.pop()


_Variable: TypeAlias = tuple[int, int]
_State: TypeAlias = dict[str, frozenset[_Variable]]
# What going through a node yields is the nodes to go through first; what it returns are the variables it is made of.
_Step: TypeAlias = Generator["_Step", list[_Variable], list[_Variable]]

_JUMPS = frozenset(
    {"break_statement", "continue_statement", "return_statement", "throw_statement", "throw_expression"}
)
_HANDLERS = frozenset({"except_clause", "except_group_clause", "catch_clause", "rescue"})
_ELSES = frozenset({"else_clause", "else"})
_FINALLY = frozenset({"finally_clause", "ensure"})
_ELSE_IFS = frozenset({"elif_clause", "else_if_clause"})


class _Flow:
    """Goes through a tree as a program is run, keeping where each variable may have been given its value.

    Steps are generators on a stack of our own: code may be nested more deeply than Python calls may.
    """

    def __init__(self, data: bytes, syntax: Syntax) -> None:
        self._data = data
        self._syntax = syntax
        self._state: _State = {}
        self._declared: list[_State] = [{}]  # of each open scope: what the names declared in it meant outside
        self._functions = [0]  # which of the scopes are those of functions
        self._recording = True
        self._sources: dict[_Variable, set[_Variable]] = {}

    def run(self, root: _Node) -> dict[_Variable, set[_Variable]]:
        """Go through a tree and return, for each variable read or written, where its value comes from."""
        stack = [self._in_order([root])]
        value: list[_Variable] | None = None
        while stack:
            try:
                step = next(stack[-1]) if value is None else stack[-1].send(value)
            except StopIteration as finished:
                stack.pop()
                value = finished.value
            else:
                stack.append(step)
                value = None
        return self._sources

    def _visit(self, node: _Node) -> _Step:
        if node.kind in self._syntax.scopes:
            return self._in_scope(node)
        return self._inside(node)

    def _inside(self, node: _Node) -> _Step:
        rule = self._syntax.rules.get(node.kind)
        if rule is None:
            return self._in_order(node.children)
        return self._by_rule(node, rule)

    def _by_rule(self, node: _Node, rule: Rule) -> _Step:
        match rule:
            case Assign():
                return self._assign(node, rule)
            case Bind():
                return self._bind(node, rule)
            case Update():
                return self._targets(node.children, [], update=True)
            case If():
                return self._if(node)
            case Switch():
                return self._switch(node, rule)
            case Loop():
                return self._loop(node, rule)
            case Function():
                return self._function(node, rule)
            case Try():
                return self._try(node)
            case Comprehension():
                return self._comprehension(node)

    def _in_order(self, nodes: Iterable[_Node]) -> _Step:
        found: list[_Variable] = []
        for node in nodes:
            if node.kind in self._syntax.variables:
                found += self._read(node)
            elif node.children:
                found += yield self._visit(node)
        return found

    def _in_scope(self, node: _Node) -> _Step:
        self._declared.append({})
        found = yield self._inside(node)
        self._end_scope()
        return found

    def _end_scope(self) -> None:
        for name, outside in self._declared.pop().items():
            if outside:
                self._state[name] = outside
            else:
                self._state.pop(name, None)

    # Variables

    def _name(self, node: _Node) -> str:
        return self._data[node.start : node.end].decode()

    def _read(self, node: _Node) -> list[_Variable]:
        name, variable = self._name(node), (node.start, node.end)
        if name in self._syntax.blank:
            return []
        if name in self._state:
            self._record(variable, self._state[name])
        else:
            self._state[name] = frozenset({variable})
        return [variable]

    def _write(
        self, node: _Node, sources: Sequence[_Variable], declares: Reach | None, update: bool
    ) -> list[_Variable]:
        name, variable = self._name(node), (node.start, node.end)
        if name in self._syntax.blank:
            return []
        before = self._state.get(name, frozenset())
        if declares is not None:
            scope = self._declared[-1 if declares == "block" else self._functions[-1]]
            scope.setdefault(name, before)
        self._record(variable, sources)
        if update:
            self._record(variable, before)
        self._state[name] = frozenset({variable})
        return [variable]

    def _record(self, variable: _Variable, sources: Iterable[_Variable]) -> None:
        if self._recording:
            self._sources.setdefault(variable, set()).update(source for source in sources if source != variable)

    def _targets(
        self,
        nodes: Iterable[_Node],
        sources: list[_Variable],
        declares: Reach | None = None,
        update: bool = False,
    ) -> _Step:
        """Give the variables in patterns a value; return these variables."""
        written: list[_Variable] = []
        for node in nodes:
            if node.kind in self._syntax.variables:
                written += self._write(node, sources, declares, update)
            elif node.kind in self._syntax.accesses:
                written += yield self._change_part(node, sources)
            elif node.kind in self._syntax.defaulted:
                named = [child for child in node.children if child.field in ("name", "left")]
                fallback = yield self._in_order(child for child in node.children if child not in named)
                written += yield self._targets(named, sources + fallback, declares, update)
            elif node.children:
                written += yield self._targets(node.children, sources, declares, update)
        return written

    def _change_part(self, node: _Node, sources: list[_Variable]) -> _Step:
        """Assign to an attribute or an element: the variable in front keeps its other parts."""
        others: list[_Node] = []
        while node.kind in self._syntax.accesses and node.children:
            # A unary operator (Go's *p) comes before its operand.
            front = next((child for child in node.children if child.field != "operator"), node.children[0])
            others[:0] = [child for child in node.children if child is not front]
            node = front
        found = sources + (yield self._in_order(others))
        if node.kind in self._syntax.variables:
            return self._write(node, found, None, update=True)
        return (yield self._in_order([node]))

    # Rules

    def _assign(self, node: _Node, rule: Assign) -> _Step:
        operators = {self._name(child) for child in node.children if child.field == "operator" or child.kind == ":="}
        parts = [child for child in node.children if child.field != "operator" and child.kind != ":="]
        left = [child for child in parts if child.field in rule.left]
        right = [child for child in parts if child.field not in rule.left]
        declares: Reach | None = rule.declares
        if node.kind == "variable_declarator" and node.parent == "lexical_declaration":
            declares = "block"
        elif node.kind == "variable_declarator" and node.parent == "variable_declaration":
            declares = "function"
        elif ":=" in operators:
            declares = "block"
        update = not operators <= {"=", ":="}
        targets, values = self._elements(left), self._elements(right)
        if (
            rule.elementwise
            and len(targets) == len(values) > 1
            and not any("splat" in part.kind for part in targets + values)
        ):
            sources = []
            for value in values:
                sources.append((yield self._in_order([value])))
            written: list[_Variable] = []
            for target, source in zip(targets, sources, strict=True):
                written += yield self._targets([target], source, declares, update)
            return written
        found = yield self._in_order(right)
        return (yield self._targets(left, found, declares, update))

    def _elements(self, nodes: list[_Node]) -> list[_Node]:
        if len(nodes) == 1 and nodes[0].kind in self._syntax.sequences:
            return nodes[0].children
        return nodes

    def _bind(self, node: _Node, rule: Bind) -> _Step:
        bound = [child for child in node.children if not rule.fields or child.field in rule.fields]
        found = yield self._targets(bound, [], rule.declares)
        found += yield self._in_order(child for child in node.children if child not in bound)
        return found

    def _if(self, node: _Node) -> _Step:
        branches = [child for child in node.children if child.field in ("consequence", "body", "alternative")]
        found = yield self._in_order(child for child in node.children if child not in branches)
        before = self._state
        ends = []
        for branch in branches:
            self._state = dict(before)
            found += yield self._in_order([branch])
            ends.append(self._state)
        has_else = any(child.field == "alternative" and child.kind not in _ELSE_IFS for child in branches)
        self._state = _merged(ends if has_else else [before, *ends])
        return found

    def _switch(self, node: _Node, rule: Switch) -> _Step:
        cases = [child for child in node.children if child.kind in rule.cases]
        header = []
        for child in node.children:
            inner = [grandchild for grandchild in child.children if grandchild.kind in rule.cases]
            if inner:
                cases += inner
            elif child.kind not in rule.cases and child.field != "alias":
                header.append(child)
        found = yield self._in_order(header)
        alias = [child for child in node.children if child.field == "alias"]
        found += yield self._targets(alias, list(found), "block")
        subject = list(found)
        before = self._state
        ends: list[_State] = []
        falls_through = has_default = False
        for case in cases:
            self._state = _merged([before, ends.pop()]) if falls_through else dict(before)
            self._declared.append({})
            patterns = [child for child in case.children if {child.field, child.kind} & rule.patterns]
            found += yield self._targets(patterns, subject)
            found += yield self._in_order(child for child in case.children if child not in patterns)
            self._end_scope()
            ends.append(self._state)
            has_default |= case.kind in rule.default or _is_default_label(case)
            jumps = bool(case.children) and case.children[-1].kind in _JUMPS
            falls_through = case.kind in rule.falls_through and not jumps
        self._state = _merged(ends if has_default else [before, *ends])
        return found

    def _loop(self, node: _Node, rule: Loop) -> _Step:
        parts = [part for child in node.children for part in _loop_parts(child)]
        once = [part for part in parts if part.field in ("initializer", "init", "initialize")]
        last = [part for part in parts if part.field in ("increment", "update")]
        after = [part for part in parts if part.field == "alternative"]
        left = [part for part in parts if part.field in rule.left]
        if rule.positional:
            elements, target, *_ = parts
            once, left = [elements], [target]
        elif left:
            once = [part for part in parts if part.field in ("right", "value")]
        repeated = [part for part in parts if part not in [*once, *last, *after, *left]]
        if not rule.at_least_once:
            repeated.sort(key=lambda part: part.field != "condition")
        is_new = (
            any(part.field == "kind" or part.kind == ":=" for part in parts) or node.kind == "enhanced_for_statement"
        )
        found = yield self._in_order(once)
        values = list(found)
        before = dict(self._state)
        # The first pass only finds what the second one may start with. Inside another loop's first pass that is all,
        # so that the time taken grows with the depth of loops and not with its power.
        for recording in (False, True) if self._recording else (False,):
            was, self._recording = self._recording, recording
            inside = yield self._targets(left, values, "block" if is_new else None)
            inside += yield self._in_order([*repeated, *last])
            self._recording = was
            if not (recording and rule.at_least_once):
                self._state = _merged([before, self._state])
        return found + inside + (yield self._in_order(after))

    def _function(self, node: _Node, rule: Function) -> _Step:
        name = [child for child in node.children if child.field == "name"]
        parameters = [child for child in node.children if child.field in rule.parameters]
        body = [child for child in node.children if child not in [*name, *parameters]]
        found = (yield self._targets(name, [])) if rule.named else []
        outside = dict(self._state)
        self._functions.append(len(self._declared))
        self._declared.append({})
        yield self._targets(parameters, [], "block")
        inside = yield self._in_order(body)
        local = set(self._declared[-1])
        self._end_scope()
        self._functions.pop()
        if rule.assigns_outside:
            changed = {name: variables for name, variables in self._state.items() if name in outside}
            self._state = _merged([outside, changed])
        else:
            self._state = outside
        # A function is made of the variables it takes from outside.
        return found + [
            variable
            for variable in inside
            if (name_of := self._data[variable[0] : variable[1]].decode()) in outside and name_of not in local
        ]

    def _try(self, node: _Node) -> _Step:
        handlers = [child for child in node.children if child.kind in _HANDLERS]
        no_error = [child for child in node.children if child.kind in _ELSES]
        cleanup = [child for child in node.children if child.kind in _FINALLY]
        before = dict(self._state)
        found = yield self._in_order(child for child in node.children if child not in [*handlers, *no_error, *cleanup])
        failed = _merged([before, self._state])
        found += yield self._in_order(no_error)
        ends = [self._state]
        for handler in handlers:
            self._state = dict(failed)
            found += yield self._visit(handler)
            ends.append(self._state)
        self._state = _merged(ends)
        found += yield self._in_order(cleanup)
        return found

    def _comprehension(self, node: _Node) -> _Step:
        outside = dict(self._state)
        body = [child for child in node.children if child.field == "body"]
        found = yield self._in_order(child for child in node.children if child not in body)
        found += yield self._in_order(body)
        self._state = outside
        return found


def _loop_parts(node: _Node) -> list[_Node]:
    """The parts of Go's loop clauses, which are nodes of their own, and Ruby's elements without their ``in``."""
    return node.children if node.kind in ("for_clause", "range_clause") else [node]


def _is_default_label(case: _Node) -> bool:
    """Whether a case of Java is ``default``, which is a label of nothing."""
    return bool(case.children) and case.children[0].kind == "switch_label" and not case.children[0].children


def _merged(states: Sequence[_State]) -> _State:
    merged: _State = {}
    for state in states:
        for name, variables in state.items():
            known = merged.get(name)
            merged[name] = variables if known is None or known == variables else known | variables
    return merged
