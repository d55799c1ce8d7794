"""The parts of the docs that are made from the code say what the code says; and no page names one machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from buildstep import cli
from scripts import command_pages, make_docs, room_tables
from tests.unit.test_layering import MODULES, ROOMS

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs").rglob("*.md"))]
MAN = sorted((TOP / "docs/man").glob("*.1"))


def text_of(name: str) -> str:
    return (TOP / "docs" / name).read_text()


@pytest.mark.commands
def test_what_is_made_from_the_code_is_up_to_date() -> None:
    # In a process of its own: what other tests have imported and changed must not show in the pages.
    ask = "import sys; from scripts import make_docs; sys.exit(' '.join(make_docs.stale()) or 0)"
    done = subprocess.run([sys.executable, "-c", ask], cwd=TOP, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), f"run `make docs`: {done.stderr}"


def test_every_command_and_option_is_in_the_reference_and_in_a_man_page() -> None:
    reference = text_of("reference/commands.md")
    man = "\n".join(page.read_text() for page in MAN).replace("\\-", "-")
    for command, context in command_pages.commands():
        assert f"## {context.command_path}\n" in reference
        for param in command.params:
            for option in param.opts if isinstance(param, click.Option) and not param.hidden else []:
                assert option in reference
                assert option in man
    for name, (_, about) in cli.COMMANDS.items():
        assert (TOP / f"docs/man/buildstep-{name}.1").exists() == bool(about), name


def test_hidden_commands_stay_hidden() -> None:
    hidden = [name for name, (_, about) in cli.COMMANDS.items() if not about]
    for name in hidden:
        assert f"## buildstep {name}\n" not in text_of("reference/commands.md")


@pytest.mark.commands
@pytest.mark.parametrize("page", MAN, ids=lambda page: page.name)
def test_man_pages_are_clean_roff(page: Path) -> None:
    text = page.read_text()
    assert all(ord(char) < 128 for char in text)
    sections = re.findall(r"^\.SH (.*)$", text, re.MULTILINE)
    assert sections[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert re.search(r"^buildstep\S* \\- \S", text, re.MULTILINE)
    known = ("TH", "SH", "SS", "TP", "B", "BR", "PP", "nf", "fi", '\\"')
    requests = [row.split(" ")[0][1:] for row in text.splitlines() if row.startswith(".")]
    assert set(requests) <= set(known)
    groff = shutil.which("groff")
    if groff:
        done = subprocess.run(
            [groff, "-man", "-Tutf8", "-ww", "-z", os.fspath(page)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""


def test_text_that_roff_would_take_for_a_request() -> None:
    assert command_pages.roff(".x\n'y -a \\b") == "\\&.x\n\\&'y \\-a \\eb"


def test_a_table_in_a_page_is_made_anew_and_the_rest_kept() -> None:
    page = "# A\n\n<!-- table: formats -->\nold\n<!-- end -->\n\nkept\n"
    made = make_docs.filled(page)
    assert "`oci`" in made
    assert "old" not in made
    assert made.endswith("<!-- end -->\n\nkept\n")
    assert make_docs.filled(made) == made


def test_every_module_is_named_by_its_room_in_reading_order() -> None:
    page = text_of("explanation/how-it-works.md")
    headings = re.findall(r"^### (\w+): ", page, re.MULTILINE)
    assert headings == [room for room in reversed(ROOMS) if room != "__main__"]
    for module in MODULES:
        name = f"`buildstep/{module}.py`" if module == "__main__" else f"`{module}.py`"
        assert name in page or module == "__init__", module


def test_a_module_comes_before_those_it_uses() -> None:
    order = [path.name for path in room_tables.modules("build") if path.parent.name == "build"]
    assert order[0] == "__init__.py"
    assert order.index("execute.py") < order.index("deliver.py") < order.index("context.py")
    sentence = room_tables.first_sentence(TOP / "buildstep/build/steps/__init__.py")
    assert sentence == "The steps of a build, in order."


@pytest.mark.commands
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert "_BUILDSTEP_COMPLETE" in out
    assert "buildstep" in out


# What is written by hand.


def test_every_variable_that_the_code_reads_is_documented() -> None:
    page = text_of("reference/environment.md") + text_of("how-to/jenkins.md")
    found: set[str] = set()
    for path in [*(TOP / "buildstep").rglob("*.py"), *(TOP / "bin").iterdir()]:
        found |= set(re.findall(r"\bBUILDSTEP_[A-Z][A-Z_]+[A-Z]\b", path.read_text()))
        found |= set(re.findall(r'environ(?:\.get\(|\[)"([A-Za-z_]+)"', path.read_text()))
    # What everybody has; click's own question, and bash's; Makefile.inc's way to our template.
    found -= {"PATH", "HOME", "TERM", "PYTHONPATH", "BUILDSTEP_COMPLETE", "COMPONENT_VALUES"}
    found -= {"COMP_COMMAND", "COMP_LINE", "COMP_POINT", "COMP_WORDBREAKS"}
    told = {word for row in re.findall(r"`([^`\n]+)`", page) for word in re.findall(r"\w+", row)}
    assert sorted(name for name in found if name not in told and name.lower() not in told) == []


def test_every_row_of_a_table_has_its_words() -> None:
    from buildstep.pool import BACKENDS
    from buildstep.rootfs.installers import INSTALLERS

    for name in BACKENDS:
        assert f"`{name}`" in text_of("reference/pools.md"), name
    for name in INSTALLERS:
        assert f"## {name}\n" in text_of("reference/installers.md"), name


def test_no_row_of_a_table_is_without_its_meaning() -> None:
    for name, render in make_docs.TABLES.items():
        _head, _line, *rows = render().splitlines()
        assert rows, name
        if name != "variables":  # not every setting has a key in m.json and a flag
            assert [row for row in rows if re.search(r"\|  \|$", row) and name != "events"] == []


def test_the_reference_of_m_json_names_what_there_is() -> None:
    from buildstep.emit import EMITTERS
    from buildstep.rootfs.cleaners import CLEANERS
    from buildstep.rootfs.installers import INSTALLERS

    rows = [row.split(" | ") for row in text_of("reference/m.json.md").splitlines() if row.startswith("| `")]
    values = {row[0].removeprefix("| "): row[4] for row in rows if len(row) == 6}
    every = ["auto", *INSTALLERS]
    assert values["`installer`"] == "one of " + ", ".join(f"`{name}`" for name in every)
    every = [*CLEANERS, *(f"-{name}" for name in CLEANERS)]
    assert values["`clean`"].endswith("one of " + ", ".join(f"`{name}`" for name in every))
    assert "one of " + ", ".join(f"`{name}`" for name in EMITTERS) in values["`formats`"]


def test_every_key_of_a_build_record_is_documented() -> None:
    from dataclasses import fields

    from buildstep.report import record

    page = text_of("reference/build-record.md")
    rows = (record.Step, record.Cleaner, record.Remark, record.Audit, record.Layer, record.ImageFile)
    keys = {"format", *(key.name for row in rows for key in fields(row))}
    keys |= {key.name for key in fields(record.BuildRecord)} - {"path", "events"}
    keys |= {"image", "proto", "manifest", "spec", "pool", "uuid", "key", "label", "tree_digest"}
    assert len(keys) > 30
    assert sorted(key for key in keys if f"`{key}`" not in page and f".{key}`" not in page) == []


@pytest.mark.parametrize("page", [*PAGES, *MAN], ids=lambda page: os.fspath(page.relative_to(TOP)))
def test_no_page_names_one_machine(page: Path) -> None:
    """Paths that exist on every system are fine; somebody's home or a place of work is not."""
    text = page.read_text()
    assert os.fspath(TOP) not in text or len(TOP.parts) < 3
    assert (
        re.findall(
            r"(?<![\w.])/(?:home|Users|work|workspace|root/[a-z.]|mnt/|private/|tmp/(?!PREFIX))\S*", text
        )
        == []
    )
    assert re.findall(r"\b(?!127\.0\.0\.1\b)(?:10|127|172|192)\.\d+\.\d+\.\d+\b", text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: os.fspath(page.relative_to(TOP)))
def test_files_of_ours_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:buildstep|tests|docs|fixtures|bin|jenkins)/[\w./-]*)`", page.read_text())
    written = re.findall(r"<!-- write: (\S+) -->", page.read_text())
    # An image's own paths, and what builds or readers of the page write, are not ours.
    assert (
        sorted(
            {
                name
                for name in {*named} - {*written}
                if not (TOP / name).exists() and "buildstep.toml" not in name
            }
        )
        == []
    )
