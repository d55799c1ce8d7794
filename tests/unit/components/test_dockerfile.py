"""The Dockerfile reader: which images a file is made from, by every rule that decides it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildstep.components.dockerfile import instructions, read
from buildstep.components.dockerfile_words import NoValue, expand, split
from buildstep.components.interface import ReadOptions


def bases(text: str, **arguments: str) -> list[str]:
    result = read(text, where="f", options=ReadOptions(arguments=arguments))
    assert result.faults == ()
    return [base.text for base in result.bases]


def faults(text: str, **arguments: str) -> list[str]:
    result = read(text, where="f", options=ReadOptions(arguments=arguments))
    return [f"{fault.where}: {fault.message}" for fault in result.faults]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a:latest", ["a:latest"]),
        ("FROM --platform=linux/amd64 a", ["a"]),
        ("FROM --platform=$BUILDPLATFORM a AS x", ["a"]),
        ("from a as b\ncopy --from=c /x /y", ["a", "c"]),
        ("  FROM a", ["a"]),
        ("FROM\ta", ["a"]),
        ("\ufeffFROM a", ["a"]),
        ("FROM a\r\nRUN x \\\r\n  y\r\nFROM b\r\n", ["a", "b"]),
        ("ARG V=1\nFROM a:$V", ["a:1"]),
        ("ARG V=1\nARG W=${V}2\nFROM a:${W}", ["a:12"]),
        ("FROM ${X:-a}", ["a"]),
        ('FROM "a"', ["a"]),
        ("FROM a\nFROMAGE b\nRUN x", ["a"]),
        ("FROM scratch\nCOPY --from=scratch a b", []),
        ("FROM a\nRUN --mount=type=bind,from=b,source=/x,target=/y cat /y/z", ["a", "b"]),
        ('FROM a\nRUN --mount="type=bind,from=b" x', ["a", "b"]),
        ("FROM a\nRUN --network=none --mount=from=b x --mount=from=no", ["a", "b"]),
        ("FROM a\nADD --from=b x y", ["a", "b"]),
        ('FROM a\nCOPY --from=b ["x", "y"]', ["a", "b"]),
        ("FROM a\nONBUILD COPY --from=b x y", ["a"]),
    ],
)
def test_d07_an_image_is_found_however_it_is_written(text: str, expected: list[str]) -> None:
    assert bases(text) == expected


def test_d07_a_stage_is_no_image() -> None:
    text = "FROM a AS Base\nFROM base AS b2\nFROM x\nCOPY --from=BASE /1 /1\nCOPY --from=1 /2 /2\nCOPY --from=9 /3 /3"
    assert bases(text) == ["a", "x", "9"]


def test_d07_a_stage_hides_an_image_only_below_its_from() -> None:
    assert bases("FROM zookeeper AS zookeeper\nFROM zookeeper") == ["zookeeper"]


def test_d07_the_same_base_twice_is_two_references_with_their_lines() -> None:
    result = read("FROM a AS x\n\nFROM a", where="f", options=ReadOptions())
    assert [(base.how, base.line) for base in result.bases] == [("FROM", 1), ("FROM", 3)]


@pytest.mark.parametrize(
    "body",
    [
        "RUN <<EOF\nFROM b\nEOF",
        'RUN <<"EOF" cat > /x\nFROM b\nEOF',
        "RUN <<-EOF\n\tFROM b\n\tEOF",
        "COPY <<one <<two /dest/\nFROM b\none\nFROM c\ntwo",
        "RUN 3<<EOF cat <&3\nFROM b\nEOF",
        "ONBUILD RUN <<EOF\nFROM b\nEOF",
        "RUN echo \\\n  FROM b",
        "RUN echo \\\n# FROM b \\\n\n  FROM b",
        "# FROM b",
        "   # FROM b",
    ],
)
def test_d07_what_looks_like_from_is_none_in_a_heredoc_a_comment_or_a_continued_line(body: str) -> None:
    assert bases(f"FROM a\n{body}\nFROM z") == ["a", "z"]


@pytest.mark.parametrize(
    "body",
    ['RUN echo "<<EOF"', 'RUN ["cat", "<<EOF"]', "RUN cat <<<EOF", "RUN echo $((1 << 2))", "CMD <<EOF"],
)
def test_d07_what_is_no_heredoc_hides_nothing(body: str) -> None:
    assert bases(f"FROM a\n{body}\nFROM z") == ["a", "z"]


def test_d07_the_escape_directive_changes_what_continues_a_line() -> None:
    assert bases("# escape=`\nFROM a\nRUN dir c:\\\nFROM b\nRUN x `\nFROM c") == ["a", "b"]
    assert bases("# syntax=docker/dockerfile:1\n# Escape = `\nFROM a\nRUN x `\nFROM c") == ["a"]
    assert bases("# a comment\n# escape=`\nFROM a\nRUN x `\nFROM c") == ["a", "c"]
    assert bases("# unknown=1\n# escape=`\nFROM a\nRUN x `\nFROM c") == ["a", "c"]
    assert bases("FROM a\nRUN x \\\\\nFROM c") == ["a", "c"]


def test_d07_arguments_of_the_builder_win_over_defaults() -> None:
    assert bases("ARG V=1\nFROM a:$V", V="2") == ["a:2"]


def test_d07_an_argument_is_seen_where_it_is_declared() -> None:
    outside = "ARG B=b\nFROM a\nCOPY --from=$B /x /x"
    assert faults(outside) == ["f:3: COPY $B: B has no value"]
    assert bases("ARG B=b\nFROM a\nARG B\nCOPY --from=$B /x /x") == ["a", "b"]
    assert bases("FROM a AS x\nARG B=b\nFROM x\nCOPY --from=$B /x /x") == ["a", "b"]
    assert bases("FROM a\nARG B=b\nFROM c AS y\nARG B=d\nCOPY --from=$B /x /x") == ["a", "c", "d"]
    assert bases("FROM a\nENV B=b\nCOPY --from=${B} /x /x") == ["a", "b"]
    assert bases("FROM a AS s\nENV B=b\nFROM s\nARG B=c\nCOPY --from=${B} /x /x", B="d") == ["a", "b"]
    assert bases("FROM a\nARG B=c\nENV B=b\nCOPY --from=${B} /x /x") == ["a", "b"]


def test_d07_what_cannot_be_read_is_told_with_its_line_all_together() -> None:
    text = "FROM\nFROM a b\nFROM $NONE\nFROM ${a\nRUN <<EOF\nnever ends"
    assert faults(text) == [
        "f:5: the heredoc EOF does not end",
        "f:1: FROM",
        "f:2: FROM a b",
        "f:3: FROM $NONE: NONE has no value",
        "f:4: FROM ${a: a ${ without its }",
    ]
    assert faults("RUN x") == ["f:1: there is no FROM"]
    assert faults("ARG X=\nFROM $X") == ["f:2: FROM $X names no image"]
    assert faults("# escape=x\nFROM a") == ["f:1: the escape character 'x' is neither \\ nor `"]


def test_paths_that_are_copied_from_the_context_are_told() -> None:
    result = read(
        'FROM a\nCOPY --chown=1:1 x y /z\nADD ["p q", "/"]\nCOPY --from=b n /',
        where="f",
        options=ReadOptions(),
    )
    assert [copy.text for copy in result.copies] == ["x", "y", "p q"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("$A-${B}", "1-two"),
        ("${N:-$A}", "1"),
        ("${E:-x}", "x"),
        ("${E-x}", ""),
        ("${A:+${B}}", "two"),
        ("${N:+${M}}", ""),
        ("${A:?no}", "1"),
        (r"\$A", "$A"),
        ("'$A'", "$A"),
        ('"$A b"', "1 b"),
        (r'"\a\""', r"\a" + '"'),
        ("${P#*/}", "b/c.d"),
        ("${P##*/}", "c.d"),
        ("${P%/*}", "a/b"),
        ("${P%%/*}", "a"),
        ("${P/b/x}", "a/x/c.d"),
        ("${P//?/-}", "-------"),
        ("$", "$"),
        ("$1", "$1"),
    ],
)
def test_variables_expand_as_the_reference_says(word: str, expected: str) -> None:
    assert expand(word, {"A": "1", "B": "two", "E": "", "P": "a/b/c.d"}) == expected


@pytest.mark.parametrize(
    ("word", "error"), [("$N", NoValue), ("${N?why}", NoValue), ("${}", ValueError), ("${A", ValueError)]
)
def test_a_word_that_has_no_value_raises(word: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        expand(word, {"A": "1"})


@given(st.text())
def test_any_text_is_read_without_a_crash(text: str) -> None:
    read(text, where="f", options=ReadOptions())


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
NOISE = st.sampled_from(
    [
        "# FROM no",
        "",
        "RUN echo \\\n  FROM no",
        "RUN <<EOF\nFROM no\nEOF",
        "ENV A=b",
        "LABEL x='FROM no'",
        "WORKDIR /",
    ]
)


@given(
    st.lists(
        st.tuples(NAMES, st.sampled_from(["FROM", "from", "From"]), st.lists(NOISE, max_size=3)), min_size=1
    )
)
def test_every_from_is_found_whatever_is_between(rows: list[tuple[str, str, list[str]]]) -> None:
    text = "\n".join("\n".join([f"{word} {name}-x", *noise]) for name, word, noise in rows)
    assert bases(text) == [f"{name}-x" for name, _, _ in rows]


@given(
    st.lists(
        st.text(alphabet="ab \\'\"", min_size=1).map(
            lambda text: text.replace("'", "").replace('"', "").replace("\\", "")
        ),
        max_size=5,
    )
)
def test_quoted_words_stay_together(words: list[str]) -> None:
    text = " ".join(f"'{word}'" for word in words)
    assert [expand(word, {}) for word in split(text)] == words


def test_an_instruction_has_the_line_where_it_begins() -> None:
    rows = instructions("# c\nFROM a\n\nRUN x \\\n  y\nCMD z").rows
    assert [(row.name, row.line) for row in rows] == [("FROM", 2), ("RUN", 4), ("CMD", 6)]
    assert rows[1].rest == "x   y"
