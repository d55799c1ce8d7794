"""`buildstep report`: the format by the ending of the file, and no file without a report."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from buildstep.cli import report as cli
from buildstep.errors import UsageError
from tests.unit import reportdata


def test_command_writes_each_format(tmp_path: Path) -> None:
    record = reportdata.write(tmp_path / "hello.buildrecord.json", reportdata.record())
    reportdata.write_events(tmp_path / "hello.events.jsonl", 10)
    for ending, start in (
        (".html", "<!doctype"),
        (".xml", "<?xml"),
        (".sarif", "{"),
        (".md", "## "),
        (".svg", "<svg"),
    ):
        out = tmp_path / f"report{ending}"
        done = CliRunner().invoke(cli.command, [str(record), "-o", str(out)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert out.read_text().startswith(start)
    done = CliRunner().invoke(cli.command, [str(record), "-f", "markdown"], catch_exceptions=False)
    assert done.output.startswith("## ")
    with pytest.raises(UsageError, match="one record"):
        CliRunner().invoke(
            cli.command, [str(record), str(record), "--events", str(record)], catch_exceptions=False
        )


def test_a_report_that_fails_leaves_no_file(tmp_path: Path) -> None:
    record = reportdata.write(tmp_path / "hello.buildrecord.json", {"format": 1})
    with pytest.raises(UsageError):
        CliRunner().invoke(
            cli.command, [str(record), "-o", str(tmp_path / "out.html")], catch_exceptions=False
        )
    assert [path.name for path in tmp_path.iterdir()] == ["hello.buildrecord.json"]


def test_an_unknown_format_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    record = reportdata.write(tmp_path / "hello.buildrecord.json", reportdata.record())
    with pytest.raises(UsageError, match="no report format pdf") as caught:
        CliRunner().invoke(cli.command, [str(record), "-f", "pdf"], catch_exceptions=False)
    assert "html, junit" in caught.value.hint
