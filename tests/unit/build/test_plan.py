"""plan(): which route, what each step will do and why, with a store and a cache that are made up."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from buildstep.build import cache_inputs
from buildstep.build.plan import Plan, plan
from buildstep.build.steps.interface import Route
from buildstep.cache import outputs, resolutions
from buildstep.cache.layers import LayerCache, LayerRecord
from buildstep.cache.outputs import Last
from buildstep.cache.resolutions import KeptResolution
from buildstep.errors import SpecError, UsageError
from buildstep.events import Bus
from buildstep.files import layout, open_storage, refs
from buildstep.files.content import ContentStore
from buildstep.images.file_hashes import FileHashes
from buildstep.images.freshness import Freshness
from buildstep.images.record import ImageRecord
from buildstep.images.store import ImageStore
from buildstep.images.vouched import Vouched
from buildstep.spec.config import Config
from buildstep.spec.load import BuildSpec
from buildstep.tree.entry import FileList
from tests.unit.build.workshop import ENVIRON, Repository, Workshop

pytestmark = pytest.mark.commands("cp", "find", "rsync")  # trees are really walked and copied

IMAGE = ImageRecord(
    uuid="11111111-2222-3333-4444-555555555555", key="k", label="base", tree_digest="t", fingerprint="f",
    manifest={"name": "base", "version": "1"}, inputs={}, packages=(), config={}, imported=0.0, files=1, size=1,
)  # fmt: skip


@dataclass
class Backend:
    state: Path
    uri: str = "dir:/pool"
    privileged: bool = False


@dataclass
class Store:
    """Has one image, or none."""

    backend: Backend
    image: ImageRecord | None = IMAGE
    base: FileList | None = None
    hashes: FileHashes = field(default_factory=lambda: FileHashes(Path("nowhere")))
    bus: Bus = field(default_factory=Bus)
    config: Config = field(default_factory=Config)
    vouched: Vouched = field(default_factory=Vouched)
    freshness: Freshness = field(default_factory=lambda: Freshness(Path("nowhere"), {}, {}, Bus()))
    shared: None = None

    def for_platform(self, platform: str) -> None:
        assert platform == ""

    def find(self, _ref: str) -> ImageRecord | None:
        return self.image

    def known_entries(self, _record: ImageRecord) -> FileList | None:
        return self.base

    def said_of(self, _ref: str) -> str:
        return ""

    def foresee(self, ref: str) -> str:
        return f"will be made from {ref}"


@dataclass
class Cache:
    """Has the layers that it is given."""

    backend: Backend
    layers: dict[str, LayerRecord] = field(default_factory=dict)

    def find(self, key: str) -> LayerRecord | None:
        return self.layers.get(key)

    def miss(self, slot: str, _inputs: Mapping[str, Any], _last: Last | None) -> str:
        return f"nothing for {slot}"


@dataclass
class Desk:
    """A proto directory, and what is in the pool."""

    top: Path
    store: Store
    cache: Cache

    def spec(self, packages: tuple[str, ...] = (), **build: object) -> BuildSpec:
        return Workshop(self.top, Repository()).spec(packages, **build)

    def plan(self, spec: BuildSpec, *, plain: bool = False) -> Plan:
        return plan(
            spec, cast(ImageStore, self.store), cast(LayerCache, self.cache), plain=plain, environ=ENVIRON
        )

    def keep_outputs(
        self, spec: BuildSpec, resolution: KeptResolution | None = None, files: Sequence[Any] = ()
    ) -> Path:
        """Do as a build does at its end; the file that it wrote."""
        proto = self.plan(spec).proto
        digest = cache_inputs.proto_digest(spec, proto)
        written = self.top / "image.oci.tar"
        written.write_text("image")
        facts = {"build_id": "b1", "cost": 2.0, "files": files}
        inputs = cache_inputs.decisive(spec, IMAGE, digest, resolution)
        outputs.save(self.store.backend.state, inputs, spec.stem, [written], facts)
        outputs.save_last(self.store.backend.state, "hello", Last(inputs))
        return written

    def keep_resolution(
        self, spec: BuildSpec, *, asked: float, versions: Mapping[str, str]
    ) -> KeptResolution:
        resolution = KeptResolution(index="i", versions=versions, exact=True, asked=asked, order=())
        question = cache_inputs.question(spec, IMAGE, self.plan(spec).proto, ENVIRON)
        resolutions.save(self.store.backend.state, cache_inputs.answer_key(question), resolution)
        return resolution

    def keep_layer(self, spec: BuildSpec, resolution: KeptResolution) -> str:
        question = cache_inputs.question(spec, IMAGE, self.plan(spec).proto, ENVIRON)
        key, inputs = cache_inputs.package_layer(question, IMAGE, resolution)
        self.cache.layers[key] = LayerRecord(
            key=key, slot="s", below="t", inputs=inputs, tree_digest="u", seconds=4.5, created=0.0
        )
        return key


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    backend = Backend(tmp_path / "pool/state")
    backend.state.mkdir(parents=True)
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto/page").write_text("hello")
    return Desk(tmp_path, Store(backend), Cache(backend))


def reasons(found: Plan) -> dict[str, tuple[str, str]]:
    return {step.name: (step.state, step.reason) for step in found.steps}


def everything(top: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for folder, _, names in os.walk(top):
        for name in names:
            info = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (info.st_mtime_ns, info.st_size)
    return found


def test_a_first_build_takes_the_full_route_and_says_what_it_does(desk: Desk) -> None:
    found = desk.plan(desk.spec())
    assert found.route is Route.FULL
    assert [step.name for step in found.steps] == [
        "import", "clone", "sync", "packages", "clean", "motd", "snapshot", "check", "emit", "destroy",
    ]  # fmt: skip
    told = reasons(found)
    assert told["import"] == ("reuse", f"base is in the store as {IMAGE.uuid}")
    assert told["sync"] == ("run", "proto/, 1 file, read in place; no index yet: all are read")
    assert told["packages"] == ("skip", "no packages are asked for")
    assert told["motd"] == ("skip", "not asked for")
    assert "the first build of this component" in told["emit"][1]


def test_a_base_that_is_not_there_is_imported_first(desk: Desk) -> None:
    desk.store.image = None
    found = desk.plan(desk.spec(("a",)))
    assert found.proto.unread == 1, "its files are hashed while they are written"
    told = reasons(found)
    assert told["import"] == ("run", "will be made from scratch")
    assert told["packages"] == ("run", "new base")


def test_outputs_that_are_valid_need_nothing_but_the_base(desk: Desk) -> None:
    spec = desk.spec()
    desk.keep_outputs(spec)
    found = desk.plan(spec)
    assert found.route is Route.UP_TO_DATE
    assert found.outputs is not None
    assert found.outputs["build_id"] == "b1"
    told = reasons(found)
    assert {state for state, _ in told.values()} == {"reuse"}
    assert told["emit"][1].startswith("up to date with build b1 (saved 2.0 s)")
    assert [step.state for step in found.full().steps] != [step.state for step in found.steps]
    assert found.full().route is Route.FULL


def test_outputs_that_were_touched_are_written_again(desk: Desk) -> None:
    spec = desk.spec()
    written = desk.keep_outputs(spec)
    written.write_text("other")
    found = desk.plan(spec)
    assert found.route is Route.FULL
    assert "the outputs of the last build were changed or removed" in reasons(found)["emit"][1]


def test_a_changed_file_is_the_reason(desk: Desk) -> None:
    spec = desk.spec()
    desk.keep_outputs(spec)
    (desk.top / "proto/page").write_text("other")
    found = desk.plan(spec)
    assert found.route is Route.FULL
    assert "the proto directory changed" in reasons(found)["emit"][1]


def test_a_changed_option_is_the_reason_and_who_set_it(desk: Desk) -> None:
    desk.keep_outputs(desk.spec())
    spec = desk.spec(network=False)
    assert "option.network" in reasons(desk.plan(spec))["emit"][1]
    flagged = replace(spec, origin_of={**spec.origin_of, "network": "flag"})
    assert "(flag)" in reasons(desk.plan(flagged))["emit"][1]


def test_another_base_is_the_reason(desk: Desk) -> None:
    desk.keep_outputs(desk.spec())
    desk.store.image = replace(IMAGE, tree_digest="another")
    found = desk.plan(desk.spec())
    assert found.route is Route.FULL
    assert "base image.tree" in reasons(found)["emit"][1]


def test_without_cache_nothing_is_valid(desk: Desk) -> None:
    desk.keep_outputs(desk.spec())
    assert desk.plan(desk.spec(cache=False)).route is Route.FULL
    assert reasons(desk.plan(desk.spec(("a",), cache=False)))["packages"] == ("run", "--no-cache")


def test_packages_that_were_never_resolved(desk: Desk) -> None:
    told = reasons(desk.plan(desk.spec(("a",), order="packages-first")))
    assert told["packages"] == ("run", "nothing for hello/packages")


def test_a_cached_layer_is_reused_and_its_key_is_told(desk: Desk) -> None:
    spec = desk.spec(("a",), order="packages-first")
    resolution = desk.keep_resolution(spec, asked=time.time() - 120, versions={"a": "1"})
    key = desk.keep_layer(spec, resolution)
    found = desk.plan(spec)
    step = next(step for step in found.steps if step.name == "packages")
    assert (step.state, step.key) == ("reuse", key)
    assert step.reason.startswith(f"reused cached layer {key[:12]} (saved 4.5 s)")
    assert "queried 2 min ago" in step.reason
    assert found.resolution == resolution


def test_outputs_are_only_valid_while_the_store_has_what_was_recorded(desk: Desk) -> None:
    storage = open_storage(f"dir:{desk.top}/store", environ={})
    ContentStore(storage).create()
    spec = replace(desk.spec(), formats=("files",), store=storage.url)
    storage.write(layout.list_name("ab" * 32), b"a list")
    refs.write(storage, refs.Ref(name=spec.ref_name, list="ab" * 32), None)
    desk.keep_outputs(spec, files=[{"format": "files", "extra": {"list": "ab" * 32}}])
    assert desk.plan(spec).route is Route.UP_TO_DATE
    refs.remove(storage, refs.get(storage, spec.ref_name))
    found = desk.plan(spec)
    assert found.route is Route.FULL
    assert "the store does not have hello/1.0.0 of the last build any more" in reasons(found)["emit"][1]


def test_a_resolution_without_its_layer_is_a_miss(desk: Desk) -> None:
    spec = desk.spec(("a",), order="packages-first")
    desk.keep_resolution(spec, asked=time.time(), versions={"a": "1"})
    assert reasons(desk.plan(spec))["packages"] == ("run", "nothing for hello/packages")


def test_outputs_are_not_valid_while_the_resolution_is_old(desk: Desk) -> None:
    spec = desk.spec(("a",), order="packages-first")
    for asked, route in ((time.time() - 10, Route.UP_TO_DATE), (time.time() - 1e6, Route.FULL)):
        resolution = desk.keep_resolution(spec, asked=asked, versions={"a": "1"})
        desk.keep_layer(spec, resolution)
        desk.keep_outputs(spec, resolution)
        found = desk.plan(spec)
        assert found.route is route
    assert "is queried again first" in reasons(found)["packages"][1]


def test_another_version_makes_the_outputs_invalid(desk: Desk) -> None:
    spec = desk.spec(("a",), order="packages-first")
    old = desk.keep_resolution(spec, asked=time.time(), versions={"a": "1"})
    desk.keep_outputs(spec, old)
    desk.keep_resolution(spec, asked=time.time(), versions={"a": "2"})
    found = desk.plan(spec)
    assert found.route is Route.FULL
    assert "a: 1 -> 2" in reasons(found)["emit"][1]


def test_the_order_swaps_two_steps_and_proto_first_says_what_it_costs(desk: Desk) -> None:
    first = desk.plan(desk.spec(("a",), order="packages-first"))
    assert [step.name for step in first.steps][2:4] == ["packages", "sync"]
    assert first.in_place
    last = desk.plan(desk.spec(("a",)))
    assert [step.name for step in last.steps][2:4] == ["sync", "packages"]
    assert not last.in_place
    assert "packages are installed again whenever" in reasons(last)["sync"][1]


def test_proto_first_with_its_layer_needs_no_copy(desk: Desk) -> None:
    spec = desk.spec(("a",))
    resolution = desk.keep_resolution(spec, asked=time.time(), versions={"a": "1"})
    desk.keep_layer(spec, resolution)
    assert reasons(desk.plan(spec))["sync"][0] == "reuse"
    (desk.top / "proto/page").write_text("other")
    assert reasons(desk.plan(spec))["sync"][0] == "run"


@pytest.mark.parametrize(
    ("options", "in_place"),
    [({}, True), ({"exclude": ["*.o"]}, True), ({"formats": ["btrfs"]}, False), ({"formats": ["oci", "zfs"]}, False)],
)  # fmt: skip
def test_which_builds_read_the_proto_directory_in_place(
    desk: Desk, options: dict[str, Any], in_place: bool
) -> None:
    assert desk.plan(desk.spec(**options)).in_place is in_place
    assert desk.plan(desk.spec(**options), plain=True).in_place is False


def test_outputs_and_pool_inside_the_proto_directory_are_both_refused(desk: Desk) -> None:
    spec = replace(desk.spec(), output_dir=desk.top / "proto/out")
    desk.store.backend.state = desk.top / "proto/pool"
    with pytest.raises(SpecError) as caught:
        desk.plan(spec)
    assert {fault.where for fault in caught.value.faults} == {"--output-dir", "--pool"}


def test_an_unknown_format_is_refused_before_anything_is_read(desk: Desk) -> None:
    with pytest.raises(SpecError):
        desk.plan(replace(desk.spec(), formats=("ozi",), proto=desk.top / "nowhere"))


def test_planning_changes_nothing(desk: Desk) -> None:
    spec = desk.spec(("a",), order="packages-first")
    desk.keep_layer(spec, desk.keep_resolution(spec, asked=time.time(), versions={"a": "1"}))
    before = everything(desk.top)
    assert desk.plan(spec).to_json() == desk.plan(spec).to_json()
    assert everything(desk.top) == before


def test_names_that_the_pool_cannot_hold_are_told_where_they_would_be_copied(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk.top / "proto" / ("n" * 140)).touch()
    monkeypatch.setattr(os, "pathconf", lambda *_: 143)
    desk.plan(desk.spec())  # read in place
    with pytest.raises(UsageError, match="1 name that the pool's file system cannot have: over 135 bytes"):
        desk.plan(desk.spec(exclude=["[[:digit:]]"]))
