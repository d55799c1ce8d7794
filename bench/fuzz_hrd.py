"""Does any file make the parser of HRD crash, hang, or lose something?

`python -m bench.fuzz_hrd [OPTIONS OF LIBFUZZER] [CORPUS]`, such as `-max_total_time=120 -timeout=5`, after
`pip install atheris`. Each input is read; one that is no HRD must be refused with places, all else must be
written to the letter, formatted without a change of a value, and resolved or refused. libFuzzer ends with the
input that fails.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


def _refused(job: Callable[[], object]) -> bool:
    """Return whether a job refuses its input with an error for a person, which tells where."""
    from buildstep.errors import SpecError

    faults = None
    try:
        job()
    except SpecError as error:
        faults = error.faults
    assert faults is None or all(fault.where and fault.message for fault in faults)
    return faults is not None


def one(data: bytes) -> None:
    """Try one input. Raises AssertionError, or what the code under test raises and should not."""
    from buildstep.services.hrd import Ask, Document, convert, parse, resolve
    from buildstep.services.hrd.layout import formatted

    if _refused(lambda: parse(data)):
        return
    document = parse(data)
    assert str(document).encode() == data
    assert parse(formatted(document)) == document
    _refused(lambda: resolve([document]))
    if not _refused(lambda: Document.of(document.values)):
        assert parse(str(Document.of(document.values))) == document
    elif not any(isinstance(value, Ask) for value in document.values.values()):
        raise AssertionError("what was read cannot be written")
    if not _refused(lambda: convert.to_json(document)):
        _refused(lambda: convert.from_json(convert.to_json(document).text))


def main() -> None:
    """Run libFuzzer, which never returns."""
    import atheris

    with atheris.instrument_imports(include=["buildstep.services.hrd"]):
        import buildstep.services.hrd.convert
        import buildstep.services.hrd.layout  # noqa: F401 - both are instrumented by this
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
