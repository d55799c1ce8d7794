"""Recipes of templates: what is decided before anything is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from buildstep.errors import Fault, SpecError
from buildstep.services.delivered_asset import AssetOf
from buildstep.services.delivery import list_ref, recipe_key, store_of
from buildstep.services.exports import Export, exports_of, is_export
from buildstep.services.hrd import Value
from buildstep.services.interface import Facts
from buildstep.services.template_build import read_build
from buildstep.services.template_check import check_templates
from buildstep.services.templates import find_templates
from tests.unit.services.repositories import template

DEBIAN = frozenset({"generic", "linux", "debian", "debian64"})
URL = "https://git.example.org/team/app.git"


def read(**rows: dict[str, Any]) -> tuple[list[Export], list[str]]:
    """Return the rows of a recipe, named `git_1`, `build_1` or `web_1`, and what is wrong with it."""
    names = {"git": "git.export", "build": "git.build", "web": "web.export"}
    values: dict[str, Value] = {}
    for name, row in rows.items():
        kind, _, number = name.partition("_")
        values[f"{names[kind]}.{number}"] = row
    faults: list[Fault] = []
    return exports_of(values, DEBIAN, "app!main", faults), [str(fault) for fault in faults]


def test_rows_are_read_in_the_order_of_their_numbers_and_not_of_their_text() -> None:
    rows, faults = read(
        git_10={"url": URL, "dest": "/b"}, web_1={"url": "https://h/x", "dest": "/c", "sha256": "a" * 64},
        git_2={"url": URL, "dest": "/a", "branch": "main", "source": "bin/*", "nodirs": "True"},
    )  # fmt: skip
    assert faults == []
    assert [row.key for row in rows] == ["git.export.2", "git.export.10", "web.export.1"]
    assert (rows[0].branch, rows[0].each, rows[0].plain, rows[0].overwrite) == ("main", True, True, True)


@pytest.mark.parametrize(
    ("row", "url"),
    [
        ({"account": "team", "repo": "app"}, "https://github.com/team/app"),
        ({"site": "git.example.org", "account": "team", "repo": "app"}, "https://git.example.org/team/app"),
        ({"url": URL, "account": "x", "repo": "y"}, URL),
    ],
)
def test_site_account_and_repo_stand_for_a_url(row: dict[str, str], url: str) -> None:
    rows, faults = read(git_1={**row, "dest": "/a"})
    assert (rows[0].url, faults) == (url, [])


def test_a_row_without_a_url_has_git_url_and_one_for_the_build_the_place_of_jumpscale() -> None:
    faults: list[Fault] = []
    rows = exports_of({"git.url": URL, "git.build.1": {}}, None, "x", faults)
    assert ([row.dest for row in rows], faults) == (["/opt/build/git.example.org/team/app"], [])


def test_ays_d18_all_that_is_wrong_is_told_together_before_anything_is_fetched() -> None:
    """AYS reported a relative dest, and then went on without copying anything."""
    rows, faults = read(
        git_1={"url": URL, "dest": "opt/app"},
        git_2={"url": "https://me:pw@host/x", "dest": "/a", "revision": "abc", "tag": "v1"},
        git_3={"url": URL, "dest": "/b/../c", "source": "/etc"},
        git_4={"url": URL, "dest": "/e", "nodirs": "True", "overwrite": "maybe"},
        web_1={"url": "ftp://host/x", "dest": "/d"},
        web_2={"url": "https://host/x", "dest": "/d", "sha256": "abc"},
    )
    assert rows == []
    told = "\n".join(faults)
    for words in (
        "git.export.1: dest: is 'opt/app', and must be an absolute path",
        "git.export.2: has revision and tag",
        "git.export.2: revision:",
        "git.export.2: url:",
        "git.export.3: dest: '/b/../c' has a part that is . or ..",
        "git.export.3: source: '/etc' must be a path in the repository",
        "git.export.4: nodirs: is for a source that ends with *",
        "git.export.4: overwrite: is 'maybe'",
        "web.export.1: url: must be http(s)",
        "web.export.1: nothing says what the download must be",
        "web.export.2: sha256: must be 64 hex digits",
    ):
        assert words in told
    assert "pw" not in told


def test_two_rows_onto_one_path_are_told_where_the_second_may_not_overwrite() -> None:
    first, second = {"url": URL, "dest": "/a"}, {"url": URL, "dest": "/a/", "overwrite": "False"}
    assert "may not overwrite" in read(git_1=first, git_2=second)[1][0]
    assert read(git_1=second, git_2=first)[1] == []


def test_rows_for_other_platforms_are_left_out_and_none_at_all_is_a_fault() -> None:
    here, there = (
        {"url": URL, "dest": "/a", "platform": "debian64"},
        {"url": URL, "dest": "/a", "platform": "win"},
    )
    rows, faults = read(git_1=here, git_2=there)
    assert ([row.key for row in rows], faults) == (["git.export.1"], [])
    assert "nothing of its recipe is for this platform" in read(git_2=there)[1][0]


@pytest.mark.parametrize(
    ("key", "is_one"), [("git.export.1", True), ("git.exporter.1", False), ("git.export.x", False)]
)
def test_only_numbered_keys_are_rows(key: str, is_one: bool) -> None:
    assert is_export(key) is is_one


def test_ays_d04_who_builds_and_who_installs_have_one_name_and_one_place() -> None:
    """AYS wrote `md.flist` below one directory and read `DOMAIN__NAME.flist` below another."""
    assert list_ref("corp", "web", "1.2") == "corp__web/1.2"
    assert list_ref("", "web", "") == "web/0"
    assert store_of("dir:/srv/store", "team") == "dir:/srv/store/team"
    assert store_of("s3://bucket/x/", "") == "s3://bucket/x/"


def test_a_built_list_is_of_one_recipe_and_one_build_action(tmp_path: Path) -> None:
    row = Export(key="git.export.1", kind="git.export", url=URL, dest="/a", login="me")
    actions = tmp_path / "actions_tmpl.py"
    actions.write_text("class Actions: pass\n")
    before = recipe_key([row], actions)
    assert recipe_key([Export(key="git.export.1", kind="git.export", url=URL, dest="/a")], actions) == before
    assert recipe_key([row], None) != before
    actions.write_text("class Actions: ...\n")
    assert recipe_key([row], actions) != before


# -- the build of a template --------------------------------------------------------------------------------


def build_of(root: Path, text: str, **files: str) -> Any:
    template(root, "app", {"service.hrd": text, **{f"{name}.py": body for name, body in files.items()}})
    return read_build(find_templates([("", root / "servicetemplates")]).one("app"))


def test_a_build_takes_what_its_recipe_lays(tmp_path: Path) -> None:
    text = f"git.export.1 = url:'{URL}', dest:'$(system.paths.app)/app',\ngit.export.2 = url:'{URL}', dest:'/etc/x', link:True,\ngit.build.1 = url:'{URL}',\n"
    build = build_of(tmp_path, text)
    assert build.taken() == ["/etc/x", "/opt/services/apps/app", "/opt/services/code"]
    assert (build.ref, build.image, build.lists) == ("app/0", "", True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("description = 'nothing'\n", "there is nothing to build"),
        (f"git.export.1 = url:'{URL}', dest:'$(param.x)',\n", "param.x"),
        (f"git.export.1 = url:'{URL}', dest:'/a*',\n", "cannot be recorded"),
        (f"git.export.1 = url:'{URL}', dest:'/a',\nbuild = dedupe_ns:'../x',\n", "dedupe_ns"),
        ("image.manifest = 'm.json'\n", "there is no"),
    ],
)
def test_what_is_wrong_with_a_build_is_told_before_it_begins(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SpecError) as told:
        build_of(tmp_path, text)
    assert words in str(told.value) + told.value.detail


def test_a_build_action_needs_an_image_and_says_what_it_makes(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as told:
        build_of(
            tmp_path,
            "description = 'x'\n",
            actions_tmpl="class Actions:\n    def build(self, service): ...\n",
        )
    assert "nothing says what its build action makes" in told.value.detail
    assert "has no image to build in" in told.value.detail


# -- the asset ----------------------------------------------------------------------------------------------


def facts(**values: str) -> Facts:
    return Facts(
        key="web!main", name="web", instance="main", role="web",
        values={f"asset.{name}": value for name, value in values.items()},
    )  # fmt: skip


def test_an_asset_is_pinned_or_the_newest_and_lies_with_the_programs() -> None:
    asset = AssetOf.of(facts(service="web", version="1.2.0"), [])
    assert asset is not None
    assert (asset.version, asset.dest) == ("1.2.0", "/opt/services/apps/web")
    newest = AssetOf.of(facts(service="web", version="newest", dest="/srv/web"), [])
    assert newest is not None
    assert (newest.version, newest.dest) == ("", "/srv/web")
    assert AssetOf.of(facts(), []) is None


def test_what_is_wrong_with_an_asset_is_told_together() -> None:
    faults: list[Fault] = []
    assert AssetOf.of(facts(service="a-b", version="1/2", dest="x"), faults) is None
    assert [fault.where for fault in faults] == [
        f"web!main: asset.{x}" for x in ("service", "version", "dest")
    ]


def test_a_template_is_checked_with_its_recipe_and_each_fault_is_told_once(tmp_path: Path) -> None:
    text = f"git.export.1 = url:'{URL}', dest:'opt',\nweb.export.1 = url:'https://h/$(param.x)', dest:'/a',\nweb.export.2 = url:'https://h/x', dest:'/a',\n"
    template(tmp_path, "app", {"service.hrd": text})
    found = [str(one) for one in check_templates(find_templates([("", tmp_path / "servicetemplates")]))]
    assert len(found) == 2
    assert "git.export.1: dest: is 'opt', and must be an absolute path" in found[0]
    assert "web.export.2: nothing says what the download must be" in found[1]
