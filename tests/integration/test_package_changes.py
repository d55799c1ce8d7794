"""A layer whose packages are changed, one of them gone or of another version, is the layer of an install from the
base: real packages, packages made to break it, and random ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.repository import Repository, clear_layers, make_repository
from tests.integration.test_growth import LOOKS, MADE, READS, debian_yard
from tests.integration.yard import Outcome, Yard, unpacked
from tests.rounds import chosen, rounds

Private = Callable[[Callable[[], Any]], Any]

__all__ = ["debian_yard"]

CHANGED = "; changed layer "


def build(place: Yard, packages: Sequence[str], **flags: Any) -> Outcome:
    place.build = {"packages": list(packages), "order": "packages-first"}
    done = place.run(**flags)
    assert not done.error, done.error
    assert done.steps["packages"][0] == "run"
    return done


def both_ways(place: Yard, before: list[str], after: list[str], **flags: Any) -> tuple[Outcome, Outcome]:
    """A build that may change the layer that an earlier one made, and the same build without any cache."""
    build(place, before)
    return build(place, after, **flags), build(place, after, cache=False)


REAL: Mapping[str, tuple[list[str], list[str], str]] = {
    "a tool and its libraries": (["curl", "jq", "pigz"], ["curl", "pigz"], ""),
    "one for another": (["openssh-client", "tree"], ["openssh-client", "pv", "zip"], ""),
    "libraries in /lib": (["htop", "pigz"], ["pigz"], ""),
    "a script": (["tree", "nano"], ["tree"], "nano has a script (prerm)"),
    "only needed now": (["curl", "libcurl4"], ["curl"], "packages: libcurl4 removed"),
    "what scripts run": (["ca-certificates", "openssl"], ["openssl"], "has a script"),
}  # fmt: skip
"""What is there, what is wanted then, and why all are installed again (empty: they are not)."""


@pytest.mark.parametrize("name", chosen(list(REAL), 2))
def test_changed_and_cold_are_the_same(
    debian_yard: Yard, private: Private, tmp_path: Path, name: str
) -> None:
    before, after, why = REAL[name]

    def job() -> None:
        changed, cold = both_ways(debian_yard, before, after)
        reason = changed.steps["packages"][1]
        assert (CHANGED in reason) is (not why), reason
        assert why in reason
        assert changed.same == cold.same
        assert unpacked(debian_yard.out / "hello-1.0.0.oci.tar", tmp_path) == changed.tree

    clear_layers(debian_yard)
    private(job)


# -- packages that would show it ----------------------------------------------------------------------------

OTHERWISE = {
    "a folder with other permissions": "",  # the one that stays came first
    "a file that a script made": "conffile",
    "instead of another": "can have second for another package",
}
"""What is told of packages in `MADE` where it is another thing than when they come."""


@pytest.mark.parametrize("name", chosen([name for name in MADE if name not in OTHERWISE], 3))
def test_what_could_have_shown_is_told(place: Yard, private: Private, tmp_path: Path, name: str) -> None:
    first, second, why = MADE[name]
    stay = ["first", *first.get("with", ())]
    first = {key: value for key, value in first.items() if key != "with"}
    repository = make_repository(place, tmp_path / "repository")

    def job() -> None:
        repository.put("third", "1.0")
        repository.put("first", "1.0", **first)
        repository.put("second", "1.0", **second)
        with repository.served():
            changed, cold = both_ways(place, [*stay, "second"], stay)
        reason = changed.steps["packages"][1]
        assert (CHANGED in reason) is (not why), reason
        assert why in reason
        assert changed.same == cold.same

    clear_layers(place)
    private(job)


SHARED = "usr/share/doc/shared"

FOLDERS: Mapping[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "who stays came first": (
        {"files": {f"{SHARED}/1": "1"}, "modes": {SHARED: 0o750}, "name": "gamma"},
        {"files": {f"{SHARED}/2": "2"}, "modes": {SHARED: 0o750}}, "",
    ),
    "who goes came first, alike": ({"files": {f"{SHARED}/1": "1"}}, {"files": {f"{SHARED}/2": "2"}}, ""),
    "who goes came first": (
        {"files": {f"{SHARED}/1": "1"}, "modes": {SHARED: 0o750}}, {"files": {f"{SHARED}/2": "2"}},
        "has the permissions that kappa gave it",
    ),
    "nobody has anything in it": (
        {"files": {"usr/share/doc/zeta/x": "1"}, "folders": (SHARED,)}, {"files": {f"{SHARED}/2": "2"}},
        "is left, and nothing in it",
    ),
    "it was there before": (
        {}, {"files": {"opt/kappa/2": "2"}}, "/opt was there before, and went too",
    ),
}  # fmt: skip
"""Of the package that stays, of the one that goes, and why all are installed again."""


@pytest.mark.parametrize("name", list(FOLDERS))
def test_folders_are_as_whoever_stays_made_them(
    place: Yard, private: Private, tmp_path: Path, name: str
) -> None:
    """The one that goes is called kappa: it came before zeta, and after gamma."""
    stays, goes, why = FOLDERS[name]
    stays = dict(stays)
    staying = stays.pop("name", "zeta")
    repository = make_repository(place, tmp_path / "repository")

    def job() -> None:
        repository.put(staying, "1.0", **stays)
        repository.put("kappa", "1.0", **goes)
        with repository.served():
            changed, cold = both_ways(place, [staying, "kappa"], [staying])
        reason = changed.steps["packages"][1]
        assert (CHANGED in reason) is (not why), reason
        assert why in reason
        assert changed.same == cold.same

    clear_layers(place)
    private(job)


def test_another_version_takes_the_place_of_the_old_one(
    place: Yard, private: Private, tmp_path: Path
) -> None:
    """With other files, another conffile, and a library that it needs for the first time."""
    repository = make_repository(place, tmp_path / "repository")

    def job() -> None:
        repository.put("alpha", "1.0", postinst="#!/bin/sh\nuseradd --system alpha\n")
        repository.put("omega", "1.0")
        conf = {"conffiles": "/etc/kappa.conf\n"}
        repository.put(
            "kappa",
            "1.0",
            files={"usr/bin/kappa": "1", "etc/kappa.conf": "1", "usr/share/kappa/old/x": "1"},
            extra=conf,
        )
        with repository.served():
            first = build(place, ["alpha", "kappa"])
            repository.put(
                "kappa", "2.0", depends="omega", files={"usr/bin/kappa": "2", "etc/kappa.conf": "2"}, extra=conf
            )  # fmt: skip
            repository.asked.clear()
            changed = build(place, ["alpha", "kappa"], index_max_age=0)
            reason = changed.steps["packages"][1]
            assert CHANGED in reason, reason
            assert "versions.kappa: 1.0 -> 2.0" in reason
            fetched = [path for path, _ in repository.asked if path.endswith(".deb")]
            assert sorted(fetched) == ["/./kappa_2.0_all.deb", "/./omega_1.0_all.deb"]
            assert changed.counts["debs_hashed"] == 4, "two, when they came and before dpkg sees them"
            assert changed.same == build(place, ["alpha", "kappa"], cache=False).same
            assert changed.tree != first.tree

    clear_layers(place)
    private(job)


# -- any packages -------------------------------------------------------------------------------------------


def put_any(repository: Repository, rng: random.Random, name: str, names: Sequence[str]) -> None:
    """A package with files of its own and shared folders, perhaps with a script or a need of another one."""
    files = {
        f"usr/bin/{name}": "#!/bin/sh\n",
        f"etc/{name}/conf": "1",
        f"usr/share/shared/{name}": "x" * rng.randrange(99),
    }
    if rng.random() < 0.5:
        files[f"opt/s{rng.randrange(2)}/{name}"] = name
    postinst = rng.choice(
        [
            "",
            "",
            "",
            LOOKS.replace("newtool", rng.choice(names)).replace("first", name),
            READS.replace("first/d", "shared").replace("first", name),
        ]
    )
    below = names[: names.index(name)]
    repository.put(
        name, f"{rng.randrange(1, 9)}.{rng.randrange(9)}", postinst=postinst, files=files,
        depends=rng.choice(below) if below and rng.random() < 0.3 else "",
        extra={"conffiles": f"/etc/{name}/conf\n"} if rng.random() < 0.5 else {},
        modes={f"usr/share/shared/{name}": rng.choice([0o644, 0o600])},
    )  # fmt: skip


def test_any_row_of_changes_gives_what_an_install_gives(
    place: Yard, private: Private, tmp_path: Path
) -> None:
    repository = make_repository(place, tmp_path / "repository")
    seed = random.randrange(1 << 30)
    rng, names, told = random.Random(seed), [f"pkg{letter}" for letter in "abcdefg"], []

    def job() -> None:
        for name in names:
            put_any(repository, rng, name, names)
        with repository.served():
            wanted = set(rng.sample(names, 4))
            build(place, sorted(wanted))
            for _ in range(rounds(40, 4)):
                act = rng.choice(["add", "remove", "bump"])
                before = set(wanted)
                if act == "bump":
                    put_any(repository, rng, rng.choice(sorted(wanted)), names)
                elif act == "add" and len(wanted) < len(names):
                    wanted.add(rng.choice(sorted(set(names) - wanted)))
                elif len(wanted) > 1:
                    wanted.remove(rng.choice(sorted(wanted)))
                place.build = {"packages": sorted(wanted), "order": "packages-first"}
                warm, cold = place.run(index_max_age=0), place.run(cache=False)
                assert not warm.error, (seed, warm.error)
                told.append(warm.steps["packages"][1])
                assert warm.same == cold.same, (seed, act, sorted(before), sorted(wanted), told)

    clear_layers(place)
    private(job)
