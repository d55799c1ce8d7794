"""The imgmanifest v2 rules: what is refused, what is let pass, and what is made of a base image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildstep.errors import SpecError
from buildstep.spec import imgmanifest
from buildstep.spec.imgmanifest_fields import FIELDS, Limits

UUID = "01b2c898-945f-11e1-a523-af1afbe22822"
OTHER = "7c0a5f4e-0c1d-4b0c-8f5a-2d7ad3f0a6b1"
FILE = {"size": 10, "compression": "gzip", "sha1": "a" * 40}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def minimal(**more: Any) -> dict[str, Any]:
    known = {"v": 2, "uuid": UUID, "name": "base", "version": "1.0.0", "type": "zone-dataset"}
    return known | {"os": "smartos"} | more


def stored(**more: Any) -> dict[str, Any]:
    """A repository's own record."""
    record = minimal(owner=OTHER, disabled=False, activated=False, public=False, state="unactivated")
    return record | more


def wheres(value: object, *, limits: Limits = "emit") -> list[str]:
    return [fault.where for fault in imgmanifest.validate(value, limits=limits)]


@pytest.mark.parametrize("limits", ["emit", "accept"])
def test_a_good_manifest_has_no_faults(limits: Limits) -> None:
    full = minimal(
        owner=OTHER,
        public=True,
        published_at="2024-02-29T23:59:59.123Z",
        origin=OTHER,
        files=[FILE | {"dataset_guid": "1234"}],
        description="any characters: \u00fc \n \U0001f600",
        homepage="https://example.com/x?y",
        eula="http://example.com/",
        acl=[UUID],
        requirements={
            "networks": [{"name": "net0", "description": "admin"}],
            "brand": "bhyve",
            "bootrom": "uefi",
            "ssh_key": True,
            "min_ram": 512,
            "max_ram": 512,
            "min_platform": {"7.0": "20141030T081701Z"},
            "max_platform": {"7.0": "20241030T081701Z"},
        },
        users=[{"name": "root"}],
        generate_passwords=False,
        billing_tags=["xl"],
        traits={"ssd": True, "sets": [1, {"a": 2}], "word": "x"},
        tags={"smartdc_service": True, "nested": {"deep": [None, 1.5]}},
        inherited_directories=["/opt"],
    )
    assert imgmanifest.validate(full, limits=limits) == []
    zvol = minimal(type="zvol", nic_driver="virtio", disk_driver="virtio", cpu_type="host", image_size=10240)
    assert imgmanifest.validate(zvol, limits=limits) == []
    assert imgmanifest.validate(stored(), limits=limits) == []


# (change, where the fault is); refused by both limits.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"uuid": UUID.upper()}, "$.uuid"),
    ({"uuid": UUID + "\n"}, "$.uuid"),
    ({"uuid": UUID.replace("0", "\u0660")}, "$.uuid"),  # a digit, but not an ASCII one
    ({"name": "has_a\n"}, "$.name"),
    ({"name": None}, "$.name"),
    ({"name": 7}, "$.name"),
    ({"name": ""}, "$.name"),
    ({"name": "a:b"}, "$.name"),
    ({"version": "1 0"}, "$.version"),
    ({"version": "1.0\u0661"}, "$.version"),
    ({"type": "toString"}, "$.type"),  # a name every JavaScript object has
    ({"type": "constructor"}, "$.type"),
    ({"type": "null"}, "$.type"),
    ({"os": "null", "state": "active"}, "$.os"),
    ({"os": None}, "$.os"),
    ({"v": None}, "$.v"),
    ({"v": -1}, "$.v"),
    ({"v": True}, "$.v"),
    ({"v": "two"}, "$.v"),
    ({"owner": "me"}, "$.owner"),
    ({"homepage": "ftp://example.com"}, "$.homepage"),
    ({"homepage": "javascript:alert(1)"}, "$.homepage"),
    ({"disabled": "no"}, "$.disabled"),
    ({"disabled": 1}, "$.disabled"),
    ({"state": "valueOf"}, "$.state"),
    ({"published_at": "2024-01-01T00:00Z"}, "$.published_at"),
    ({"published_at": "2024-01-01T00:00:00.12Z"}, "$.published_at"),
    ({"published_at": "2024-01-01T00:00:00+00:00"}, "$.published_at"),
    ({"published_at": "2024-01-01T00:00:00Z\n"}, "$.published_at"),
    ({"published_at": "\u0662024-01-01T00:00:00Z"}, "$.published_at"),
    ({"origin": ""}, "$.origin"),
    ({"files": {}}, "$.files"),
    ({"files": [FILE, FILE]}, "$.files"),
    ({"files": [None]}, "$.files[0]"),
    ({"files": [FILE | {"size": 0}]}, "$.files[0].size"),
    ({"files": [FILE | {"sha1": ""}]}, "$.files[0].sha1"),
    ({"files": [FILE | {"compression": "zstd"}]}, "$.files[0].compression"),
    ({"files": [{"size": 1, "sha1": "a" * 40}]}, "$.files[0].compression"),
    ({"acl": [None]}, "$.acl[0]"),
    ({"requirements": []}, "$.requirements"),
    ({"requirements": {"network": []}}, "$.requirements.network"),
    ({"requirements": {"networks": [{"name": 1, "description": ""}]}}, "$.requirements.networks[0].name"),
    ({"requirements": {"networks": [{"name": "a"}]}}, "$.requirements.networks[0].description"),
    (
        {"requirements": {"networks": [{"name": "a", "description": "b", "c": 1}]}},
        "$.requirements.networks[0].c",
    ),
    ({"requirements": {"ssh_key": "true"}}, "$.requirements.ssh_key"),
    ({"requirements": {"min_ram": 1.5}}, "$.requirements.min_ram"),
    ({"requirements": {"min_ram": 2, "max_ram": 1}}, "$.requirements.min_ram"),
    ({"requirements": {"bootrom": "uefi"}}, "$.requirements.bootrom"),
    ({"requirements": {"bootrom": "uefi", "brand": "kvm"}}, "$.requirements.bootrom"),
    ({"requirements": {"bootrom": "ofw", "brand": "bhyve"}}, "$.requirements.bootrom"),
    ({"requirements": {"min_platform": {}}}, "$.requirements.min_platform"),
    (
        {"requirements": {"min_platform": {"undefined": "20141030T081701Z"}}},
        "$.requirements.min_platform.undefined",
    ),
    ({"requirements": {"min_platform": {"7.0": "20111030T081701Z"}}}, '$.requirements.min_platform["7.0"]'),
    ({"requirements": {"max_platform": {"7.0": "2014"}}}, '$.requirements.max_platform["7.0"]'),
    *(
        ({"requirements": {"min_platform": {"7.0": stamp}}}, '$.requirements.min_platform["7.0"]')
        for stamp in (
            *("20141301T000000Z", "20140001T000000Z", "20140132T000000Z", "20140100T000000Z"),
            *("20140101T240000Z", "20140101T006000Z", "20140101T000060Z"),
        )
    ),
    ({"users": [{"name": "a", "uid": 1}]}, "$.users[0].uid"),
    ({"users": [{}]}, "$.users[0].name"),
    ({"billing_tags": ["x" * 129]}, "$.billing_tags[0]"),
    ({"traits": {"n": 1}}, "$.traits.n"),
    ({"tags": []}, "$.tags"),
    ({"tags": {"a": "x" * 102400}}, "$.tags"),
    ({"tags": {"a": "\U0001f600" * 51197}}, "$.tags"),  # 102,394 UTF-16 units, and the 8 of {"a":""}
    ({"description": "\U0001f600" * 5121}, "$.description"),
    ({"billing_tags": ["\U0001f600" * 65]}, "$.billing_tags[0]"),
    ({"homepage": "http://x.org/" + "\U0001f600" * 506}, "$.homepage"),
    ({"type": "other", "inherited_directories": []}, "$.inherited_directories"),
    ({"nic_driver": "virtio"}, "$.nic_driver"),
    ({"image_size": 0}, "$.image_size"),
    ({"type": "zvol", "image_size": "10"}, "$.image_size"),
    ({"flavour": 1}, "$.flavour"),
    ({"odd key": 1}, '$["odd key"]'),
]


@pytest.mark.parametrize("limits", ["emit", "accept"])
@pytest.mark.parametrize(("change", "where"), BAD)
def test_a_fault_is_found_in_its_place(change: dict[str, Any], where: str, limits: Limits) -> None:
    assert where in wheres(minimal(**change), limits=limits)


# What validators let pass and we do not write.
LOOSE: list[tuple[dict[str, Any], str]] = [
    ({"v": 3}, "$.v"),
    ({"v": "2"}, "$.v"),
    ({"v": 1.5}, "$.v"),
    ({"name": "n" * 513}, "$.name"),
    ({"version": "1" * 129}, "$.version"),
    ({"description": "d" * 513}, "$.description"),
    ({"homepage": "http://example.com/" + "h" * 128}, "$.homepage"),
    ({"description": "\U0001f600" * 257}, "$.description"),
    ({"description": "\U0001f600" * 5120}, "$.description"),
    ({"public": "true"}, "$.public"),
    ({"generate_passwords": "false"}, "$.generate_passwords"),
    ({"urn": "sdc:sdc:base:1.0"}, "$.urn"),
    ({"published_at": "2024-13-01T00:00:00Z"}, "$.published_at"),
    ({"published_at": "2023-02-29T00:00:00Z"}, "$.published_at"),
    ({"published_at": "2024-01-01T24:00:00Z"}, "$.published_at"),
    ({"origin": UUID}, "$.origin"),
    ({"files": [FILE | {"stor": "local"}]}, "$.files[0].stor"),
    ({"files": [FILE | {"sha1": "abc"}]}, "$.files[0].sha1"),
    ({"files": [FILE | {"size": 21 * 1024**3}]}, "$.files[0].size"),
    ({"files": [FILE | {"digest": "sha256:" + "0" * 64}]}, "$.files[0].digest"),
    ({"requirements": {"min_ram": -1}}, "$.requirements.min_ram"),
    ({"requirements": {"min_platform": {"7.0": "2014xxxxT081701Z"}}}, '$.requirements.min_platform["7.0"]'),
    ({"requirements": {"min_platform": {"7.0": "20140230T081701Z"}}}, '$.requirements.min_platform["7.0"]'),
    ({"channels": ["dev"]}, "$.channels"),  # imgadm's minimal validator crashes on it
    ({"type": "null", "state": "creating"}, "$.type"),
]


@pytest.mark.parametrize(("change", "where"), LOOSE)
def test_we_read_more_than_we_write(change: dict[str, Any], where: str) -> None:
    assert wheres(minimal(**change), limits="accept") == []
    assert wheres(minimal(**change), limits="emit") == [where]


@pytest.mark.parametrize("limits", ["emit", "accept"])
@pytest.mark.parametrize(
    "change",
    [
        {"tags": {"a": "\U0001f600" * 51196}},
        {"tags": {"a": "\u20ac" * 102392}},  # one unit each, whatever UTF-8 makes of it
        {"description": "\U0001f600" * 256},
        {"billing_tags": ["\U0001f600" * 64]},
        {"homepage": "HTTP://x.org"},
        {"eula": "Https://x.org/"},
    ],
)
def test_what_is_just_right_passes(change: dict[str, Any], limits: Limits) -> None:
    assert wheres(minimal(**change), limits=limits) == []


def test_a_length_in_utf_16_says_so() -> None:
    (fault,) = imgmanifest.validate(minimal(tags={"a": "\U0001f600" * 51197}), limits="emit")
    assert fault.message == (
        "is 102402 characters of JSON long (some count as two, as imgadm counts in UTF-16), at most 102400 are allowed"
    )
    (fault,) = imgmanifest.validate(minimal(description="d" * 513), limits="emit")
    assert fault.message == "is 513 characters long, at most 512 are allowed"


def test_two_files_and_digests_where_they_belong() -> None:
    assert wheres(minimal(type="lxd", files=[FILE, FILE])) == []
    digest = "sha256:" + "0" * 64
    docker = minimal(type="docker", files=[FILE | {"digest": digest, "uncompressedDigest": digest}])
    assert wheres(docker) == []


def test_all_faults_are_reported_together_and_near_misses_named() -> None:
    faults = imgmanifest.validate({"nmae": "x", "uuid": 1, "version": ""}, limits="emit")
    found = {fault.where: str(fault) for fault in faults}
    assert found.keys() == {"$.nmae", "$.uuid", "$.version", "$.v", "$.name", "$.type", "$.os"}
    assert 'did you mean "name"?' in found["$.nmae"]
    assert "must be a string, not integer" in found["$.uuid"]


def test_a_repositorys_own_record_is_accepted() -> None:
    assert wheres(stored(activated="true", public="true"), limits="accept") == []
    assert wheres(minimal(type="zvol")) == []
    assert wheres(stored(channels=["dev"]), limits="accept") == []
    assert wheres({}, limits="accept") == ["$.v", "$.uuid", "$.name", "$.version", "$.type", "$.os"]


def test_a_uuid_of_a_text_is_always_the_same() -> None:
    assert imgmanifest.uuid_of("base") == "cae66217-2fd4-40bb-8cd7-10a769079c05"


@given(JSON)
def test_no_json_value_crashes(value: object) -> None:
    for limits in ("emit", "accept"):
        imgmanifest.validate(value, limits=limits)
    imgmanifest.validate_user(value)


@given(st.sampled_from([field.name for field in FIELDS]), JSON)
def test_d38_no_value_of_any_field_crashes(name: str, value: object) -> None:
    for limits in ("emit", "accept"):
        faults = imgmanifest.validate(minimal() | {name: value}, limits=limits)
        assert all(fault.where.startswith(f"$.{name}") for fault in faults if name not in ("type", "state"))
    imgmanifest.validate_user({"name": "a", "version": "1"} | {name: value})


@given(st.fixed_dictionaries({"uuid": st.just(UUID), "creator_uuid": JSON}) | JSON, JSON, JSON)
def test_upgrading_anything_gives_a_manifest_or_a_known_error(old: Any, files: object, date: object) -> None:
    if isinstance(old, dict):
        old |= {"files": files, "published_at": date, "image_size": date}
    try:
        assert isinstance(imgmanifest.upgrade(old), dict)
    except SpecError:
        assert not isinstance(old, dict) or not {"v", "creator_uuid"} & old.keys()


def test_very_deep_tags_are_refused() -> None:
    tags: dict[str, Any] = {}
    for _ in range(5000):
        tags = {"a": tags}
    assert wheres(minimal(tags=tags)) == ["$.tags"]


def test_v1_becomes_v2() -> None:
    old = {
        "uuid": UUID,
        "name": "smartos",
        "version": "1.3.18",
        "type": "zvol",
        "os": "linux",
        "creator_uuid": OTHER,
        "creator_name": "sdc",
        "vendor_uuid": OTHER,
        "cloud_name": "sdc",
        "platform_type": "smartos",
        "restricted_to_uuid": UUID,
        "disabled": True,
        "created_at": "2012-01-13T18:06Z",
        "updated_at": "x",
        "_url": "x",
        "image_size": "10240",
        "files": [{"path": "a/base.zfs.bz2", "url": "x", "sha1": "a" * 40, "size": 3}],
    }
    assert imgmanifest.upgrade(old) == {
        "v": 2,
        "uuid": UUID,
        "name": "smartos",
        "version": "1.3.18",
        "type": "zvol",
        "os": "linux",
        "owner": OTHER,
        "public": False,
        "acl": [UUID],
        "disabled": True,
        "state": "disabled",
        "published_at": "2012-01-13T18:06:00Z",
        "image_size": 10240,
        "files": [{"compression": "bzip2", "sha1": "a" * 40, "size": 3}],
    }
    assert imgmanifest.validate(imgmanifest.upgrade(old), limits="emit") == []
    shared = imgmanifest.upgrade({"creator_uuid": OTHER, "files": [{"url": "x.gz"}, {"url": "x"}]})
    assert shared["public"] is True
    assert [entry["compression"] for entry in shared["files"]] == ["gzip", "none"]


def test_what_is_no_v1_is_left_alone_or_refused() -> None:
    assert imgmanifest.upgrade({"v": 3, "creator_uuid": OTHER}) == {"v": 3, "creator_uuid": OTHER}
    with pytest.raises(SpecError, match="1 fault") as caught:
        imgmanifest.upgrade({"uuid": UUID})
    assert caught.value.faults[0].where == "$.v"


@pytest.mark.parametrize(
    ("record", "state"),
    [
        ({"activated": False, "disabled": True}, "unactivated"),
        ({"activated": True, "disabled": True}, "disabled"),
        ({"activated": "true", "disabled": "false"}, "active"),
        ({"activated": True, "state": "creating"}, "creating"),
        ({"activated": True, "state": "unactivated"}, "active"),
        ({"state": "disabled"}, "disabled"),
        ({}, "unactivated"),
    ],
)
def test_state_is_computed(record: dict[str, Any], state: str) -> None:
    assert imgmanifest.state_of(record) == state


@pytest.mark.parametrize(
    ("end", "sdc_version", "live_image", "allowed"),
    [
        ("min", "7.0", "20150101T000000Z", True),
        ("min", "7.0", "20140101T000000Z", False),
        ("min", "7.0", "20130101T000000Z", False),
        ("min", "6.5", "20990101T000000Z", False),  # sorts before the lowest key
        ("min", "7.1", "20120101T000000Z", True),
        ("max", "7.0", "20140101T000000Z", True),
        ("max", "7.0", "20150101T000000Z", False),
        ("max", "7.1", "20120101T000000Z", False),  # sorts after the highest key
        ("max", "6.5", "20990101T000000Z", True),
    ],
)
def test_platform_is_checked(end: str, sdc_version: str, live_image: str, allowed: bool) -> None:
    stamp = "20140601T000000Z"
    image = minimal(requirements={f"{end}_platform": {"7.0": stamp}})
    faults = imgmanifest.check_platform(image, sdc_version, live_image)
    assert [fault.where for fault in faults] == ([] if allowed else [f"$.requirements.{end}_platform"])


def test_of_several_platforms_the_outermost_counts() -> None:
    stamps = {"7.0": "20140601T000000Z", "7.2": "20160601T000000Z"}
    image = minimal(requirements={"min_platform": stamps, "max_platform": stamps})
    assert imgmanifest.check_platform(image, "7.1", "20150101T000000Z") == []
    lower = imgmanifest.check_platform(image, "6.5", "20150101T000000Z")
    higher = imgmanifest.check_platform(image, "7.3", "20150101T000000Z")
    assert ["7.0" in lower[0].message, "7.2" in higher[0].message] == [True, True]


def test_an_image_without_requirements_runs_anywhere() -> None:
    assert imgmanifest.check_platform(minimal(), "6.5", "20120101T000000Z") == []


BASE = minimal(
    uuid=OTHER,
    name="minimal-64",
    users=[{"name": "root"}],
    billing_tags=[],
    tags={"not": "inherited"},
    description="not inherited",
    inherited_directories=["/opt"],
    requirements={
        "networks": [{"name": "net0", "description": "public"}, {"name": "net1", "description": "admin"}],
        "brand": "joyent-minimal",
        "ssh_key": True,
        "min_platform": {"7.0": "20141030T081701Z"},
    },
)


def test_d14_requirements_of_the_base_are_not_lost() -> None:
    user = {
        "name": "a",
        "version": "1",
        "requirements": {"networks": [{"name": "net1", "description": "ours"}], "min_ram": 512},
    }
    got = imgmanifest.inherit(user, BASE)
    assert got["requirements"] == {
        "networks": [{"name": "net0", "description": "public"}, {"name": "net1", "description": "ours"}],
        "brand": "joyent-minimal",
        "ssh_key": True,
        "min_ram": 512,
        "min_platform": {"7.0": "20141030T081701Z"},
    }
    assert user["requirements"] == {
        "networks": [{"name": "net1", "description": "ours"}],
        "min_ram": 512,
    }, "the input is left alone"


def test_only_what_is_inheritable_is_inherited() -> None:
    got = imgmanifest.inherit({"name": "a", "version": "1", "users": []}, BASE)
    assert got == {
        "name": "a",
        "version": "1",
        "type": "zone-dataset",
        "os": "smartos",
        "users": [],
        "inherited_directories": ["/opt"],
        "requirements": BASE["requirements"],
    }


def test_what_does_not_fit_the_users_choice_is_not_inherited() -> None:
    assert "inherited_directories" not in imgmanifest.inherit({"type": "other"}, BASE)
    zvol = minimal(type="zvol", nic_driver="virtio", requirements={"brand": "bhyve", "bootrom": "uefi"})
    assert imgmanifest.inherit({}, zvol)["nic_driver"] == "virtio"
    got = imgmanifest.inherit({"type": "other", "requirements": {"brand": "kvm"}}, zvol)
    assert got == {"type": "other", "os": "smartos", "requirements": {"brand": "kvm"}}


def test_assembled_manifest_is_whole_and_in_order() -> None:
    got = imgmanifest.assemble(
        user={"version": "2", "name": "a", "tags": {"b": 1, "a": {"d": 1, "c": 2}}},
        origin=BASE,
        uuid=UUID,
        published_at="2024-01-01T00:00:00.000Z",
        file={"sha1": "a" * 40, "dataset_guid": "7", "compression": "gzip", "size": 5},
        incremental=True,
    )
    assert list(got) == [
        *("v", "uuid", "owner", "name", "version", "published_at", "type", "os", "origin", "files"),
        *("requirements", "users", "tags", "inherited_directories"),
    ]
    assert list(got["files"][0]) == ["size", "compression", "sha1", "dataset_guid"]
    assert got["origin"] == OTHER
    assert got["owner"] == imgmanifest.NIL_UUID
    assert json.dumps(got["tags"]) == '{"a": {"c": 2, "d": 1}, "b": 1}'
    assert imgmanifest.validate(got, limits="emit") == []


def test_the_users_uuid_owner_and_date_win() -> None:
    user = {"name": "a", "version": "1", "uuid": OTHER, "owner": UUID, "published_at": "2020-01-01T00:00:00Z"}
    got = imgmanifest.assemble(user=user, origin=minimal(), uuid=UUID, published_at="2024-01-01T00:00:00Z")
    assert {name: got[name] for name in user} == user
    assert "origin" not in got, "a full image has none, even if it was built from a base"
    assert "files" not in got


def test_d14_min_platform_is_set_only_when_given_and_never_over_the_users() -> None:
    common: dict[str, Any] = {"origin": BASE, "uuid": UUID, "published_at": "2024-01-01T00:00:00Z"}
    user: dict[str, Any] = {"name": "a", "version": "1"}
    host = {"7.0": "20240101T000000Z"}
    mine = {"7.0": "20200101T000000Z"}

    def emitted(user: dict[str, Any], given: dict[str, str] | None) -> Any:
        made = imgmanifest.assemble(user=user, min_platform=given, **common)
        assert made["requirements"]["networks"] == BASE["requirements"]["networks"]
        return made["requirements"]["min_platform"]

    assert emitted(user, None) == BASE["requirements"]["min_platform"]
    assert emitted(user, host) == host
    assert emitted(user | {"requirements": {"min_platform": mine}}, host) == mine
    bare = imgmanifest.assemble(
        user=user, origin=minimal(), uuid=UUID, published_at="2024-01-01T00:00:00Z", min_platform=None
    )
    assert "requirements" not in bare


def test_assemble_refuses_what_the_base_cannot_complete() -> None:
    with pytest.raises(SpecError) as caught:
        imgmanifest.assemble(
            user={"name": "a", "version": "1"}, origin=None, uuid=UUID, published_at="2024-01-01T00:00:00Z"
        )
    assert [fault.where for fault in caught.value.faults] == ["$.type", "$.os"]


@pytest.mark.parametrize(
    "name", ["files", "origin", "state", "disabled", "activated", "icon", "channels", "urn"]
)
def test_a_user_cannot_set_what_others_set(name: str) -> None:
    good: dict[str, Any] = {"files": [FILE], "origin": OTHER, "state": "active", "channels": [], "urn": "a"}
    user = {"name": "a", "version": "1", name: good.get(name, True)}
    faults = imgmanifest.validate_user(user)
    assert [fault.where for fault in faults] == [f"$.{name}"]
    assert "is set by" in faults[0].message


def test_a_user_part_waits_for_what_is_inherited() -> None:
    user = {"name": "a", "version": "1", "nic_driver": "virtio", "requirements": {"bootrom": "uefi"}}
    assert imgmanifest.validate_user(user) == []
    assert [fault.where for fault in imgmanifest.validate_user(user | {"type": "other"})] == ["$.nic_driver"]
    assert [fault.where for fault in imgmanifest.validate_user({})] == ["$.name", "$.version"]


def test_written_and_read_again(tmp_path: Path) -> None:
    data = minimal(description="\u00fc", files=[{"sha1": "a" * 40, "size": 1, "compression": "none"}])
    shuffled = dict(reversed(data.items()))
    assert imgmanifest.dumps(data) == imgmanifest.dumps(shuffled)
    assert imgmanifest.dumps(data).startswith('{\n  "v": 2,\n  "uuid": ')
    assert imgmanifest.dumps(data).endswith("}\n")
    path = tmp_path / "a.imgmanifest"
    path.write_text(imgmanifest.dumps(data), encoding="utf-8")
    assert imgmanifest.read(path) == data


def test_half_a_character_can_still_be_written() -> None:
    shown = imgmanifest.dumps({"description": "\ud800"})
    assert json.loads(shown.encode("utf-8")) == {"description": "\ud800"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff",
        b"[" * 100_000,
        b'{"v": 2, "v": 2}',
        b'{"v": NaN}',
        b'{"v": 1e999}',
        b"{}",
        b'{"v": 2}',
        b"9" * 10_000,
    ],
)
def test_d27_a_broken_file_is_a_known_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.imgmanifest"
    path.write_bytes(content)
    with pytest.raises(SpecError):
        imgmanifest.read(path)


def test_a_missing_file_is_a_known_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="1 fault") as caught:
        imgmanifest.read(tmp_path / "none")
    assert "No such file" in caught.value.detail


def test_the_table_is_complete() -> None:
    assert len({field.name for field in FIELDS}) == len(FIELDS) == 33
    assert (
        *("type", "os", "requirements", "users", "generate_passwords", "billing_tags", "traits"),
        *("inherited_directories", "nic_driver", "disk_driver", "cpu_type", "image_size"),
    ) == imgmanifest.INHERITABLE
