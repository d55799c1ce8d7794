"""Two builds of one image compared: what each step did to the files, and a gate that a CI runs."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.chromium import Browser, browser
from tests.integration.conftest import Require
from tests.integration.support import EPOCH, Lab, write_base
from tests.servers import layouts

__all__ = ["browser"]  # a fixture

DIFF = ("files", "diff")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Two builds, of two bases and two states of a proto directory: in one/ and two/."""
    top = tmp_path_factory.mktemp("diff")
    first = Lab(top=top, base=write_base(top / "base1.tar"))
    (first.proto / "usr/bin").mkdir(parents=True)
    (first.proto / "etc/kept").write_text("kept\n")
    first.built("--format", "oci", "--format", "tar")
    os.rename(first.out, top / "one")

    def more(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("etc/of-base")
        info.size, info.mtime = 5, EPOCH
        tar.addfile(info, io.BytesIO(b"base\n"))

    second = Lab(top=top, base=write_base(top / "base2.tar", more))
    program = second.proto / "usr/bin/evil"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o4755)
    (second.proto / "etc/hello").write_text("hello again\n")
    (second.proto / "etc/kept").unlink()
    second.manifest(build={"allow": {"setuid": ["/usr/bin/evil"]}})
    second.built("--format", "oci", "--format", "tar")
    os.rename(second.out, top / "two")
    return second


def image(lab: Lab, name: str, ending: str) -> str:
    (found,) = [path for path in (lab.top / name).iterdir() if path.name.endswith(ending)]
    return os.fspath(found)


def diffed(lab: Lab, *arguments: str, status: int = 0) -> dict[str, Any]:
    done = lab.command(*DIFF, "--json", "--pool", lab.uri, *arguments)
    assert done.status == status, done.stderr
    return done.json


def causes(value: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {row["path"]: (row["change"], row["cause"]) for row in value["changes"]}


EXPECTED = {
    "etc/hello": ("changed", "proto"),
    "etc/kept": ("removed", "proto"),
    "etc/of-base": ("added", "base"),
    "usr/bin/evil": ("added", "proto"),
}


@pytest.mark.parametrize("ending", [".oci.tar", ".tar.zst", ".buildrecord.json"])
def test_two_builds(require: Require, lab: Lab, ending: str) -> None:
    require("root", "namespaces", "overlay")
    value = diffed(lab, image(lab, "one", ending), image(lab, "two", ending))
    assert causes(value) == EXPECTED
    (gained,) = value["privileges"]
    assert (gained["path"], gained["change"], gained["kind"]) == ("usr/bin/evil", "gained", "setuid")
    assert (gained["detail"], gained["cause"]) == ("as uid 0", "proto")
    record = json.loads(Path(image(lab, "two", ".buildrecord.json")).read_text())
    assert value["new"]["build"] == record["build_id"]
    assert value["new"]["tree_digest"] == record["tree_digest"]


def test_the_forms_of_one_build_do_not_differ(lab: Lab) -> None:
    assert diffed(lab, image(lab, "one", ".oci.tar"), image(lab, "one", ".tar.zst"))["same"] is True


def test_layers_by_the_other_door(lab: Lab) -> None:
    """The layers of the archive are those of its record; each change names the one that it is from."""
    done = lab.command(
        "image",
        "diff",
        "--json",
        "--pool",
        lab.uri,
        *(image(lab, name, ".oci.tar") for name in ("one", "two")),
    )
    assert done.status == 0, done.stderr
    found = done.json["layers"]
    record = json.loads(Path(image(lab, "two", ".buildrecord.json")).read_text())
    assert [row["digest"] for row in found["new"]] == [row["digest"] for row in record["layers"]]
    assert [row["base"] for row in found["new"]] == [True, False]
    assert [row["change"] for row in found["changes"]] == ["replaced", "replaced"]
    assert {row["path"]: row["new_layer"] for row in done.json["changes"]} == {
        "etc/hello": 2, "etc/kept": None, "etc/of-base": 1, "usr/bin/evil": 2,
    }  # fmt: skip
    assert causes(done.json) == EXPECTED


def test_layers_of_images_in_the_pool(lab: Lab) -> None:
    """They are kept there as they came, and read again for which of them a path is from."""
    lower = layouts.layer({"etc/": b"", "etc/a": b"1", "etc/b": b"2", "d/": b"", "d/x": b"x"})
    upper = layouts.layer({"etc/.wh.b": b"", "etc/a": b"new", "d/.wh..wh..opq": b"", "d/y": b"y"})
    uuids = []
    for name, layers in (("less", [lower]), ("more", [lower, upper])):
        layouts.make_layout(lab.top / name, layers)
        done = lab.command("image", "import", "--pool", lab.uri, "--json", f"oci:{lab.top / name}")
        assert done.status == 0, done.stderr
        uuids.append(done.json["uuid"])
    done = lab.command("image", "diff", "--json", "--pool", lab.uri, *uuids)
    assert done.status == 0, done.stderr
    assert [row["change"] for row in done.json["layers"]["changes"]] == ["same", "added"]
    numbers = {row["path"]: (row["old_layer"], row["new_layer"]) for row in done.json["changes"]}
    assert numbers == {"d/x": (1, 2), "d/y": (None, 2), "etc/a": (1, 2), "etc/b": (1, 2)}
    for blob in (lab.pool / "state/blobs").iterdir():  # gone, or damaged: the layers are told all the same
        if not blob.suffix and blob.read_bytes() == upper:
            blob.write_bytes(b"no layer")
    done = lab.command("image", "diff", "--json", "--pool", lab.uri, *uuids)
    assert done.status == 0, done.stderr
    assert [row["change"] for row in done.json["layers"]["changes"]] == ["same", "added"]
    assert any("which layer of more a path is from is not known" in note for note in done.json["notes"])


def test_a_base_in_the_pool(lab: Lab) -> None:
    """By uuid: what the build did to it. Its own record of the proto directory tells which."""
    record = json.loads(Path(image(lab, "two", ".buildrecord.json")).read_text())
    base = record["inputs"]["image"]["uuid"]
    value = diffed(lab, base, image(lab, "two", ".oci.tar"), "--no-removed-packages")
    found = causes(value)
    assert found["usr/bin/evil"] == ("added", "proto")
    assert found["etc/hello"] == ("added", "proto")
    assert "etc/of-base" not in found
    assert diffed(lab, base, os.fspath(lab.base))["same"] is True


def test_a_record_of_another_build_is_not_believed(lab: Lab, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for ending in (".oci.tar", ".buildrecord.json"):
            source = Path(image(lab, "one" if ending == ".oci.tar" else name, ending))
            (tmp_path / name / source.name).write_bytes(source.read_bytes())
    (archive,) = (tmp_path / "two").glob("*.oci.tar")
    value = diffed(lab, os.fspath(archive), image(lab, "two", ".oci.tar"))
    assert value["old"]["build"] is None
    assert any("is of another tree" in note for note in value["notes"])
    assert causes(value)["etc/kept"] == ("removed", "unknown")


def test_the_gate(lab: Lab) -> None:
    pair = image(lab, "one", ".oci.tar"), image(lab, "two", ".oci.tar")
    done = lab.command(*DIFF, *pair, "--no-new-setuid", "--max-growth", "1%", "--pool", lab.uri)
    assert done.status == 20
    assert "evil" in done.stdout
    assert "1 limit exceeded" in done.stderr
    assert "--max-growth: kept" in done.stdout
    done = lab.command(*DIFF, *reversed(pair), "--no-new-setuid", "--no-new-capabilities", "--pool", lab.uri)
    assert done.status == 0, done.stderr


# -- the page in a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(lab: Lab) -> Path:
    pair = image(lab, "one", ".oci.tar"), image(lab, "two", ".oci.tar")
    done = lab.command(*DIFF, *pair, "--page", "diff.html", "--no-new-setuid", "--pool", lab.uri)
    assert done.status == 20, done.stderr
    return lab.top / "diff.html"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_reads_at_any_width(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.size(width, 900)
    browser.dark(dark)
    browser.open(page)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert "limit exceeded" in browser.ask("document.querySelector('.verdict').textContent")
    assert browser.poor_contrast() == []


def test_the_map_opens_by_keyboard(browser: Browser, page: Path) -> None:
    browser.size(1400, 900)
    browser.open(page)
    folder = "document.querySelector('#treemap g.folder[role=button]')"
    browser.until(folder)
    assert (
        browser.ask("document.querySelector('#treemap svg').getAttribute('aria-label')")
        == "changed files, by size"
    )
    assert "added" in browser.ask(
        "[...document.querySelectorAll('#treemap title')].map(t => t.textContent).join(' ')"
    )
    browser.ask(
        f"{folder}.focus(), {folder}.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter', bubbles: true}}))"
    )
    browser.until("document.querySelectorAll('#crumbs button').length")


def test_tables_sort_and_filter(browser: Browser, page: Path) -> None:
    browser.open(page)
    paths = "[...document.querySelectorAll('#directories-rows tr:not([hidden])')].map(r => r.cells[0].textContent)"
    head = "document.querySelector('#directories th button')"
    browser.ask(f"{head}.click()")
    ascending = browser.ask(paths)
    assert ascending == sorted(ascending)
    assert browser.ask("document.querySelector('#directories th').getAttribute('aria-sort')") == "ascending"
    browser.ask(f"{head}.click()")
    assert browser.ask(paths) == ascending[::-1]
    assert len(ascending) > 1
    browser.ask("(() => { const box = document.querySelector('[data-filter=directories-rows]'); box.value = '/usr';"
                " box.dispatchEvent(new Event('input')); })()")  # fmt: skip
    assert browser.ask(paths) == ["/usr/bin"]
