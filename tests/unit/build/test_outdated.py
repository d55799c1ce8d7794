"""What would change in an image: what is asked about, and what the source of its base says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, cast

import pytest

from buildstep.build import outdated as module
from buildstep.build.outdated import Outdated, base_of, outdated
from buildstep.build.outdated_subject import Subject, subject_of
from buildstep.cli.image_outdated import _told
from buildstep.errors import BuildstepError, ImageError, InstallError, SandboxError, ToolMissing, UsageError
from buildstep.events import Bus
from buildstep.images.importing import Importer
from buildstep.images.remote import Remote
from buildstep.images.store import ImageStore
from buildstep.pool.interface import Kind
from buildstep.pool.journal import Journal, open_journal
from buildstep.report import parse
from buildstep.rootfs import installers
from buildstep.rootfs.installers.apt import Apt
from buildstep.rootfs.interface import Update
from buildstep.spec.config import Config, SourceConfig
from tests.servers.layouts import layer, make_saved
from tests.unit.build.workshop import Workshop, make_workshop
from tests.unit.images.test_store import archive

pytestmark = pytest.mark.commands("cp", "find", "rsync")


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = make_workshop(tmp_path, monkeypatch)
    archive(tmp_path / "base.tar", name="base", other="xyz")
    made.build(image=f"tar:{tmp_path}/base.tar")
    return made


@pytest.fixture
def store(workshop: Workshop) -> ImageStore:
    return workshop.open()[0]


@pytest.fixture
def journal(store: ImageStore) -> Iterator[Journal]:
    with open_journal(store.backend.state, "outdated") as made:
        yield made


def ask(word: Path | str, workshop: Workshop, store: ImageStore, journal: Journal) -> Outdated:
    found = outdated(subject_of(str(word), store), store, journal, workshop.spec())
    assert list(store.backend.idents(Kind.BUILD)) == []
    return found


def test_the_same_is_meant_by_a_record_its_directory_and_its_file(
    workshop: Workshop, store: ImageStore
) -> None:
    record = next(workshop.out.glob("*.buildrecord.json"))
    for word in (record, workshop.out, next(workshop.out.glob("*.oci.tar"))):
        found = subject_of(str(word), store)
        assert (found.name, found.version) == ("hello", "1.0.0")
        assert found.ref == f"oci:{workshop.out}/hello-1.0.0.oci.tar"
        assert found.base["label"] == "tar:base.tar"


def test_a_file_that_is_not_what_its_record_says_is_not_taken_for_it(
    workshop: Workshop, store: ImageStore
) -> None:
    path = next(workshop.out.glob("*.oci.tar"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert subject_of(str(path), store).base == {}
    found = subject_of(str(workshop.out), store)
    assert found.ref == ""
    assert "was written" in found.why


def test_what_is_no_image(workshop: Workshop, store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no build record"):
        subject_of(str(tmp_path / "empty"), store)
    with pytest.raises(ImageError, match="is not in the store"):
        subject_of("nothing@1", store)
    workshop.build(name="other")
    with pytest.raises(UsageError, match="has 2 build records"):
        subject_of(str(workshop.out), store)


def test_a_base_from_a_file(workshop: Workshop, store: ImageStore, journal: Journal) -> None:
    found = ask(workshop.out, workshop, store, journal)
    assert found.base is not None
    assert found.base.state == "same"
    assert (found.packages, found.why) == (None, "the image has no package manager that we know")
    archive(workshop.top / "base.tar", name="base", other="xyz2")
    found = ask(workshop.out, workshop, store, journal)
    assert found.base is not None
    assert found.base.state == "changed"
    assert found.base.text.startswith("tar:base.tar changed since ")
    assert found.count == 1
    assert found.unknown
    (workshop.top / "base.tar").unlink()
    found = ask(workshop.out, workshop, store, journal)
    assert found.base is not None
    assert (found.base.state, found.unknown) == ("unknown", True)
    assert "cannot be asked" in found.base.text


def test_without_its_image_file_a_record_tells_of_its_base_alone(
    workshop: Workshop, store: ImageStore, journal: Journal
) -> None:
    next(workshop.out.glob("*.oci.tar")).unlink()
    found = ask(workshop.out, workshop, store, journal)
    assert found.base is not None
    assert found.base.state == "same"
    assert found.to_json()["why"] == "its image file is not on this machine"


def test_an_image_of_the_store_is_asked_about_in_a_clone(
    workshop: Workshop, store: ImageStore, journal: Journal
) -> None:
    found = ask("base@0", workshop, store, journal)
    assert found.base is not None
    assert (found.base.ref, found.base.state) == ("tar:base.tar", "same")
    assert found.to_json()["name"] == "base"
    image = store.get("base@0")
    assert Importer(store, journal).there(image.uuid) == image, "it is as it was"


def test_counts() -> None:
    subject = Subject(name="x", version="1")
    rows = (Update(name="a", security=True), Update(name="b", security=None))
    found = Outdated(subject=subject, base=None, packages=rows)
    assert (found.count, len(found.security), found.unknown) == (2, 1, False)
    assert found.to_json()["made"] is None


UUIDS = [f"{digit * 8}-1111-4222-8333-444444444444" for digit in "abc"]


def in_repository(version: int) -> dict[str, str]:
    return {
        "uuid": UUIDS[version],
        "name": "base",
        "version": str(version),
        "published_at": f"2026-01-0{version + 1}",
    }


@pytest.mark.parametrize(
    ("there", "state", "told"),
    [
        ([0, 1], "same", "base@1 is the newest"),
        ([2, 0, 1], "changed", "base@2 is newer than base@1 since 2026-02-03"),
        ([0], "same", "base@1 is the newest"),
        ([2], "changed", "base@2 is newer than base@1 since 2026-02-03"),
        ([], "unknown", "no repository has an image base"),
        (None, "unknown", "no repository is configured that has newer ones"),
    ],
)
def test_a_base_from_a_repository(
    workshop: Workshop, store: ImageStore, journal: Journal, there: list[int] | None, state: str, told: str
) -> None:
    manifest = {**in_repository(1), "os": "linux", "type": "other"}
    (image,) = store.records()
    store.write(replace(image, uuid=UUIDS[1], key=f"image:{UUIDS[1]}", label="dir:site", manifest=manifest))
    image = store.load(UUIDS[1])  # type: ignore[assignment]
    store.config = Config(sources=() if there is None else (SourceConfig(url="dir:site"),))
    rows = [("dir:site", in_repository(version)) for version in there or ()]
    store.remote = cast(Remote, SimpleNamespace(images=lambda channel, filters: iter(rows)))
    found = base_of(
        Subject(name="base", version="1", image=replace(image, imported=1_770_076_800)), store, None
    )
    assert found is not None
    assert found.state == state
    assert told in found.text


@pytest.mark.parametrize(
    ("facts", "state", "told"),
    [
        ({"label": "scratch", "key": "scratch"}, None, ""),
        ({}, None, ""),
        ({"label": "mmdebstrap:bookworm", "key": "mmdebstrap:bookworm&x"}, "unknown", "which Release file"),
        (
            {"label": f"docker://127.0.0.1:1/a@sha256:{'0' * 64}", "key": f"docker:sha256:{'0' * 64}:linux/amd64"},
            "same", "named by its digest",
        ),
        ({"label": "docker://127.0.0.1:1/a:1", "key": "docker:sha256:0:linux/amd64"}, "unknown", "cannot be asked"),
        ({"label": "odd thing", "key": "odd"}, "unknown", "nobody knows where odd thing is from"),
    ],
)  # fmt: skip
def test_bases_that_cannot_be_asked(
    workshop: Workshop, facts: dict[str, str], state: str | None, told: str
) -> None:
    environ = {"BUILDSTEP_HTTP": "connect=1,response=1,attempts=1"}
    store = ImageStore(workshop.open()[0].backend, bus=Bus(), environ=environ)
    record = parse.load(next(workshop.out.glob("*.buildrecord.json")))
    subject = Subject(name="x", version="1", record=replace(record, inputs={**record.inputs, "image": facts}))
    found = base_of(subject, store, None)
    assert (found.state if found else None) == state
    assert told in (found.text if found else "")


def test_an_image_of_an_archive_with_several_is_found_again(
    workshop: Workshop, store: ImageStore, journal: Journal
) -> None:
    made = {name: [layer({"etc/": b"", "etc/a": name.encode()})] for name in ("one:1", "two:2")}
    make_saved(workshop.top / "saved.tar", made)
    workshop.build(image=f"docker-archive:{workshop.top}/saved.tar:two:2", name="child")
    found = ask(workshop.out / "child-1.0.0.buildrecord.json", workshop, store, journal)
    assert found.base is not None
    assert (found.base.state, found.base.text) == ("same", "docker-archive:saved.tar is the same")


@pytest.mark.parametrize("kind", [InstallError, SandboxError, ToolMissing])
def test_a_package_manager_that_cannot_be_asked(
    workshop: Workshop,
    store: ImageStore,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[BuildstepError],
) -> None:
    def refused(*_args: object, **_options: object) -> NoReturn:
        raise kind(
            "apt-get update failed", detail="Reading\nE: no such host\nE: more", hint="is the network up?"
        )

    monkeypatch.setattr(installers, "detect", lambda _root, note: Apt())
    monkeypatch.setattr(module, "prepare_packaging", refused)
    found = ask(workshop.out, workshop, store, journal)
    assert found.why == "apt-get update failed; E: no such host; is the network up?"
    assert found.unknown
    assert found.base is not None
    assert found.base.state == "same"


def test_what_was_not_given_is_not_taken_from_a_record() -> None:
    """An m.json has no empty text where a record has one."""
    said = {"env": {}, "hold": ["a"], "repositories": [{"name": "a", "signed_by": "", "trusted": False}]}
    assert _told(said) == {"hold": ["a"], "repositories": [{"name": "a", "trusted": False}]}
