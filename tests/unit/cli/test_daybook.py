"""The commands of daybook, with a register in a file: what they say, and how they end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from buildstep.cli import daybook

Call = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def call(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run one of the commands; its exit status, and what it logged without the time."""
    config = tmp_path / "daybook.json"
    config.write_text(json.dumps({"register": f"file:{tmp_path}/mappings.json"}))

    def run(
        program: str, *argv: str, flags: tuple[str, ...] = (f"-config-file={config}",)
    ) -> tuple[int, list[str]]:
        capfd.readouterr()
        status = daybook.run(program, [*flags, *argv])
        out, err = capfd.readouterr()
        assert out == ""
        return status, [re.sub(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ", "", line) for line in err.splitlines()]

    return run


def test_d13_map_adds_lists_and_removes(call: Call, tmp_path: Path) -> None:
    assert call("daybook-map", "add", "web-*", "shop", "api") == (
        0,
        ["Adding services to 'web-*'...", "Services for 'web-*': api, shop", "All done!"],
    )
    assert json.loads((tmp_path / "mappings.json").read_text())["hosts"] == {"web-*": ["api", "shop"]}
    assert call("daybook-map", "list", "web-*")[1][1] == "Services for 'web-*': api, shop"
    assert call("daybook-map", "remove", "web-*", "api", "nope")[1][1:3] == [
        "not among them: nope",
        "Services for 'web-*': shop",
    ]


def test_d13_removing_the_last_service_is_no_failure(call: Call) -> None:
    call("daybook-map", "add", "db", "store")
    status, lines = call("daybook-map", "remove", "db", "store")
    assert (status, lines[1]) == (0, "Services for 'db': none, the mapping is removed")
    assert call("daybook-map", "list", "db")[0] == 1


def test_a_mapping_that_holds_what_is_no_service_is_told(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mappings.json").write_text('{"hosts": {"a": [], "b": ["web", "my-web"]}}')
    assert call("daybook-map", "list", "a")[1][1:3] == [
        "not counted, as it is wrong: 'a': has no services",
        "Services for 'a': none",
    ]
    wrong = "'b': 'my-web' is no name of a service"
    assert call("daybook-map", "list", "b")[1][1:3] == [
        f"not counted, as it is wrong: {wrong}",
        "Services for 'b': web",
    ]
    assert call("daybook-map", "add", "b", "web")[1][1] == f"still wrong: {wrong}"
    assert call("daybook-map", "add", "b", "api")[1][1] == f"left out, as it was wrong: {wrong}"


def test_d13_without_arguments_it_tells_how_it_is_called(call: Call) -> None:
    status, lines = call("daybook-map", flags=())
    assert status == 2
    assert lines[1].startswith("Usage: daybook-map [-config-file F] add PATTERN SERVICE...")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["show", "x"], "Unknown action 'show'"),
        (["add", "x"], "You must specify a pattern and list of services"),
        (["remove"], "You must specify a pattern and list of services"),
        (["list"], "You must specify a pattern to list!"),
        (["list", "a", "b"], "You must specify a pattern to list!"),
    ],
)
def test_wrong_arguments_end_with_1(call: Call, argv: list[str], said: str) -> None:
    status, lines = call("daybook-map", *argv)
    assert status == 1
    assert lines[0].startswith(said)


@pytest.mark.parametrize("program", ["daybook-push", "daybook-pull", "daybook-map"])
def test_flags_that_go_refuses_end_with_2(call: Call, program: str) -> None:
    status, lines = call(program, flags=("-conf=x",))
    assert (status, lines[0]) == (2, "flag provided but not defined: -conf")
    assert lines[1].startswith(f"Usage: {program} [-config-file F]")
    assert call(program, flags=("-h",))[0] == 0


def test_d15_a_wrong_file_is_one_clear_message(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "example.json"
    path.write_text('{\n    "bucket_name": "daybook"\n    "install_dir": "/srv"\n}\n')
    status, lines = call("daybook-map", "list", "x", flags=("-config-file", str(path)))
    assert status == 1
    assert lines == [
        f"{path}: 1 fault",
        "  line 3 column 5: Expecting ',' delimiter (a comma is missing at the end of line 2)",
    ]
