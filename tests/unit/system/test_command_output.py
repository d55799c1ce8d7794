"""What is told and kept of a command's output: every line of a short one, both ends of a long one."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildstep.events import WHOLE, Part
from buildstep.system import command_output
from buildstep.system.command_output import READ, Output


def fed(data: bytes, *, piece: int = READ, keep: int = 0) -> tuple[list[str], Output]:
    """The lines that are told of this standard output, and where they came from."""
    lines: list[str] = []
    output = Output(lambda text, _=WHOLE: lines.append(text), keep=keep)
    for start in range(0, len(data), piece):
        output.stdout.take(data[start : start + piece])
    output.close()
    return lines, output


@given(st.binary(max_size=300), st.integers(1, 40))
def test_lines_do_not_depend_on_how_the_bytes_come(data: bytes, piece: int) -> None:
    lines, output = fed(data, piece=piece, keep=1000)
    expected = data.decode(errors="replace").split("\n")
    if not expected[-1]:
        expected.pop()
    assert lines == expected
    assert output.stdout.text == data.decode(errors="replace").removesuffix("\n")
    assert output.bytes == len(data)


def test_lines_of_two_streams_do_not_mix() -> None:
    lines: list[str] = []
    output = Output(lambda text, _=WHOLE: lines.append(text))
    output.stdout.take(b"one ")
    output.stderr.take(b"two ")
    output.stdout.take(b"out\n")
    output.stderr.take(b"err")
    output.close()
    assert lines == ["one out", "two err"]
    assert output.tail == "one out\ntwo err"


def parts(data: bytes, *, piece: int = READ, keep: int = 0) -> tuple[list[tuple[str, Part]], Output]:
    """All that is told of this standard output."""
    found: list[tuple[str, Part]] = []
    output = Output(lambda text, part=WHOLE: found.append((text, part)), keep=keep)
    for start in range(0, len(data), piece):
        output.stdout.take(data[start : start + piece])
    output.close()
    return found, output


@pytest.mark.parametrize("end", [b"", b"\n", b"\nafter", b"\n\n"])
@pytest.mark.parametrize("letters", [b"\0", b"0123456789 ", "äö€𝄞 ".encode(), "€".encode()])
def test_a_long_line_is_told_in_parts_and_all_of_it(end: bytes, letters: bytes) -> None:
    line = letters * (3_000_000 // len(letters))
    found, output = parts(b"before\n" + line + end, piece=READ - 5)
    first, *long = found[: len(found) - max(0, end.count(b"\n") + bool(end.strip()) - 1)]
    assert first == ("before", WHOLE)
    assert "".join(text for text, _ in long) == line.decode(), "no letter is cut in two"
    assert all(len(text.encode()) <= command_output.LINE_BYTES for text, _ in long)
    assert [part.part for _, part in long] == list(range(1, len(long) + 1))
    assert {part.line for _, part in long} == {1}
    assert [part.size for _, part in long] == [0] * (len(long) - 1) + [len(line)]
    rest = [text for text, part in found[1 + len(long) :]]
    assert rest == {b"\nafter": ["after"], b"\n\n": [""]}.get(end, [])
    assert "[2.9 MiB in this line]" in output.tail
    assert len(output.tail) < 1200


def test_two_long_lines_at_once_are_told_apart() -> None:
    found: list[tuple[str, Part]] = []
    output = Output(lambda text, part=WHOLE: found.append((text, part)), keep=1 << 23)
    for _ in range(40):
        output.stdout.take(b"o" * READ)
        output.stderr.take(b"e" * READ)
    output.close()
    for number, letter in ((1, "o"), (2, "e")):
        mine = [(text, part) for text, part in found if part.line == number]
        assert "".join(text for text, _ in mine) == letter * 40 * READ
        assert mine[-1][1].size == 40 * READ
    assert output.errors.startswith("eee")


def test_no_word_is_cut_in_two() -> None:
    """It may be an address with a password, which whoever is told of it hides."""
    found, _ = parts(b"http://user:password@proxy:3128/ " * 10_000)
    assert all(text.count("http") == text.count("password@proxy:3128/ ") for text, _ in found)


def test_of_a_line_without_end_it_is_told_how_much_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_output, "LONG", 1 << 20)
    found, output = parts(b"x" * (3 << 20) + b"\nafter\n" + b"y" * 100_000 + b"\n")
    (*_, last), (after, _), (cut, whole) = found[:-2], found[-2], found[-1]
    told = sum(len(text) for text, part in found if part.line)
    assert 1 << 20 <= told < (1 << 20) + 2 * command_output.LINE_BYTES
    assert last[0].endswith("[2.0 MiB more in this line]")
    assert last[1].size == 3 << 20
    assert after == "after"
    assert (cut, whole) == ("y" * command_output.LINE_BYTES + " [33.7 KiB more in this line]", WHOLE)
    assert "[3.0 MiB in this line]" in output.tail


def test_a_long_line_after_a_long_output_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_output, "HEAD", 1)
    found, _ = parts(b"one\ntwo\n" + b"x" * 3_000_000)
    assert [part for _, part in found] == [WHOLE] * len(found)
    assert found[-1][0] == "x" * command_output.LINE_BYTES + " [2.8 MiB more in this line]"


def test_a_long_output_is_told_to_its_head_and_from_its_end() -> None:
    data = b"".join(b"%07d\n" % number for number in range(2_000_000))
    lines, output = fed(data)
    cut = next(number for number, text in enumerate(lines) if "left out here" in text)
    assert lines[:cut] == [f"{number:07d}" for number in range(cut)]
    last = lines[cut + 1 :]
    assert last == [f"{number:07d}" for number in range(2_000_000 - len(last), 2_000_000)]
    assert command_output.HEAD // 80 < cut < command_output.HEAD // 60
    assert len(last) == command_output.END_LINES
    missing = (2_000_000 - cut - len(last)) * 8
    assert lines[cut] == f"[{missing / (1 << 20):.1f} MiB of this command's output are left out here]"
    assert output.tail.splitlines()[-1] == "1999999"
    assert output.bytes == len(data)


def test_nothing_is_said_to_be_missing_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_output, "HEAD", 1)
    lines, _ = fed(b"one\ntwo\n" + b"x" * 100 + b"\nlast", piece=4)
    assert lines == ["one", "two", "x" * 100, "last"]


def test_memory_is_bounded_whatever_comes() -> None:
    for piece in (b"\n" * READ, b"x" * READ, b"0123456\n" * (READ // 8), b"\xff\n" * (READ // 2)):
        output = Output(lambda *_: None, keep=1 << 20)
        tracemalloc.start()
        for _ in range(500):  # 32 MB
            output.stdout.take(piece)
            output.stderr.take(piece)
        output.close()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 12 << 20, piece[:10]


def test_what_is_more_than_was_to_be_kept_is_told() -> None:
    _, output = fed(b"12345", keep=5)
    assert (output.stdout.text, output.stdout.overflow) == ("12345", False)
    _, output = fed(b"123456", keep=5)
    assert (output.stdout.text, output.stdout.overflow) == ("", True)


def test_the_end_of_a_text_for_an_error() -> None:
    text = "\n".join(["first", *["x" * 5000] * 39, "last\n\n"])
    lines = command_output.last_lines(text).split("\n")
    assert len(lines) == command_output.TAIL_LINES
    assert lines[-1] == "last"
    assert lines[0] == "x" * command_output.TAIL_LINE + " [...]"


def told(out: bytes, err: bytes, *, keep: int) -> Output:
    output = Output(keep=keep)
    for stream, data in ((output.stderr, err), (output.stdout, out)):
        for start in range(0, len(data), READ):
            stream.take(data[start : start + READ])
    output.close()
    return output


def numbered(what: str, count: int) -> bytes:
    return "".join(f"{what} {number}\n" for number in range(count)).encode()


def test_a_long_answer_leaves_the_errors_before_it() -> None:
    output = told(numbered("name", 100_000), b"the cause\nwithout an end", keep=1 << 24)
    first = ["the cause", "without an end", "its other output ends with:"]
    assert output.failure.splitlines() == [*first, *(f"name {n}" for n in range(99_980, 100_000))]
    assert output.errors == "the cause\nwithout an end"


@pytest.mark.parametrize("count", [19, 20, 21, 40, 41, 100_000])
def test_of_many_errors_the_first_and_the_last_are_kept(count: int) -> None:
    lines = told(b"", numbered("error", count), keep=1 << 24).errors.splitlines()
    if count <= 40:
        assert lines == [f"error {n}" for n in range(count)]
        return
    assert lines[:20] == [f"error {n}" for n in range(20)]
    assert lines[20] == f"[{count - 40} more lines]"
    assert lines[21:] == [f"error {n}" for n in range(count - 20, count)]


def test_without_an_answer_the_streams_stay_in_their_order() -> None:
    output = told(b"after\n", b"before\n", keep=0)
    assert (output.failure, output.errors) == ("before\nafter", "")
