"""Errors and signals of a job become exit codes and texts."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from typing import Any

import pytest

from buildstep import cli
from buildstep.cli import guard
from buildstep.errors import BuildstepError, ImageError, Interrupted


def fail(error: BaseException) -> int:
    def job() -> int:
        raise error

    return guard.guarded(job)


def test_an_error_of_ours_is_its_text_and_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert guard.guarded(lambda: 3) == 3
    assert fail(ImageError("no such image", detail="tar:x", hint="look")) == 11
    assert capsys.readouterr().err == "buildstep: no such image\ntar:x\nhint: look\n"


def test_a_traceback_is_shown_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDSTEP_DEBUG", "1")
    assert fail(ImageError("no such image")) == 11
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status"), [(errno.ENOSPC, 6), (errno.EROFS, 6), (errno.EACCES, 10), (errno.EMFILE, 10)]
)
def test_what_the_machine_lacks_is_no_bug(
    number: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fail(OSError(number, os.strerror(number), "/pool/x")) == status
    said = capsys.readouterr().err
    assert f"/pool/x: {os.strerror(number)}" in said
    assert "hint: " in said


def test_another_os_error_is_a_bug() -> None:
    with pytest.raises(OSError, match="Is a directory"):
        fail(OSError(errno.EISDIR, "Is a directory"))


def test_a_signal_in_a_finalizer_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    class Gone:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)  # here Python calls the handler, and nobody sees what it raises

    def job() -> int:
        Gone()
        time.sleep(5)
        return 0

    hook = sys.unraisablehook
    begin = time.monotonic()
    assert guard.guarded(job) == 128 + signal.SIGTERM
    assert time.monotonic() - begin < 4
    assert "Traceback" not in capsys.readouterr().err
    assert sys.unraisablehook is hook


def test_a_signal_while_an_error_is_told_changes_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, lambda *_: pytest.fail("the handler was taken away too soon"))

    def told(error: BuildstepError | OSError, *, debug: bool) -> int | None:
        os.kill(os.getpid(), signal.SIGHUP)
        return cli.report_error(error, debug=debug)

    monkeypatch.setattr("buildstep.cli.guard.report_error", told)
    try:
        assert fail(Interrupted(signal.SIGTERM, "SIGTERM")) in (143, 129)

        def job() -> int:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            return 0

        assert guard.guarded(job) == 143, "that of the first one"
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_job_once(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = []

    def job() -> int:
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # a second one does not break the clean-up
            cleaned.append(True)
        return 0

    before = signal.getsignal(number)
    assert guard.guarded(job) == 128 + number
    assert cleaned == [True]
    assert number.name in capsys.readouterr().err
    assert signal.getsignal(number) == before


def test_a_signal_before_the_job_begins_ends_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it comes as soon as there is a handler for it, before the next one is set."""
    set_handler = signal.signal
    sent: list[int] = []
    ran: list[bool] = []

    def early(signum: int, handler: Any) -> Any:
        found = set_handler(signum, handler)
        if not sent:
            sent.append(signum)
            os.kill(os.getpid(), signum)
        return found

    def job() -> int:
        ran.append(True)
        return 0

    monkeypatch.setattr("buildstep.cli.guard.signal.signal", early)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert guard.guarded(job) == 128 + sent[0]
    finally:
        set_handler(signal.SIGINT, before)
    assert not ran
