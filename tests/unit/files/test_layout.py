"""Names in a store, made and taken apart."""

from __future__ import annotations

import pytest

from buildstep.errors import UsageError
from buildstep.files import layout

DIGEST = "ab" + "0" * 62


def test_a_name_is_taken_apart_into_what_it_was_made_of() -> None:
    for form in layout.FORMS:
        assert layout.parse(layout.object_name(DIGEST, form)) == ("objects", DIGEST, form)
    assert layout.object_name(DIGEST) == "objects/ab/" + "0" * 62
    assert layout.parse(layout.pack_name(DIGEST)) == ("packs", DIGEST, ".pack")
    assert layout.parse(layout.list_name(DIGEST)) == ("lists", DIGEST, ".list")


@pytest.mark.parametrize(
    "name",
    [
        "objects/ab/" + "0" * 61, "objects/AB/" + "0" * 62, "objects/ab/" + "0" * 62 + ".list", "refs/x", "",
        "packs/ab/" + "0" * 62, "objects/ab/../" + "0" * 62, "objects/ab/" + "0" * 62 + ".zst\n", "catalogue",
    ],
)  # fmt: skip
def test_other_names_are_none(name: str) -> None:
    assert layout.parse(name) is None


@pytest.mark.parametrize("ref", ["web", "web/1.2.0", "a.b-c_d/E/0"])
def test_a_ref_is_what_its_name_says(ref: str) -> None:
    name = layout.ref_name(ref)
    assert layout.ref_of(name) == ref
    assert name.count("/") == 1, "a ref can begin as another one ends"


@pytest.mark.parametrize(
    "ref", ["", "/a", "a/", "a//b", "../a", "a/..", ".a", "a b", "a~b", "a\nb", DIGEST, "x" * 201, "ä"]
)
def test_what_is_no_ref_is_refused(ref: str) -> None:
    with pytest.raises(UsageError):
        layout.ref_name(ref)
