"""HRD takes time as a file has characters, and no more."""

from __future__ import annotations

import contextlib
import time

import pytest

from bench.hrd import text_of
from buildstep.errors import SpecError
from buildstep.services.hrd import parse, resolve
from buildstep.services.hrd.layout import formatted

LONG = 100_000


def test_ten_thousand_entries_are_read_in_a_second() -> None:
    text = text_of(10_000)
    begin = time.process_time()
    document = parse(text)
    assert time.process_time() - begin < 1
    assert len(document) == 10_000
    begin = time.process_time()
    assert len(resolve([document])) == 10_000
    assert parse(formatted(document)) == document
    assert time.process_time() - begin < 3


@pytest.mark.parametrize(
    "text",
    [
        "k = " + "'" * LONG,
        "k = " + "," * LONG,
        "k = " + "a:b," * LONG,
        "k = " + "[" * LONG,
        "k = " + "[a," * LONG,
        "k = " + "'@ASK'," * LONG,
        "k = " + "a'" * LONG + " #",
        "k = " + "x@ask" * LONG,
        "k = @ASK " + "default:a " * LONG,
        "k = @ASK " + "descr:'" * LONG,
        "k = @ASK default:" + "{{" * LONG,
        "a." * LONG + " = 1",
        " " * LONG + "k = 1" + " " * LONG,
        "".join(f"k{n} = b\n" for n in range(LONG // 5)) + "#BINARYEND#########\n",
        "k =\n" + "  # a\n" * LONG + "  b\n",
        "".join(f"k{n} =\n#\n" for n in range(LONG // 5)),
        "k =\n" + "    a line\n" * (LONG // 5),
        "k = " + "\\E" * LONG,
        "k = $(" + "$(" * LONG,
    ],
    ids=lambda text: repr(text[:14]),
)
def test_a_line_of_one_sign_is_read_at_once(text: str) -> None:
    begin = time.process_time()
    with contextlib.suppress(SpecError):
        resolve([parse(text)])
    assert time.process_time() - begin < 3
