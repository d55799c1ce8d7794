"""What a build asks of the image's package manager, and in which order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from buildstep.errors import InstallError
from buildstep.events import Bus, Event, Note
from buildstep.rootfs import installers
from buildstep.rootfs.interface import Audit, Finding, Installer, InstallJob, Package, Resolution, Sandbox
from buildstep.rootfs.packaging import Installed, Packaging, choose_installer, list_installed
from buildstep.spec.load import BuildSpec
from buildstep.system.root import Root

PACKAGE = Package(name="a", version="1")
AUDIT = Audit("text", (Finding(package="a", version="1", problem="CVE-1"),))


class FakeInstaller:
    """An installer that writes down what it is asked for."""

    name: ClassVar[str] = "fake"

    def __init__(self, audit: Audit | None = None) -> None:
        self.calls: list[Any] = []
        self._audit = audit

    def refresh(self, job: InstallJob, *, hurry: bool = False, max_age: float = 0.0) -> float:
        self.calls.append(("refresh", hurry, max_age))
        return 5.0

    def index(self, job: InstallJob) -> str:
        return "index"

    def resolve(self, job: InstallJob, *, upgrade: bool) -> Resolution:
        self.calls.append(("resolve", upgrade))
        return Resolution(versions={"a": "1"}, exact=True)

    def upgrade(self, job: InstallJob) -> None:
        self.calls.append("upgrade")

    def install(self, job: InstallJob, versions: Mapping[str, str] | None = None) -> None:
        self.calls.append(("install", tuple(job.packages), versions))

    def installed(self, sandbox: Sandbox) -> list[Package]:
        self.calls.append("installed")
        return [PACKAGE]

    def audit(self, job: InstallJob) -> Audit | None:
        self.calls.append("audit")
        return self._audit

    def clean(self, sandbox: Sandbox) -> None:
        self.calls.append("clean")


def spec(**changes: Any) -> BuildSpec:
    given = BuildSpec(
        name="x",
        version="1",
        source="",
        manifest={},
        origin_of={},
        image="scratch",
        proto=Path("/proto"),
        image_prefix="x",
        output_dir=Path("/bits"),
    )
    return replace(given, **changes)


@contextlib.contextmanager
def packaging(
    installer: FakeInstaller, given: BuildSpec, events: list[Event] | None = None
) -> Iterator[Packaging]:
    job = InstallJob(sandbox=cast(Sandbox, None), cache=Path("/cache"), packages=given.packages)
    bus = Bus((events if events is not None else []).append)
    with contextlib.ExitStack() as prepared:
        prepared.callback(installer.calls.append, "undone")
        yield Packaging(spec=given, bus=bus, installer=cast(Installer, installer), job=job, prepared=prepared)


def test_no_repository_is_queried_where_nothing_is_installed() -> None:
    fake = FakeInstaller()
    with packaging(fake, spec(pkg_audit=True)) as found:
        assert found.refresh()[0] == ""
        assert found.resolve() == Resolution(versions={}, exact=True)
        assert fake.calls == []


def test_the_index_is_fetched_and_the_packages_are_resolved() -> None:
    fake = FakeInstaller()
    with packaging(fake, spec(packages=("a",), upgrade_first=True)) as found:
        assert found.refresh(hurry=True, max_age=3.0) == ("index", 5.0)
        assert found.resolve().versions == {"a": "1"}
    assert fake.calls[:2] == [("refresh", True, 3.0), ("resolve", True)]


def test_an_install_ends_with_the_list_and_what_was_prepared_is_undone_before_the_clean_up() -> None:
    fake = FakeInstaller()
    with packaging(fake, spec(packages=("a",))) as found:
        done = found.install({"a": "1"})
    assert done == Installed(installer="fake", packages=(PACKAGE,))
    assert fake.calls == [("install", ("a",), {"a": "1"}), "installed", "undone", "clean"]


def test_an_upgrade_comes_first_and_its_versions_are_not_relied_upon() -> None:
    fake = FakeInstaller(AUDIT)
    with packaging(fake, spec(packages=("a",), upgrade_first=True, pkg_audit=True)) as found:
        assert found.install({"a": "1"}).audit == AUDIT
    assert fake.calls == ["upgrade", ("install", ("a",), None), "installed", "audit", "undone", "clean"]


def test_an_image_without_an_audit_tool_is_noted() -> None:
    events: list[Event] = []
    with packaging(FakeInstaller(), spec(pkg_audit=True), events) as found:
        assert found.install().audit is None
    assert [event.text for event in events if isinstance(event, Note)] == [
        "fake: the image has no audit tool"
    ]


@pytest.mark.parametrize("audit", [None, AUDIT])
def test_what_was_installed_is_read_back_from_a_record(audit: Audit | None) -> None:
    installed = Installed(installer="fake", packages=(PACKAGE,), audit=audit)
    assert Installed.from_json(json.loads(json.dumps(installed.to_json()))) == installed
    assert Installed.from_json(None) is None


def test_the_installer_is_named_or_found_in_the_root(tmp_path: Path) -> None:
    assert choose_installer(spec(installer="apt"), Root(tmp_path), print).name == "apt"
    with pytest.raises(InstallError, match="no package manager"):
        choose_installer(spec(), Root(tmp_path), print)


def test_what_an_image_record_lists_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(*known: Package) -> Installed | None:
        return list_installed(spec(), Root(tmp_path), known=known, privileged=False, bus=Bus(), environ={})

    assert listed(PACKAGE) is None
    monkeypatch.setattr(installers, "detect", lambda _root, **_options: FakeInstaller())
    assert listed(PACKAGE) == Installed(installer="fake", packages=(PACKAGE,))
    assert listed() is None
