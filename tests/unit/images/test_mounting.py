"""Which repository is asked for blobs before they are sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from buildstep.formats.oci.layout import Layout, open_layout
from buildstep.formats.oci.spec import ANNOTATION
from buildstep.images.publishers.mounting import candidate
from buildstep.net.registry import Reference
from tests.servers.layouts import layer, make_layout

LAYERS = [layer({"a": b"1"}), layer({"b": b"2"})]


def layout(folder: Path, base: str = "", **more: Any) -> Layout:
    make_layout(folder, LAYERS, **more)
    index = json.loads((folder / "index.json").read_bytes())
    if base:  # the annotation of the manifest, whose digest changes by it
        row = index["manifests"][0]
        blob = folder / "blobs/sha256" / row["digest"][7:]
        manifest = json.loads(blob.read_bytes()) | {"annotations": {ANNOTATION + "base.name": base}}
        data = json.dumps(manifest).encode()
        from buildstep.system.digest import sha256_bytes

        row |= {"digest": f"sha256:{sha256_bytes(data)}", "size": len(data)}
        (folder / "blobs/sha256" / row["digest"][7:]).write_bytes(data)
        (folder / "index.json").write_text(json.dumps(index))
    return open_layout(folder, "made")


def asked(made: Layout, notes: Path | None = None, target: str = "docker://reg.example/apps/web:1") -> str:
    return candidate(made, made.find(""), Reference.parse(target), notes)


@pytest.mark.parametrize(
    ("base", "want"),
    [
        ("reg.example/bases/tiny:1", "bases/tiny"),
        ("reg.example/bases/tiny@sha256:" + "0" * 64, "bases/tiny"),
        ("other.example/bases/tiny:1", ""),
        ("reg.example/apps/web:0", ""),
        ("mmdebstrap:bookworm", ""),
        ("tar:x/y Z", ""),
        ("", ""),
    ],
)
def test_the_repository_of_the_base(tmp_path: Path, base: str, want: str) -> None:
    assert asked(layout(tmp_path, base)) == want


def test_else_where_layers_were_published_from_here(tmp_path: Path) -> None:
    made = layout(tmp_path / "layout")
    entry = made.find("")
    digests = [row["digest"] for row in json.loads(made.read(entry))["layers"]]
    rows: list[Any] = [
        {"target": "docker://reg.example/bases/one", "objects": {"x": digests[0]}},
        {"target": "docker://reg.example/bases/two", "objects": {"x": digests[0]}},
        {"target": "docker://reg.example/bases/two", "objects": {"x": digests[1]}},
        {"target": "docker://reg.example/apps/web", "objects": {"x": digests[0], "y": digests[1]}},
        {"target": "docker://other.example/bases/two", "objects": {"x": digests[0]}},
        {"target": "docker://reg.example/none", "objects": {"x": "sha256:0"}},
        {"target": "s3://bucket/x", "objects": {"x": digests[0]}},
        {"objects": 1},
        [],
    ]
    notes = tmp_path / "published.jsonl"
    notes.write_text('{"half a li\n' + "".join(json.dumps(row) + "\n" for row in rows))
    assert asked(made, notes) == "bases/two"
    assert asked(made, tmp_path / "missing") == ""
    assert asked(made, notes, "docker://third.example/x:1") == ""


def test_of_an_index_none_is_asked(tmp_path: Path) -> None:
    made = layout(tmp_path, platforms=["linux/amd64", "linux/arm64"])
    assert asked(made) == ""
