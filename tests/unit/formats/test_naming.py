"""Names of images for container engines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildstep.formats.oci import naming


@pytest.mark.parametrize(
    ("name", "version", "want"),
    [
        ("hello", "1.0.0", "hello:1.0.0"),
        ("Hello World", "1.0+b2", "hello-world:1.0-b2"),
        ("web", "main-20260101T000000Z-gABC", "web:main-20260101T000000Z-gABC"),
        ("a__b..c_-_d", "1", "a__b-c-d:1"),
        ("\u00dcber", ".5", "ber:v.5"),
        ("team/web", "1", "team/web:1"),
        ("///", "", "image:v"),
    ],
)
def test_a_name_and_a_version(name: str, version: str, want: str) -> None:
    assert naming.image_name(name, version) == want


@given(st.text(max_size=300), st.text(max_size=200))
def test_any_name_becomes_one_that_engines_take(name: str, version: str) -> None:
    repository, _, tag = naming.image_name(name, version).rpartition(":")
    assert naming.REPOSITORY.fullmatch(repository)
    assert len(repository) <= naming.MAX_REPOSITORY
    assert naming.TAG.fullmatch(tag)


@pytest.mark.parametrize(
    ("ref", "want"),
    [
        ("team/web", "team/web:1.0"),
        ("team/web:Stable", "team/web:Stable"),
        ("registry.example:5000/web", "registry.example:5000/web:1.0"),
        ("localhost/web:2", "localhost/web:2"),
        ("[::1]:5000/web:2", "[::1]:5000/web:2"),
    ],
)
def test_a_name_that_was_asked_for(ref: str, want: str) -> None:
    assert naming.image_name("x", "1.0", ref) == want


@pytest.mark.parametrize("ref", ["Web", "web:", "a//b", "web:a b", "ho st:1/web", "web@sha256:00", "a" * 256])
def test_a_name_that_no_engine_takes_is_refused(ref: str) -> None:
    with pytest.raises(ValueError, match=r"no (name|tag|host)"):
        naming.image_name("x", "1", ref)
