"""A layer with packages made from a smaller one is the layer of an install from the base: real packages, and
packages made to break it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildstep.system import process
from tests.integration.conftest import debian_root, demand
from tests.integration.repository import clear_layers, make_repository
from tests.integration.yard import Outcome, Yard, unpacked
from tests.rounds import chosen

Private = Callable[[Callable[[], Any]], Any]


def both_ways(place: Yard, small: list[str], more: list[str]) -> tuple[Outcome, Outcome]:
    """A build that may grow the layer with `small` by `more`, and the same build without any cache."""
    place.build = {"packages": small, "order": "packages-first"}
    first = place.run()
    assert not first.error, first.error
    place.build["packages"] = [*small, *more]
    grown, cold = place.run(), place.run(cache=False)
    assert not grown.error, grown.error
    assert not cold.error, cold.error
    return grown, cold


# -- packages of Debian -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def debian_yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """A pool whose downloads are shared by the tests of this file, and a minimal Debian base."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "rsync")
    top = tmp_path_factory.mktemp("debian")
    base = top / "base.tar"
    process.run(["tar", "-cf", f"{base}", "-C", f"{debian_root()}", "."])
    made = Yard(pool=f"overlay:{top / 'pool'}", out=top / "out", proto=top / "proto", base=base)
    made.proto.mkdir()
    (made.proto / "file").write_text("0\n")
    return made


REAL: Mapping[str, tuple[list[str], list[str], str]] = {
    "no scripts": (["bash-completion", "pigz"], ["tree", "pv"], ""),
    "no scripts, users there": (["openssh-client", "tcpdump"], ["tree", "pv"], ""),
    "libraries": (["openssh-client", "tcpdump"], ["libxml2-utils"], ""),
    "a script that does nothing": (["gawk"], ["bc", "dc"], ""),
    "what is there, asked for by name": (["curl"], ["libcurl4"], ""),
    "compiled Python is there": (["python3-minimal"], ["jq"], ""),
    "an index of manual pages is there": (["man-db"], ["tree"], ""),
    "a user": (["pigz"], ["tcpdump"], "tcpdump has a script (preinst)"),
    "an alternative": (["pigz"], ["nano"], "nano has a script (postinst)"),
    "another order": (["nginx-light", "openssh-client"], ["python3-minimal"], "all packages are installed again"),
    "questions": (["pigz"], ["ca-certificates"], "has a script (postinst)"),
    "a command that scripts look for": (["pigz"], ["systemd-standalone-tmpfiles"], "looks for systemd-tmpfiles"),
}  # fmt: skip
"""What is there, what comes, and why it cannot be added (empty: it can)."""


@pytest.mark.parametrize("name", chosen(list(REAL), 2))
def test_grown_and_cold_are_the_same(debian_yard: Yard, private: Private, tmp_path: Path, name: str) -> None:
    small, more, why = REAL[name]

    def job() -> None:
        grown, cold = both_ways(debian_yard, small, more)
        state, reason = grown.steps["packages"]
        assert state == "run"
        if why:
            assert why in reason
            assert "; extended layer " not in reason
        else:
            assert "; extended layer " in reason, reason
        assert grown.tree == cold.tree
        assert grown.files == cold.files
        assert unpacked(debian_yard.out / "hello-1.0.0.oci.tar", tmp_path) == grown.tree

    private(job)


# -- packages that would show it ----------------------------------------------------------------------------


LOOKS = "#!/bin/sh\nset -e\nif command -v newtool; then echo found > /usr/share/first/saw; fi\n"
RUNS = "#!/bin/sh\nset -e\nruns-later\n"
GLOBS = "#!/bin/sh\nset -e\nls -d /usr/share/*/ > /usr/share/first/saw\n"
READS = "#!/bin/sh\nset -e\nls /usr/share/first/d > /usr/share/first/saw\n"
TOOL = "#!/bin/sh\nif test -x /usr/bin/newtool; then echo found > /usr/share/first/saw; fi\n"

MADE: Mapping[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "plain": ({}, {"files": {"usr/bin/newtool": "1"}}, ""),
    "its own folders": ({}, {"files": {"usr/lib/second/a/b": "1", "etc/second/conf": "1"}}, ""),
    "a script": ({}, {"postinst": "#!/bin/sh\ntouch /usr/share/second/new\n"}, "has a script"),
    "a script looks for a command": (
        {"postinst": LOOKS}, {"files": {"usr/bin/newtool": "#!/bin/sh\n"}},
        "the postinst of first looks for newtool",
    ),
    "a tool looks for a command": (
        {"postinst": RUNS, "files": {"usr/bin/runs-later": TOOL}}, {"files": {"usr/bin/newtool": "#!/bin/sh\n"}},
        "/usr/bin/runs-later looks for newtool",
    ),
    "a script looks for a package": (
        {"postinst": "#!/bin/sh\ndpkg -s second >/dev/null 2>&1 || true\n"}, {},
        "the postinst of first looks for second",
    ),
    "a script looks at everything": ({"postinst": GLOBS}, {}, "the postinst of first looks through all files"),
    "a folder of another": (
        {"postinst": READS, "files": {"usr/share/first/d/1": "1"}}, {"files": {"usr/share/first/d/2": "2"}},
        "scripts may look through /usr/share/first/d/",
    ),
    "a file that a script made": (
        {"postinst": "#!/bin/sh\necho mine > /etc/second.conf\n"},
        {"files": {"etc/second.conf": "theirs\n"}, "extra": {"conffiles": "/etc/second.conf\n"}},
        "/etc/second.conf is there already",
    ),
    "a folder with other permissions": (
        {"files": {"opt/both/1": "1"}, "modes": {"opt/both": 0o750}}, {"files": {"opt/both/2": "2"}},
        "/opt/both is there with other permissions",
    ),
    "waits for a trigger": (
        {}, {"extra": {"triggers": "interest-noawait /usr/share/first\n"}}, "second waits for a trigger",
    ),
    "sets off a trigger": ({}, {"extra": {"triggers": "activate-noawait other\n"}}, "sets off a trigger (other)"),
    "is watched": (
        {
            "postinst": "#!/bin/sh\nls /usr/share/doc > /usr/share/first/seen\n",
            "extra": {"triggers": "interest-noawait /usr/share/doc\n"},
        },
        {"files": {"usr/share/doc/second/text": "1"}}, "sets off a trigger of first",
    ),
    "instead of another": ({"depends": "third | second", "with": ["third"]}, {}, "can have second for another package"),
    "settings of dpkg": (
        {"files": {"etc/dpkg/dpkg.cfg.d/first": "path-exclude=/usr/share/second/*\n"}}, {},
        "/etc/dpkg/dpkg.cfg.d/first came with a package",
    ),
    "questions": (
        {}, {"extra": {"templates": "Template: second/a\nType: string\nDescription: a\n"}}, "asks questions",
    ),
}  # fmt: skip
"""The package that is there, the one that comes, and why that cannot be added."""


@pytest.mark.parametrize("name", chosen(list(MADE), 4))
def test_what_could_show_is_told(place: Yard, private: Private, tmp_path: Path, name: str) -> None:
    first, second, why = MADE[name]
    small = ["first", *first.get("with", ())]
    first = {key: value for key, value in first.items() if key != "with"}
    repository = make_repository(place, tmp_path / "repository")

    def job() -> None:
        repository.put("third", "1.0")
        repository.put("first", "1.0", **first)
        repository.put("second", "1.0", **second)
        with repository.served():
            grown, cold = both_ways(place, small, ["second"])
        reason = grown.steps["packages"][1]
        assert ("; extended layer " in reason) is (not why), reason
        assert why in reason
        assert grown.same == cold.same

    clear_layers(place)
    private(job)


def test_a_layer_under_another_is_looked_at_too(place: Yard, private: Private, tmp_path: Path) -> None:
    """What a grown layer stands on was tampered with: neither is used, and both are made again."""
    repository = make_repository(place, tmp_path / "repository")

    def job() -> None:
        repository.put("first", "1.0")
        repository.put("second", "1.0")
        with repository.served():
            grown, cold = both_ways(place, ["first"], ["second"])
            assert "; extended layer " in grown.steps["packages"][1]
            (file,) = (place.out.parent / "pool/layer").glob("*/upper/usr/share/first/made")
            file.write_bytes(b"1.1\n")
            (place.proto / "file").write_text("1\n")
            again = place.run()
            assert not again.error, again.error
            assert any("is damaged and is not used" in note for note in again.notes)
            place.build["packages"] = ["first"]
            assert not place.run().error
            place.build["packages"] = ["first", "second"]
            (place.proto / "file").write_text("0\n")
            assert place.run().same == cold.same

    clear_layers(place)
    private(job)
