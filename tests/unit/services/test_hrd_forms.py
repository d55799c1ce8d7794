"""HRD with a schema, as JSON and TOML, in our layout, and as tokens."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildstep.errors import SpecError
from buildstep.services.hrd import Ask, Document, Value, convert, parse
from buildstep.services.hrd.layout import formatted
from buildstep.services.hrd.schema import Consume, parse_schema
from buildstep.services.hrd.tokens import GRAMMAR, Kind, Token, tokens

# -- schemas -------------------------------------------------------------------------------------------------

SCHEMA = """\
# what a redis needs
port = type:int default:80 minval:1 maxval:65535 descr:'where it listens' @ask
disks = type:int list
name = type:str regex:'^[a-z]+$' alias:'called'
cache = consume:redis:1:3
node = parent:node auto
debug = type:bool optional   # a note
ratio = type:float default:0.5
env = type:dict optional
"""


def test_values_are_typed_by_a_schema() -> None:
    schema = parse_schema(SCHEMA, where="schema.hrd")
    document = parse("called = web\ndisks = 1, 2\ncache = redis!main\ndebug = True\nenv = A:1, B:x\n")
    assert schema.check(document) == {
        "port": 80, "disks": [1, 2], "name": "web", "cache": "redis!main",
        "debug": True, "ratio": 0.5, "env": {"A": 1, "B": "x"},
    }  # fmt: skip
    assert schema.fields["cache"].consume == Consume(role="redis", least=1, most=3)
    assert (schema.fields["node"].parent, schema.fields["node"].auto) == ("node", True)
    assert schema.fields["port"].question() == Ask(
        type="int", default="80", description="where it listens", minimum=1, maximum=65535
    )


def test_all_that_a_schema_refuses_is_told_at_once() -> None:
    document = parse("prot = 1\nport = 0\ndisks = 1, x\nname = Web\ncalled = web\nratio = 'a'\n", where="f")
    with pytest.raises(SpecError) as found:
        parse_schema(SCHEMA, where="s").check(document)
    assert [str(it) for it in found.value.faults] == [
        'f:1:1: the schema has no prot (did you mean "port"?)',
        "f:2:1: port is 0, less than 1",
        "f:3:1: disks is 'x', not a whole number (write digits)",
        "f:4:1: name does not match ^[a-z]+$",
        "f:5:1: name is there under its alias too (take one out)",
        "f:6:1: ratio is 'a', not a number (write digits, with a . before decimals)",
        "f: cache is missing (s:5:1 wants it)",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("port", "no line of a schema"),
        ("port = typ:int", "no tag typ"),
        ("port = type:number", "no type number"),
        ("port = type:int default:x", "the default of port is 'x'"),
        ("port = type:int default:0 minval:1", "the default of port is 0, less than 1"),
        ("port = minval:x", "minval is 'x'"),
        ("port = list list", "the tag list is there twice"),
        ("port = consume:a:b", "no role with two numbers"),
        ("port = regex:'('", "no regular expression"),
        ("a = alias:b\nb = type:str", "the alias b of a is the name of another"),
        ("a = list\na = list", "a is there already, at s:1:1"),
    ],
)
def test_faults_of_a_schema(line: str, message: str) -> None:
    with pytest.raises(SpecError) as found:
        parse_schema(line, where="s")
    assert message in found.value.faults[0].message


# -- JSON and TOML -------------------------------------------------------------------------------------------

SIGNS = st.sampled_from([*"ab '\"#,:\\S\n\té$", "$ask", "\u2028"])
TEXTS = st.lists(SIGNS, max_size=6).map("".join)
ITEMS = TEXTS | st.lists(TEXTS | st.integers(0, 99) | st.sampled_from([0.5, 2.25]), max_size=3)
ASKS = st.builds(
    Ask, type=st.sampled_from(["str", "int"]), default=st.none() | TEXTS, retry=st.none() | st.just(0)
)
VALUES = (
    TEXTS
    | st.lists(ITEMS, max_size=3)
    | st.dictionaries(TEXTS, ITEMS, max_size=3)
    | st.binary(max_size=9)
    | ASKS
)
KEYS = st.sampled_from(["a", "a.b", "a.b.c", "1", "x-y", "$ask", "é"])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_there_and_back(values: dict[str, Value]) -> None:
    document = Document.of(values)
    if any(isinstance(value, dict) and "$ask" in value for value in values.values()):
        with pytest.raises(SpecError, match="fault"):
            convert.to_json(document)
        return
    assert convert.from_json(convert.to_json(document).text) == document
    assert convert.from_toml(convert.to_toml(document).text) == document


def test_other_forms() -> None:
    document = parse("# c\na.b = 1   # d\nl =\n    x,\n\nd = k:'v'\nq = @ASK type:int default:3\n")
    made = convert.to_json(document)
    value = {"a.b": "1", "l": ["x"], "d": {"k": "v"}, "q": {"$ask": {"type": "int", "default": "3"}}}
    assert json.loads(made.text) == tomllib.loads(convert.to_toml(document).text) == value
    assert made.notes == ["2 comments of HRD left out"]


def test_what_people_write_in_toml() -> None:
    text = 'port = 80\non = true\nday = 2020-01-02\nl = [1, "a", 2.5]\n[param]\nport = 1\n[git.export.1]\nurl = "x"\n[git.export.2]\n'
    assert convert.from_toml(text).values == {
        "port": "80", "on": "True", "day": "2020-01-02", "l": ["1", "a", "2.5"], "param": {"port": "1"},
        "git.export.1": {"url": "x"}, "git.export.2": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": null}', "HRD has no null"),
        ('{"a": [{"b": 1}]}', "HRD has no an object in a list"),
        ('{"a": [[[1]]]}', "HRD has no a list so deep"),
        ('{"a": 1, "a": 2}', "an object has twice: a"),
        ('{"a": {"b": {"c": "1"}}, "a.b": {"c": "2"}}', "is there twice"),
        ('{"a b=": 1}', "can be no key of HRD"),
        ('{"a": "\\u0000"}', "U+0000 cannot be said"),
        ('{"a": "\\ud800"}', "U+D800 cannot be said"),
        ('{"a": {"$binary": "?"}}', "no base64"),
        ('{"a": {"$ask": {"typ": "int"}}}', "$ask has no typ"),
        ('{"a": {"$ask": {"retry": "x"}}}', "retry of $ask is no int"),
        ('{"a": {"$ask": 1, "b": 2}}', "stand alone"),
        ("[1]", "is no object with keys"),
        ("{", "this is no JSON"),
        ("[" * 100_000, "this is no JSON"),
    ],
)
def test_what_hrd_cannot_hold(text: str, message: str) -> None:
    with pytest.raises(SpecError) as found:
        convert.from_json(text)
    assert message in str(found.value.faults[0])


# -- layout --------------------------------------------------------------------------------------------------

UGLY = """\


#   a header
a=1
  b   =   'two'# c


l =
  x,   # one
  y,

motd =
   first
     further
    '  quoted'
# about c
c = @ASK   type:int
raw = bqp
=00 =01
#BINARYEND#########
d= k:v,w:x,

"""
PRETTY = """\
#   a header
a = 1
b = 'two'

l =
    x,   # one
    y,

motd =
    first
      further
     '  quoted'

# about c
c = @ASK   type:int
raw = bqp
=00 =01
#BINARYEND#########
d = k:v,w:x,
"""


def test_layout() -> None:
    text = UGLY.replace("'two'# c", "'two'  ")
    assert formatted(parse(text)) == PRETTY
    assert formatted(parse(text.replace("\n", "\r\n"))) == PRETTY


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["a", "k = ", "\n", "\nx =", "\n    ", "\n  b,", "\n\n", " # c", "\n#d", "'q'", ":", ",", "\r\n", "@ASK ", "\t", "y = 1", "\nz =\"", "\\N"]
        ),
        max_size=20,
    ).map("".join)
)  # fmt: skip
def test_the_layout_of_any_file_changes_no_value_and_no_more_the_second_time(text: str) -> None:
    try:
        document = parse(text)
    except SpecError:
        return
    new = formatted(document)
    assert parse(new) == document
    assert formatted(parse(new)) == new
    assert new.count("#") == text.count("#")


def test_a_double_quote_directly_after_the_equals_sign_stays_there() -> None:
    text = 'k ="a, b: c"\n'
    assert formatted(parse(text)) == text
    assert parse(text).get("k") == '"a, b: c"'


# -- tokens and the grammar for editors ----------------------------------------------------------------------

COLOURED = """\
# a comment
name = 'a # b'   # and more
ports = 80, $(param.port)
indented.key =
    k:'v, w',   # note
    x:$(a)\\Kb,

q = http- @ASK type:int default:80 descr:'of: it'
blk = @ASK,
    type:bool,

raw = bqp
=00=01
#BINARYEND#########
last = it
"""


def test_tokens() -> None:
    found = list(tokens(COLOURED))
    assert found[:6] == [
        Token(Kind.COMMENT, 1, 1, "# a comment"),
        Token(Kind.KEY, 2, 1, "name"),
        Token(Kind.EQUALS, 2, 6, "="),
        Token(Kind.QUOTED, 2, 8, "'a # b'"),
        Token(Kind.COMMENT, 2, 18, "# and more"),
        Token(Kind.KEY, 3, 1, "ports"),
    ]
    rows = COLOURED.split("\n")
    assert all(rows[it.line - 1][it.column - 1 :].startswith(it.text) for it in found)
    assert {it.kind for it in found} == set(Kind)


def coloured(text: str) -> Iterator[Token]:
    """Yield the tokens of a text as an editor finds them by the grammar: of the patterns the one that matches first."""
    grammar = json.loads(GRAMMAR.read_text())

    def rules(patterns: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for rule in patterns:
            name = rule.get("include", "")[1:]
            inner = grammar["repository"][name] if name else rule
            yield from rules(inner["patterns"]) if "begin" not in inner and "patterns" in inner else [inner]

    def parts(match: re.Match[str], captures: dict[str, Any], number: int) -> Iterator[Token]:
        for group, scope in captures.items():
            kind = next(kind for kind in Kind if scope["name"].startswith(kind.value))
            yield Token(kind, number, match.start(int(group)) + 1, match[int(group)])

    open_rule: dict[str, Any] | None = None
    for number, row in enumerate(text.split("\n"), 1):
        at = 0
        while at <= len(row):
            known = list(rules(open_rule.get("patterns", []) if open_rule else grammar["patterns"]))
            ends = re.compile(open_rule["end"]).search(row, at) if open_rule else None
            found = [(match.start(), index, match, rule) for index, rule in enumerate(known) if (match := re.compile(rule.get("match") or rule["begin"]).search(row, at))]  # fmt: skip
            first = min(found, key=lambda it: it[:2], default=None)
            if ends and (first is None or ends.start() <= first[0]):
                assert open_rule is not None
                yield from parts(ends, open_rule.get("endCaptures", {}), number)
                at, open_rule = ends.end(), None
                if ends[0]:
                    continue
            elif first is None:
                if open_rule and open_rule.get("contentName") and row[at:]:
                    yield Token(Kind.DATA, number, at + 1, row[at:])
                break
            else:
                _, _, match, rule = first
                whole = {"0": {"name": rule["name"]}} if "name" in rule else {}
                yield from parts(match, rule.get("captures") or rule.get("beginCaptures") or whole, number)
                at = match.end()
                open_rule = rule if "begin" in rule else open_rule
                if at == len(row):
                    break


def test_the_grammar_for_editors_sees_the_tokens_of_the_parser() -> None:
    assert sorted(coloured(COLOURED), key=lambda it: it[1:3]) == list(tokens(COLOURED))


FILES = sorted((Path(__file__).parents[3] / "fixtures/services").rglob("*.hrd"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_files_of_templates(path: Path) -> None:
    text = path.read_text()
    document = parse(text)
    assert str(document) == text
    assert parse(formatted(document)) == document == parse(str(Document.of(document.values)))
    assert convert.from_json(convert.to_json(document).text) == document
    assert convert.from_toml(convert.to_toml(document).text) == document
    assert sorted(coloured(text), key=lambda it: it[1:3]) == list(tokens(text))


def test_there_are_files_of_templates() -> None:
    assert len(FILES) > 10
