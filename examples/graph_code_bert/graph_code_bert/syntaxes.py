"""What a language's syntax tree says about its variables: one table for each of the six languages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reach = Literal["block", "function"]


@dataclass(frozen=True)
class Assign:
    """The children in the fields ``left`` take the value of all others.

    Args:
        left: Names of fields.
        declares: Where the names end; ``None`` where they stand for what they did before.
        elementwise: Whether the first of several on the left takes the first value on the right, and so on.
    """

    left: tuple[str, ...]
    declares: Reach | None = None
    elementwise: bool = True


@dataclass(frozen=True)
class Bind:
    """The children in these fields (all, if none is named) are given a value from elsewhere; then come the others."""

    fields: tuple[str, ...] = ()
    declares: Reach | None = None


@dataclass(frozen=True)
class Update:
    """A variable is changed in place, as in ``x++``."""


@dataclass(frozen=True)
class If:
    """One of several branches is taken: ``consequence``, ``body`` or an ``alternative``."""


@dataclass(frozen=True)
class Switch:
    """One of several cases is taken.

    Args:
        cases: Kinds of nodes that are a case; children of the node or of its body.
        default: Those of them that are taken when no other is.
        patterns: Fields or kinds of a case's children that bind variables to what is switched on.
        falls_through: Cases that go on with the next one unless they jump.
    """

    cases: frozenset[str]
    default: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    falls_through: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Loop:
    """A body that is run any number of times.

    Args:
        left: Fields of what takes the elements' values; ``()`` for a loop without elements.
        positional: The first child without a field holds the elements, the second takes them.
        at_least_once: Whether the body is run before the condition is asked.
    """

    left: tuple[str, ...] = ()
    positional: bool = False
    at_least_once: bool = False


@dataclass(frozen=True)
class Function:
    """A body with parameters.

    Args:
        parameters: Fields of the parameters.
        named: Whether the name is a variable.
        assigns_outside: Whether assignments inside change variables outside.
    """

    parameters: tuple[str, ...] = ("parameters",)
    named: bool = False
    assigns_outside: bool = False


@dataclass(frozen=True)
class Try:
    """A body that may stop anywhere and go on in a handler."""


@dataclass(frozen=True)
class Comprehension:
    """A body that is evaluated after the clauses that follow it, with variables of its own."""


Rule = Assign | Bind | Update | If | Switch | Loop | Function | Try | Comprehension


@dataclass(frozen=True)
class Syntax:
    """All that is particular to one language.

    Args:
        variables: Kinds of nodes that are an occurrence of a variable.
        sigil: How many bytes before a variable's name are a word of their own.
        rules: What nodes of a kind do; of all others the children are read in order.
        ignored: (kind of parent, field of child) where a name is no variable, such as an attribute's.
        ignored_children: The same for children without a field: (kind of parent, kind of child).
        ignored_kinds: Kinds of nodes in which nothing is a variable.
        atoms: Kinds of nodes whose text is one word, white space included.
        scopes: Kinds of nodes at whose end the variables declared in them end.
        accesses: Kinds of nodes that, when assigned to, change their first child.
        defaulted: Kinds of patterns that name a variable (``name``, ``left``) and a value to fall back on.
        sequences: Kinds of nodes that are assigned element by element.
        blank: Names that are no variable.
    """

    variables: frozenset[str]
    rules: dict[str, Rule]
    ignored: frozenset[tuple[str, str]]
    sigil: int = 0
    ignored_children: frozenset[tuple[str, str]] = frozenset()
    ignored_kinds: frozenset[str] = frozenset()
    atoms: frozenset[str] = frozenset({"string"})
    scopes: frozenset[str] = frozenset()
    accesses: frozenset[str] = frozenset()
    defaulted: frozenset[str] = frozenset()
    sequences: frozenset[str] = frozenset()
    blank: frozenset[str] = frozenset()


_PYTHON = Syntax(
    variables=frozenset({"identifier"}),
    rules={
        "assignment": Assign(("left",)),
        "augmented_assignment": Assign(("left",)),
        "named_expression": Assign(("name",)),
        "as_pattern": Assign(("alias",)),
        "for_in_clause": Assign(("left",), elementwise=False),
        "import_statement": Bind(),
        "import_from_statement": Bind(),
        "class_definition": Bind(("name",)),
        "if_statement": If(),
        "match_statement": Switch(frozenset({"case_clause"}), patterns=frozenset({"case_pattern"})),
        "for_statement": Loop(left=("left",)),
        "while_statement": Loop(),
        "function_definition": Function(named=True),
        "lambda": Function(),
        "try_statement": Try(),
        "list_comprehension": Comprehension(),
        "set_comprehension": Comprehension(),
        "dictionary_comprehension": Comprehension(),
        "generator_expression": Comprehension(),
    },
    ignored=frozenset(
        {
            ("attribute", "attribute"),
            ("keyword_argument", "name"),
            ("import_from_statement", "module_name"),
            ("aliased_import", "name"),
        }
    ),
    ignored_children=frozenset({("keyword_pattern", "identifier"), ("class_pattern", "dotted_name")}),
    ignored_kinds=frozenset({"type", "global_statement", "nonlocal_statement"}),
    accesses=frozenset({"attribute", "subscript"}),
    defaulted=frozenset({"default_parameter", "typed_default_parameter"}),
    sequences=frozenset({"pattern_list", "tuple_pattern", "list_pattern", "expression_list", "tuple", "list"}),
)

_JAVASCRIPT = Syntax(
    variables=frozenset({"identifier", "shorthand_property_identifier", "shorthand_property_identifier_pattern"}),
    rules={
        "variable_declarator": Assign(("name",)),
        "assignment_expression": Assign(("left",)),
        "augmented_assignment_expression": Assign(("left",)),
        "update_expression": Update(),
        "class_declaration": Bind(("name",)),
        "catch_clause": Bind(("parameter",), declares="block"),
        "if_statement": If(),
        "switch_statement": Switch(
            frozenset({"switch_case", "switch_default"}),
            default=frozenset({"switch_default"}),
            falls_through=frozenset({"switch_case", "switch_default"}),
        ),
        "for_statement": Loop(),
        "for_in_statement": Loop(left=("left",)),
        "while_statement": Loop(),
        "do_statement": Loop(at_least_once=True),
        "function_declaration": Function(named=True, assigns_outside=True),
        "generator_function_declaration": Function(named=True, assigns_outside=True),
        "function_expression": Function(assigns_outside=True),
        "generator_function": Function(assigns_outside=True),
        "arrow_function": Function(("parameters", "parameter"), assigns_outside=True),
        "method_definition": Function(assigns_outside=True),
        "try_statement": Try(),
    },
    ignored=frozenset(
        {
            ("function_expression", "name"),
            ("generator_function", "name"),
            ("jsx_opening_element", "name"),
            ("jsx_closing_element", "name"),
            ("jsx_self_closing_element", "name"),
        }
    ),
    atoms=frozenset({"string", "template_string", "regex"}),
    scopes=frozenset(
        {"statement_block", "for_statement", "for_in_statement", "switch_body", "catch_clause", "class_body"}
    ),
    accesses=frozenset({"member_expression", "subscript_expression"}),
    defaulted=frozenset({"assignment_pattern", "object_assignment_pattern"}),
    sequences=frozenset({"array_pattern", "array"}),
)

_GO = Syntax(
    variables=frozenset({"identifier"}),
    rules={
        "short_var_declaration": Assign(("left",), declares="block"),
        "var_spec": Assign(("name",), declares="block"),
        "const_spec": Assign(("name",), declares="block"),
        "assignment_statement": Assign(("left",)),
        "receive_statement": Assign(("left",)),
        "inc_statement": Update(),
        "dec_statement": Update(),
        "if_statement": If(),
        "expression_switch_statement": Switch(
            frozenset({"expression_case", "default_case"}), default=frozenset({"default_case"})
        ),
        "type_switch_statement": Switch(frozenset({"type_case", "default_case"}), default=frozenset({"default_case"})),
        "select_statement": Switch(frozenset({"communication_case", "default_case"})),
        "for_statement": Loop(left=("left",)),
        "function_declaration": Function(("parameters", "result"), named=True),
        "method_declaration": Function(("receiver", "parameters", "result")),
        "func_literal": Function(("parameters", "result"), assigns_outside=True),
    },
    ignored=frozenset({("parameter_declaration", "type"), ("keyed_element", "key"), ("var_spec", "type")}),
    ignored_kinds=frozenset({"type_declaration", "type_parameter_list", "import_declaration"}),
    atoms=frozenset({"interpreted_string_literal", "raw_string_literal"}),
    scopes=frozenset(
        {
            "block",
            "if_statement",
            "for_statement",
            "expression_switch_statement",
            "type_switch_statement",
            "expression_case",
            "type_case",
            "communication_case",
            "default_case",
        }
    ),
    accesses=frozenset({"selector_expression", "index_expression", "unary_expression", "parenthesized_expression"}),
    sequences=frozenset({"expression_list"}),
    blank=frozenset({"_"}),
)

_JAVA = Syntax(
    variables=frozenset({"identifier"}),
    rules={
        "variable_declarator": Assign(("name",), declares="block"),
        "resource": Assign(("name",), declares="block"),
        "assignment_expression": Assign(("left",)),
        "instanceof_expression": Assign(("name",)),
        "update_expression": Update(),
        "catch_formal_parameter": Bind(("name",), declares="block"),
        "if_statement": If(),
        "switch_expression": Switch(
            frozenset({"switch_block_statement_group", "switch_rule"}),
            falls_through=frozenset({"switch_block_statement_group"}),
        ),
        "for_statement": Loop(),
        "enhanced_for_statement": Loop(left=("name",)),
        "while_statement": Loop(),
        "do_statement": Loop(at_least_once=True),
        "method_declaration": Function(),
        "constructor_declaration": Function(),
        "lambda_expression": Function(),
        "try_statement": Try(),
        "try_with_resources_statement": Try(),
    },
    ignored=frozenset(
        {
            ("method_invocation", "name"),
            ("field_access", "field"),
            ("method_declaration", "name"),
            ("constructor_declaration", "name"),
            ("class_declaration", "name"),
            ("interface_declaration", "name"),
            ("enum_declaration", "name"),
            ("record_declaration", "name"),
            ("enum_constant", "name"),
        }
    ),
    ignored_children=frozenset(
        {
            ("labeled_statement", "identifier"),
            ("break_statement", "identifier"),
            ("continue_statement", "identifier"),
        }
    ),
    ignored_kinds=frozenset(
        {"annotation", "marker_annotation", "method_reference", "scoped_identifier", "type_parameters"}
    ),
    atoms=frozenset({"string_literal", "character_literal"}),
    scopes=frozenset(
        {
            "block",
            "for_statement",
            "enhanced_for_statement",
            "try_with_resources_statement",
            "catch_clause",
            "switch_block",
            "class_body",
        }
    ),
    accesses=frozenset({"field_access", "array_access"}),
    defaulted=frozenset({"formal_parameter"}),
)

_PHP = Syntax(
    variables=frozenset({"variable_name"}),
    sigil=1,
    rules={
        "assignment_expression": Assign(("left",)),
        "reference_assignment_expression": Assign(("left",)),
        "augmented_assignment_expression": Assign(("left",)),
        "static_variable_declaration": Assign(("name",)),
        "property_element": Assign(("name",)),
        "update_expression": Update(),
        "catch_clause": Bind(("name",)),
        "if_statement": If(),
        "switch_statement": Switch(
            frozenset({"case_statement", "default_statement"}),
            default=frozenset({"default_statement"}),
            falls_through=frozenset({"case_statement", "default_statement"}),
        ),
        "match_expression": Switch(
            frozenset({"match_conditional_expression", "match_default_expression"}),
            default=frozenset({"match_default_expression"}),
        ),
        "for_statement": Loop(),
        "foreach_statement": Loop(positional=True),
        "while_statement": Loop(),
        "do_statement": Loop(at_least_once=True),
        "function_definition": Function(),
        "method_declaration": Function(),
        "anonymous_function": Function(),
        "arrow_function": Function(),
        "try_statement": Try(),
    },
    ignored=frozenset({("scoped_property_access_expression", "name")}),
    atoms=frozenset({"string", "encapsed_string", "heredoc", "nowdoc", "shell_command_expression"}),
    accesses=frozenset({"member_access_expression", "nullsafe_member_access_expression", "subscript_expression"}),
    defaulted=frozenset({"simple_parameter", "property_promotion_parameter"}),
    sequences=frozenset({"list_literal", "array_creation_expression"}),
)

_RUBY = Syntax(
    variables=frozenset({"identifier", "instance_variable", "class_variable", "global_variable"}),
    rules={
        "assignment": Assign(("left",)),
        "operator_assignment": Assign(("left",)),
        "exception_variable": Bind(),
        "if": If(),
        "unless": If(),
        "elsif": If(),
        "if_modifier": If(),
        "unless_modifier": If(),
        "case": Switch(frozenset({"when", "else"}), default=frozenset({"else"})),
        "case_match": Switch(
            frozenset({"in_clause", "else"}), default=frozenset({"else"}), patterns=frozenset({"pattern"})
        ),
        "for": Loop(left=("pattern",)),
        "while": Loop(),
        "until": Loop(),
        "while_modifier": Loop(),
        "until_modifier": Loop(),
        "method": Function(),
        "singleton_method": Function(),
        "lambda": Function(assigns_outside=True),
        "block": Function(assigns_outside=True),
        "do_block": Function(assigns_outside=True),
        "begin": Try(),
        "body_statement": Try(),
    },
    ignored=frozenset({("call", "method"), ("method", "name"), ("singleton_method", "name")}),
    ignored_kinds=frozenset({"alias", "undef"}),
    atoms=frozenset(
        {"string", "subshell", "regex", "heredoc_body", "delimited_symbol", "string_array", "symbol_array"}
    ),
    accesses=frozenset({"call", "element_reference"}),
    defaulted=frozenset({"optional_parameter", "keyword_parameter"}),
    sequences=frozenset({"left_assignment_list", "right_assignment_list", "array"}),
)

SYNTAXES = {
    "go": _GO,
    "java": _JAVA,
    "javascript": _JAVASCRIPT,
    "php": _PHP,
    "python": _PYTHON,
    "ruby": _RUBY,
}


def check_language(language: object) -> str:
    """Refuse a language that has no table.

    Args:
        language: Its name in lower case.

    Returns:
        The same name.

    Raises:
        ValueError: The language is not known.
    """
    if not isinstance(language, str) or language not in SYNTAXES:
        raise ValueError(f"language must be one of {sorted(SYNTAXES)}, got {language!r}.")
    return language
