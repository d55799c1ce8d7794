"""HRD as the parser of JumpScale 7 read it: the same value, or an error where it lost data without a word.

The rows are of the table of corner cases; `old` is what the old routine was seen to give.
"""

from __future__ import annotations

import pytest

from buildstep.errors import SpecError
from buildstep.services.hrd import Ask, Value, parse


def refused(text: str | bytes, place: str, message: str, hint: str) -> None:
    """Check that a text has this fault, and where it is."""
    with pytest.raises(SpecError) as found:
        parse(text, where="f")
    faults = [(it.where, it.message, it.hint) for it in found.value.faults]
    assert any(it[0] == f"f:{place}" and message in it[1] and hint in it[2] for it in faults), faults


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ("k =\n    a:1,\nnext = 2\n", "3:1", "the block of k is not ended", "put a blank line before it"),
        ("k =\n    a:1,\nnext =\n    b:2,\n\n", "3:1", "the block of k is not ended", "put a blank line before it"),
        ("k =\n    line one\nnot = 2", "3:1", "the block of k is not ended", "blank line"),
        ("k =\n    a:1,\nno entry\n", "3:1", "the block of k is not ended", "indent it"),
        ("k =\n    a:1,\n    # note\n    b:2,\n", "3:1", "a comment ends the block of k", "put the comment before k"),
        ("k =\n    # note\n    b:2,\n", "2:1", "a comment ends the block of k", "put the comment before k"),
        ("k =\n    a,\n# note\n    b,\n", "3:1", "a comment ends the block of k", "after the block"),
        ("k =\n\ta:1,\n\tb:2,\n", "2:1", "a tab indents a line after k =", "indent the lines of a block with blanks"),
        ("k =\n    a:1,\n\tb:2,\n", "3:1", "a tab indents", "blanks"),
        ("pw = pa#ss", "1:8", "a # directly after a value would cut it off", "put the value in single quotes"),
        ("k =\n    a:x#y,\n", "2:8", "a # directly after a value", "single quotes"),
        ("u = http://h/p", "1:5", "an address that is taken apart", "put it in single quotes: 'http://h/p'"),
        ("u =\n    http://a/b,\n    http://c/d,\n", "2:5", "would be a dict with the key http", "single quotes"),
        ("u = 'begins\nends'\n", "1:5", "this quote is not closed on its line", r"\N"),
        ("u = 'one' two\n", "1:10", "more text comes after the quote that ends", "between the quotes"),
        ("k = a:1,\n    b:2,\n", "2:5", "the value of k ends on its own line", "begin the block on the line after"),
        ("a = 1\nb = 2\na = 3\n", "3:1", "a has a value already, in line 1", "take one of the two out"),
        ("k = a:1, b:2, a:3", "1:15", "the key a is in this dict twice", "take one"),
        ("no equals sign", "1:1", "`no equals sign` has no =", "write key = value"),
        ("ke#y = 1", "1:1", "has no =", "key = value"),
        ("@include x", "1:1", "a line that begins with @ was left out", "#"),
        ("k =\n    @ASK type:int\n", "2:5", "would ask, or be left out", "write k = @ASK on one line"),
        ("k = a:1\n\n    b:2,\n", "3:5", "an indented line that belongs to no key", "blank line before it"),
        ("k =\n    a:1\n    b:2,\n", "3:5", "", ""),
        ("k =\n    a:1,\n    b:2\n    c:3,\n", "3:8", "no comma at the end", "put a comma there"),
        (" = 1", "1:2", "an = without a key", "write key = value"),
        ("k = a:1, b", "1:10", "`b` has no colon, and this is a dict", "name:value"),
        ('k = "a:b"', "1:5", "a double quote protects no colon", "single quotes"),
        ("k = b", "1:1", "the binary value of k has no line #BINARYEND#########", "write k = 'b'"),
        ("k = bqp\nx = bqp\n#BINARYEND#########\n", "1:1", "before line 2", "write k = 'bqp'"),
        ("k = @ask type:int", "1:5", "@ask asks nothing", "write @ASK to ask"),
        ("k = @ask,\n    type:int\n", "1:5", "@ask asks nothing", "capital letters"),
        ("k = @ASK type:int\n    default:3\n", "2:5", "the value of k ends on its own line", ""),
        ("k = @ASK default:{{1 + 1}} descr:x", "1:18", "{{ }} is not run", "write the value"),
        ("k = @ASK default:'{{j.x()}}'", "1:19", "{{ }} is not run", "write the value"),
        ("k = [[1], 2]", "1:5", "a list in brackets holds no other", "own key"),
        ("    a:b=c,", "1:5", "`a:b` is no key", "blank line"),
    ],
)  # fmt: skip
def test_what_was_lost_without_a_word_is_an_error(text: str, place: str, message: str, hint: str) -> None:
    if message:
        refused(text, place, message, hint)
    else:
        assert parse(text).values == {"k": "a:1\nb:2,"}, (
            "as before: the first line of a block tells what it is"
        )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k = 'quoted: text, kept as one'", "quoted: text, kept as one"),
        ("k = 80, 443", ["80", "443"]),
        ("k = a,", ["a"]),
        ("k = cpu:2, mem:512", {"cpu": "2", "mem": "512"}),
        ("k = t:10:30", {"t": "10:30"}),
        ("k = 10:30", {"10": "30"}),
        ("k = a = b", "a = b"),
        ("    k = indented", "indented"),
        ("k =", ""),
        ("k = ,", []),
        ("k = :", {}),
        ("k =\n    ,\n", []),
        ("k = p:80,, q:1,,", {"p": "80", "q": "1"}),
        ("k =\n    LANG:C,\n    GREETING:'hi, all: ok',\n    EMPTY:,\n\n", {"LANG": "C", "GREETING": "hi, all: ok", "EMPTY": ""}),
        ("k =\n    a:1, b:2,\n    c:3,\n", {"a": "1", "b": "2", "c": "3"}),
        ("k =\n    'geo ip',\n    'xml',\n", ["geo ip", "xml"]),
        ("k =\n    first line\n    second line\n\n", "first line\nsecond line"),
        ("k =\n    u:http://h/p,\n", {"u": "http://h/p"}),
        ("k =\n    ports:'80;443',\n", {"ports": "80;443"}),
        ("k =\n    l:[1,2.5,x],\n", {"l": [1, 2.5, "x"]}),
        ("k = 'a # b'", "a # b"),
        ("k = 'a # b'   # it's a note", "a # b"),
        ("k = plain   # a note", "plain"),
        ("k = it's # Bob's", "it's"),
        ("k = 'a','b c'", ["a", "b c"]),
        ("k = 'c,d', e", ["c,d", "e"]),
        ("k = k:'x, y', z:1", {"k": "x, y", "z": "1"}),
        ("k = url:$(x), source:'a', dest:'$(b)/c', link:False,", {"url": "$(x)", "source": "a", "dest": "$(b)/c", "link": "False"}),
        ("k = 'it''s'", "it''s"),
        ("k = it's", "it's"),
        ("k = it's, ok", ["it's", "ok"]),
        ("k = {}", "{}"),
        ("k = {a:1}", {"{a": "1}"}),
        ("k = x:'a,b'", {"x": "a,b"}),
        ("k =\n    'a,b':1,\n", {"a,b": "1"}),
        ("k = none", "none"),
        ("k = empty", "empty"),
        ('k ="a:b"', '"a:b"'),
        ('k = "a b"', '"a b"'),
        (r"k = a\Sb\Kc\Dd\Qe\Nf\ng", 'a b,c:d"e\nf\ng'),
        (r"k = a\ES\EA\Ex", r"a\S'\Ex"),
        ("k = 007", "007"),
        ("k = {{ kept }}", "{{ kept }}"),
        ("k = b\nraw = bytes, 'kept\n#BINARYEND#########\n", b"raw = bytes, 'kept"),
        ("k = bqp\n=00=FF\n#BINARYEND######### more", b"\x00\xff"),
        ("k =\n    a:1,\n    # the last line of a block may be a comment\n\n", {"a": "1"}),
        ("k =\n    a:1,   # and a comment may follow a value\n    b:2,\n", {"a": "1", "b": "2"}),
        ("k =\n    a,\n    b", ["a", "b"]),
        ("k =\n# all of it is out:\n#    a:1,\n", ""),
        ("k =\n    '  in quotes blanks stay'\n    ''\n    say 'hi' now\n      further in\n", "  in quotes blanks stay\n\nsay 'hi' now\n  further in"),
    ],
)  # fmt: skip
def test_values(text: str, value: Value) -> None:
    assert parse(text).values == {"k": value}


def test_entries_that_follow_one_another() -> None:
    text = "empty =\nnext = 1\n\nblock =\n    a,\n# a comment ends it as well\nafter = 2\nbare =\n# note\n  indented = 3\n"
    assert parse(text).values == {
        "empty": "", "next": "1", "block": ["a"], "after": "2", "bare": "", "indented": "3",
    }  # fmt: skip


def test_places_of_entries() -> None:
    document = parse("# c\na = 1\n\n   b =\n    x,\n", where="f")
    assert [document.place(key) for key in document] == ["f:2:1", "f:4:4"]
    assert document.place("c") == "f: c"


@pytest.mark.parametrize(
    ("data", "place", "message", "hint"),
    [
        (b"a = 1\nb = \xff\n", "2:5", "the byte 0xff is no UTF-8", "save the file as UTF-8"),
        (b"a = x\x00y", "1:6", "U+0000", "take it out"),
        (b"a = x\x1by", "1:6", "U+001B", "take it out"),
        (b"a = 1\rb = 2\r", "1:6", "U+000D", "end lines with a newline"),
        (b"k =\n    a\x00,\n", "2:6", "U+0000", "take it out"),
    ],
)
def test_bytes_that_are_no_hrd(data: bytes, place: str, message: str, hint: str) -> None:
    refused(data, place, message, hint)


def test_marks_and_line_ends_that_editors_write() -> None:
    document = parse(b"\xef\xbb\xbfa = 1\r\nb =\r\n    x,\r\n\r\nc = 2")
    assert document.values == {"a": "1", "b": ["x"], "c": "2"}


def test_all_faults_of_a_file_are_told_together_and_not_too_many() -> None:
    with pytest.raises(SpecError, match="3 faults"):
        parse("a\nb = x#y\nc =\n\td,\n")
    with pytest.raises(SpecError) as found:
        parse("no entry\n" * 1000)
    assert len(found.value.faults) == 101
    assert "900 more" in found.value.faults[-1].message


def test_tabs_between_the_tags_of_a_question() -> None:
    ask = parse("k = @ASK\ttype:int\tdefault:6\t descr:'how # many__of them'").get("k")
    assert ask == Ask(type="int", default="6", description="how # many of them")
