"""The JSON Schema of m.json refuses what the loader refuses."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildstep.spec import schema
from buildstep.spec.json_schema import json_schema
from buildstep.spec.load import check_document
from buildstep.spec.settings import SETTINGS
from tests.unit.specdata import BAD_SETTINGS, CHOICES, GIVEN, with_build

SCHEMA = json_schema(CHOICES)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FULL: dict[str, Any] = {
    "$schema": "m.schema.json",
    "v": 2,
    "name": "hello",
    "version": "1.0.0",
    "uuid": "01b2c898-945f-11e1-a523-af1afbe22822",
    "owner": "01b2c898-945f-11e1-a523-af1afbe22822",
    "published_at": "2024-01-01T00:00:00Z",
    "type": "zone-dataset",
    "os": "smartos",
    "description": "d",
    "homepage": "https://example.com",
    "acl": ["01b2c898-945f-11e1-a523-af1afbe22822"],
    "requirements": {
        "networks": [{"name": "net0", "description": "x"}],
        "min_ram": 1,
        "ssh_key": True,
        "min_platform": {"7.0": "20141030T081701Z"},
    },
    "users": [{"name": "root"}],
    "billing_tags": ["a"],
    "traits": {"a": True},
    "tags": {"a": 1},
    "build": {name: row[1] for name, row in GIVEN.items()} | {"proto": "p", "output_dir": "o"},
}


ALONE = {name: part for name, part in SCHEMA.items() if name != "anyOf"}
PARTS = {"include": ["a.json"], "profiles": {"debug": {}}}


def structural(document: object) -> bool:
    needs = [set(way["required"]) for way in SCHEMA["anyOf"]]
    named = not isinstance(document, dict) or any(names <= document.keys() for names in needs)
    return named and schema.check(document, ALONE, "$") == []


def test_the_schema_is_a_schema_that_says_what_everything_is() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert all(part["description"] for part in SCHEMA["properties"].values())
    properties = SCHEMA["properties"]["build"]["properties"]
    assert {name for name in properties if name[-1] != "+"} == {
        name for name, setting in SETTINGS.items() if setting.in_file
    }
    assert all(part["description"] for part in properties.values())
    assert properties["formats"]["default"] == ["oci"]
    for part in properties.values():
        if "default" in part:
            assert schema.check(part["default"], part, "$") == [], "a default is a possible value"


def test_the_full_document_is_good_for_both() -> None:
    assert check_document(FULL, CHOICES) == []
    assert VALIDATOR.is_valid(FULL)
    assert {name for name in SCHEMA["properties"] if name[-1] != "+"} - FULL.keys() == {
        *PARTS,
        *("public", "eula", "generate_passwords", "inherited_directories"),
        *("nic_driver", "disk_driver", "cpu_type", "image_size"),
    }


def test_a_file_of_several_may_lack_a_name_and_adds_to_lists() -> None:
    assert not VALIDATOR.is_valid({"build": {"image": "scratch"}})
    for part in ("include", "profiles"):
        more = {"build": {"packages+": ["strace"], "oci": {"expose+": ["80"]}}, "tags": {"a": "b"}}
        assert VALIDATOR.is_valid({part: PARTS[part], **more})
    assert VALIDATOR.is_valid({**FULL, "billing_tags+": ["b"]})
    assert not VALIDATOR.is_valid({**FULL, "build": {"packages+": "strace"}})
    assert not VALIDATOR.is_valid({**FULL, "include": "a.json"})


@pytest.mark.parametrize(("name", "value", "where"), BAD_SETTINGS)
def test_the_schema_refuses_what_the_loader_refuses(name: str, value: object, where: str) -> None:
    document = with_build(**{name: value})
    assert check_document(document, CHOICES)
    assert not VALIDATOR.is_valid(document)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(
        [1.0, 2.0, 1.5, "", "a", "a\n", "-a", "root:root", "oci", "logs", "auto", "keep", "7.0"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "a", "env", "*", "1", "command", "7.0"]), inner, max_size=2
        )
    ),
    max_leaves=5,
)


def places(value: object, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [here, *(place for key, part in inner for place in places(part, (*here, key)))]


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """The full document with some places changed, taken away or added."""
    document = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(document)[1:]))
        target: Any = document
        for key in way:
            target = target[key]
        match draw(st.sampled_from(["change", "remove", "add"])):
            case "remove":
                del target[last]
            case "add" if isinstance(target, dict):
                target[draw(st.sampled_from(["nmae", "motd", "public", "image_size", "state"]))] = draw(JSON)
            case _:
                target[last] = draw(JSON)
    return document


# What a schema does not say: how fields depend on each other, and who sets what.
RELATIONS = ("$.image_size", "$.nic_driver", "$.inherited_directories", "$.requirements.min_ram")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents() | JSON)
def test_schema_and_loader_agree(document: Any) -> None:
    valid = VALIDATOR.is_valid(document)
    assert structural(document) == valid, "our reading of the schema is that of jsonschema"
    found = check_document(document, CHOICES)
    if valid:
        assert all(fault.where in RELATIONS for fault in found)
    else:
        assert found, "what the schema refuses, so does the loader"
