"""Agents that make a base of the same suite have the same base: digest, layer, and archives made from it."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.integration.conftest import Require
from tests.integration.yard import EPOCH, Outcome, Yard

Private = Callable[[Callable[[], Any]], Any]

BASE = "mmdebstrap:bookworm?variant=essential"


def agent(top: Path, name: str) -> Yard:
    return Yard(
        pool=f"overlay:{top / name}", out=top / f"{name}-out", proto=top / "proto", base=top,
        build={"image": BASE, "packages": []}, formats=("oci", "tar"),
    )  # fmt: skip


def base_layer(place: Yard) -> str:
    """The digest of the lowest layer of the last image."""
    with tarfile.open(place.out / "hello-1.0.0.oci.tar") as archive:

        def document(name: str) -> Any:
            found = archive.extractfile(name)
            assert found is not None
            return json.load(found)

        digest = document("index.json")["manifests"][0]["digest"].partition(":")[2]
        return str(document(f"blobs/sha256/{digest}")["layers"][0]["digest"])


def image_of(place: Yard) -> Mapping[str, Any]:
    (path,) = Path(place.pool.removeprefix("overlay:"), "state/images").glob("*.json")
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def test_two_agents_make_the_same_base(tmp_path: Path, require: Require, private: Private) -> None:
    """On different days, by their clocks: one of them takes it from SOURCE_DATE_EPOCH."""
    require("root", "namespaces", "overlay", "mmdebstrap", "mirror", "rsync")
    (tmp_path / "proto").mkdir()
    one, two = agent(tmp_path, "one"), agent(tmp_path, "two")

    def job() -> None:
        last: list[Outcome] = []
        for place, epoch in ((one, None), (two, int(time.time()) + 3 * 86400), (two, None)):
            last.append(place.run(epoch=epoch))
            assert not last[-1].error
        records = [image_of(place) for place in (one, two)]
        for name in ("uuid", "tree_digest", "list_digest"):
            assert records[0][name] == records[1][name], name
        assert records[0]["made_of"]["newest"] < time.time() - 60
        assert base_layer(one) == base_layer(two), "without SOURCE_DATE_EPOCH"
        early = [place.run(epoch=EPOCH) for place in (one, two)]
        assert early[0].files == early[1].files, "every format, byte for byte"
        # The tree that lies in the pool says the same of its times as the archive that is made of it.
        tree = Path(one.pool.removeprefix("overlay:"), "image", records[0]["uuid"], "tree")
        assert max(path.lstat().st_mtime for path in tree.rglob("*")) == records[0]["made_of"]["newest"]

    private(job)
