"""Images as directories: built, edited, read by other tools, published by counted requests, killed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildstep.formats.oci.layout import open_layout, verified
from buildstep.formats.oci.spec import OciPlatform
from buildstep.report.parse import load
from buildstep.system.digest import sha256_file
from buildstep.system.share import share
from tests.integration.conftest import demand
from tests.integration.pools import location
from tests.integration.support import EPOCH, Lab, none_left
from tests.servers.fixtures import Registry, start_registry

NAME = "lab-1.0.0"
FILES = 90
SIZE = 1 << 20
EDITED = "data/d0/f000"
"""In a layer of some 20 MiB: names and sizes decide where layers are cut."""


class Place(Lab):
    """A proto directory that is cut into layers: its files hold noise."""

    def fill(self) -> None:
        for number in range(FILES):
            path = self.proto / f"data/d{number % 9}/f{number:03d}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(SIZE))

    def edit(self) -> None:
        path = self.proto / EDITED
        path.write_bytes(os.urandom(8) + path.read_bytes()[8:])

    @property
    def folder(self) -> Path:
        (found,) = self.out.glob("*.oci")
        return found

    @property
    def counts(self) -> dict[str, int]:
        return dict(load(next(self.out.glob("*.buildrecord.json"))).counts)

    def image(self) -> Any:
        layout = open_layout(self.folder, "it")
        return layout.image(layout.find(""), OciPlatform.here())


@pytest.fixture(scope="module")
def built(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place with an image as a directory; tests edit it further."""
    top = tmp_path_factory.mktemp("place")
    place = Place(top=top, base=base, environ={"SOURCE_DATE_EPOCH": str(EPOCH)})
    place.fill()
    place.manifest(build={"formats": ["oci-dir"]})
    place.built()
    yield place
    assert place.leftovers() == []
    assert none_left(os.fspath(top)) == []


def run(*argv: str | Path, **env: str) -> str:
    done = subprocess.run(
        [os.fspath(word) for word in argv], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, **env},
    )  # fmt: skip
    assert done.returncode == 0, f"{argv}\n{done.stdout}{done.stderr}"
    return done.stdout


# -- what an edit costs -------------------------------------------------------------------------------------


def test_an_edit_costs_the_edit(built: Place) -> None:
    before = {path.name: path.stat().st_ino for path in (built.folder / "blobs/sha256").iterdir()}
    built.edit()
    result = built.built()
    now = {path.name: path.stat().st_ino for path in (built.folder / "blobs/sha256").iterdir()}
    same = before.keys() & now.keys()
    assert len(before.keys() - same) <= 4, "one layer, the directories, configuration and manifest"
    assert "layer_bytes_hashed" not in built.counts
    one_file_system = built.pool.stat().st_dev == built.out.stat().st_dev
    if one_file_system:
        assert "layer_bytes_copied" not in built.counts
    (file,) = result["files"]
    assert file["size"] == sum(path.stat().st_size for path in built.folder.rglob("*") if path.is_file())
    assert file["sha256"] == verified(built.folder)
    again = built.built()
    assert again["uuid"] == result["uuid"], "and nothing costs nothing"


def test_a_workspace_that_is_wiped_costs_no_hashing(built: Place) -> None:
    for _ in range(2):
        shutil.rmtree(built.out)
        built.built()
        assert "layer_bytes_hashed" not in built.counts
        assert "layers_made" not in built.counts
        verified(built.folder)


@pytest.mark.parametrize("form", ["oci-dir", "oci"])
def test_paranoid_hashes_all_and_nothing_else_does(built: Place, tmp_path: Path, form: str) -> None:
    other = ["--output-dir", os.fspath(tmp_path / "out"), "--format", form]
    built.edit()
    built.built(*other)
    (record,) = (tmp_path / "out").glob("*.buildrecord.json")
    before = {layer.digest for layer in load(record).layers}
    assert "layer_bytes_hashed" not in load(record).counts
    built.edit()
    built.built(*other, "--paranoid")
    told = load(record)
    sizes = {layer.digest: layer.size for layer in told.layers[:-1]}  # the last one is made in each build
    reused = sum(size for digest, size in sizes.items() if digest in before)
    assert reused >= 2 * FILES * SIZE // 3
    assert told.counts["layer_bytes_hashed"] == reused
    built.built()


def test_paranoid_finds_outputs_that_changed_unnoticed(built: Place) -> None:
    layer = max(built.image().layers, key=lambda it: it.size)
    path = built.folder / "blobs/sha256" / layer.hex
    info = path.stat()
    if info.st_nlink > 1:  # not the pool's file
        shutil.copyfile(path, path.with_name("copy"))
        path.with_name("copy").replace(path)
        shutil.rmtree(built.out)
        built.built()
        path = built.folder / "blobs/sha256" / layer.hex
        info = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(layer.size // 2)
        file.write(b"edited")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    built.built("--paranoid")
    assert verified(built.folder)


def test_an_image_that_somebody_edited_is_made_again(built: Place) -> None:
    """A layer that shares its file with the pool: what is written to it does not stay, nor reach others."""
    image = built.image()
    layer = max(image.layers, key=lambda it: it.size)
    path = built.folder / "blobs/sha256" / layer.hex
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(layer.size // 2)
        file.write(b"edited")
    done = built.build()
    assert done.status == 0, done.stderr
    assert verified(built.folder)
    assert [it.digest for it in built.image().layers] == [it.digest for it in image.layers]
    if "layers_made" in built.counts:  # it was the pool's own file
        assert "the stored layer is damaged; it is made again" in done.stderr


def test_another_format_takes_the_directory_away(built: Place) -> None:
    built.built("--format", "oci")
    assert not list(built.out.glob("*.oci"))
    built.built()
    assert not list(built.out.glob("*.oci.tar"))
    assert built.folder.is_dir()


def test_the_manifest_describes_the_index(built: Place) -> None:
    manifest = json.loads(next(built.out.glob("*.imgmanifest")).read_text())
    index = (built.folder / "index.json").read_bytes()
    (file,) = manifest["files"]
    assert file == {"size": len(index), "compression": "none", "sha1": hashlib.sha1(index).hexdigest()}


@pytest.mark.parametrize("kind", ["dir-reflink", "btrfs"])
def test_blocks_are_shared_where_the_file_system_can(tmp_path: Path, kind: str) -> None:
    with location(kind, tmp_path) as where:
        Path(where).mkdir()
        layer = Path(where, "layer")
        layer.write_bytes(os.urandom(SIZE))
        layer.chmod(0o400)
        assert share(layer, Path(where, "given"), link=True) == "clone"
        assert (layer.stat().st_nlink, layer.stat().st_mode & 0o777) == (1, 0o400)
        assert sha256_file(Path(where, "given")) == sha256_file(layer)
        assert share(layer, tmp_path / "far", link=True) == "copy", "another file system"


def test_an_image_on_another_file_system_is_a_copy(base: Path, tmp_path: Path) -> None:
    with location("dir-reflink", tmp_path) as where:
        place = Place(top=tmp_path / "place", base=base)
        place.manifest(build={"formats": ["oci-dir"]})
        place.built("--output-dir", f"{where}/out")
        (folder,) = Path(where, "out").glob("*.oci")
        assert verified(folder)
        assert load(next(Path(where, "out").glob("*.buildrecord.json"))).counts["layer_bytes_copied"] > 0


# -- who reads it -------------------------------------------------------------------------------------------


def test_other_tools_read_it(built: Place, tmp_path: Path) -> None:
    demand("skopeo", "umoci", "buildah")
    tag = f"oci:{built.folder}:1.0.0"
    told = json.loads(run("skopeo", "inspect", tag))
    assert told["Layers"] == [layer.digest for layer in built.image().layers]
    assert json.loads(run("skopeo", "inspect", f"oci:{built.folder}"))["Digest"] == told["Digest"]
    run("umoci", "unpack", "--image", f"{built.folder}:1.0.0", tmp_path / "bundle")
    assert sha256_file(tmp_path / "bundle/rootfs" / EDITED) == sha256_file(built.proto / EDITED)
    store = ["--root", f"{tmp_path}/st", "--runroot", f"{tmp_path}/r", "--storage-driver", "vfs"]
    try:
        name = run("buildah", *store, "from", "--pull-never", tag).strip()
        mounted = Path(run("buildah", *store, "mount", name).strip())
        assert (mounted / "etc/hello").read_text() == "hello\n"
    finally:
        run("buildah", *store, "rm", "--all")
        run("buildah", *store, "rmi", "--all")
    if shutil.which("podman"):
        with tempfile.TemporaryDirectory(prefix="p-") as short:  # its path is short by a rule of podman
            engine = ["podman", "--root", f"{tmp_path}/p", "--runroot", short, "--storage-driver", "vfs"]
            found = run(*engine, "pull", "--quiet", tag).strip()
            assert found == built.image().config.hex
            run(*engine, "rmi", "--all", "--force")


def test_our_own_commands_read_it(built: Place, tmp_path: Path) -> None:
    built.built("--format", "oci-dir", "--format", "oci")
    (archive,) = built.out.glob("*.oci.tar")
    (record,) = built.out.glob("*.buildrecord.json")
    pool = ["--pool", built.uri]
    assert built.command("files", "diff", os.fspath(built.folder), os.fspath(archive)).status == 0
    ref = f"oci:{built.folder}"
    done = built.command("image", "import", *pool, "--json", ref)
    assert done.status == 0, done.stderr
    assert load(record).tree_digest in done.stdout
    ran = built.command("run", *pool, os.fspath(record), "--", "cat", "/etc/hello")
    assert (ran.status, ran.stdout) == (0, "hello\n"), ran.stderr
    named = built.command("image", "outdated", *pool, "--json", os.fspath(built.folder))
    assert named.status in (0, 20), named.stderr
    page = built.command("report", os.fspath(record), "-o", os.fspath(tmp_path / "report.xml"))
    assert page.status == 0, page.stderr
    text = (tmp_path / "report.xml").read_text()
    assert "<failure" not in re.sub(r'(?s)<testsuite name="(?!artifact).*?</testsuite>', "", text)
    built.built()


# -- publishing ---------------------------------------------------------------------------------------------


class Calls:
    """What a registry was asked for, by its access log."""

    def __init__(self, registry: Registry) -> None:
        self.host = registry.host
        self._log = registry.storage.parent / "registry.log"
        self._seen = 0

    def new(self) -> list[tuple[str, str, int]]:
        rows = re.findall(r'"(\w+) (\S+) HTTP/1.1" (\d+)', self._log.read_text())
        fresh = rows[self._seen :]
        self._seen = len(rows)
        return [(method, path, int(status)) for method, path, status in fresh if path != "/v2/"]


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    for registry in start_registry(tmp_path_factory.mktemp("registry"), access=True):
        yield Calls(registry)


def sent(rows: list[tuple[str, str, int]], folder: Path) -> int:
    """Bytes of the blobs that a registry was sent."""
    digests = [
        re.search(r"digest=sha256%3A([0-9a-f]{64})", path) for method, path, _ in rows if method == "PUT"
    ]
    return sum((folder / "blobs/sha256" / found[1]).stat().st_size for found in digests if found)


def test_a_publish_moves_what_changed(base: Path, calls: Calls, tmp_path: Path) -> None:
    """The eleventh of the criteria: bytes and requests, with a base that is mounted."""
    below = Place(top=tmp_path / "base", base=base)
    below.manifest(build={"formats": ["oci-dir"]}, name="base")
    below.built()
    published = below.command("image", "publish", "--pool", below.uri, os.fspath(below.out),
                              f"docker://{calls.host}/ns/base:1")  # fmt: skip
    assert published.status == 0, published.stderr
    calls.new()
    place = Place(top=tmp_path / "app", base=base)
    place.fill()
    place.manifest(build={"formats": ["oci-dir"], "image": f"docker://{calls.host}/ns/base:1"})
    image = ["-i", f"docker://{calls.host}/ns/base:1"]
    target = f"docker://{calls.host}/ns/app"

    def publish(tag: str) -> tuple[str, list[tuple[str, str, int]]]:
        calls.new()
        argv = ["image", "publish", "--json", "--pool", place.uri, os.fspath(place.out), f"{target}:{tag}"]
        done = place.command(*argv)
        assert done.status == 0, done.stderr
        (row,) = json.loads(done.stdout)["published"]
        return row["state"], calls.new()

    place.built(*image)
    state, rows = publish("1")
    assert state == "published"
    layers = place.image().layers
    mounts = [
        path for method, path, status in rows if method == "POST" and "mount=" in path and status == 201
    ]
    assert len(mounts) == len(below.image().layers)
    assert sent(rows, place.folder) >= FILES * SIZE
    # A second time: nothing.
    state, rows = publish("1")
    assert (state, sent(rows, place.folder)) == ("already", 0)
    assert len(rows) <= 10
    # After an edit.
    place.edit()
    place.built(*image)
    assert len({it.digest for it in place.image().layers} - {it.digest for it in layers}) <= 2
    state, rows = publish("2")
    assert state == "published"
    assert sent(rows, place.folder) <= 40 << 20
    assert len(rows) <= 25, rows
    told = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"{target}:2"))
    assert told["Layers"] == [layer.digest for layer in place.image().layers]
    # An agent that has never published there, and a tag that moves.
    (place.pool / "state/published.jsonl").unlink()
    place.edit()
    place.built(*image)
    calls.new()
    done = place.command(
        "image", "publish", "--pool", place.uri, "--replace", os.fspath(place.out), f"{target}:2"
    )
    assert done.status == 0, done.stderr
    assert len(calls.new()) <= 25


def test_only_a_registry_takes_a_directory(built: Place, tmp_path: Path) -> None:
    done = built.command(
        "image", "publish", "--pool", built.uri, os.fspath(built.out), f"dir:{tmp_path}/site"
    )
    assert done.status == 17
    assert "which only a registry takes" in done.stderr
    assert not (tmp_path / "site").exists()
    built.built("--format", "oci-dir", "--format", "oci")
    done = built.command(
        "image", "publish", "--pool", built.uri, os.fspath(built.out), f"dir:{tmp_path}/site"
    )
    assert done.status == 0, done.stderr
    assert "a directory, left out" in done.stderr
    built.built()


def test_an_index_of_directories(built: Place, tmp_path: Path) -> None:
    other = tmp_path / "arm"
    built.built(
        "--output-dir",
        os.fspath(other),
        "--platform",
        "linux/arm64",
        "--format",
        "oci-dir",
        "--image",
        "scratch",
    )
    places = [os.fspath(built.folder), os.fspath(other)]
    done = built.command("image", "publish", "--pool", built.uri, *places, "--index", f"oci:{tmp_path}/all:1")
    assert done.status == 0, done.stderr
    raw = json.loads(run("skopeo", "inspect", "--raw", f"oci:{tmp_path}/all:1"))
    assert {row["platform"]["architecture"] for row in raw["manifests"]} == {"amd64", "arm64"}


# -- killed -------------------------------------------------------------------------------------------------

DYING = """\
# The command line as it is, but it dies at one moment of giving an image its name: no undo runs.
import os, sys
from buildstep.cli import main
from buildstep.emit import oci_dir
from buildstep.system import output_set

where = os.environ["DIE_AT"]
exchange, drop, settle = output_set._exchange, output_set._drop, oci_dir._settle

def dying_exchange(*args):
    if where == "before":
        os._exit(9)
    exchange(*args)
    if where == "after":
        os._exit(9)

def dying_drop(path):
    if where == "removal" and path.is_dir():
        next(path.glob("blobs/sha256/*")).unlink()
        (path / "oci-layout").unlink()
        os._exit(9)
    drop(path)

def dying_settle(*args):
    if where == "writing":
        os._exit(9)
    settle(*args)

output_set._exchange, output_set._drop, oci_dir._settle = dying_exchange, dying_drop, dying_settle
sys.exit(main())
"""


@pytest.mark.parametrize("where", ["writing", "before", "after", "removal"])
def test_a_build_that_dies_leaves_the_old_image_or_the_new(base: Path, tmp_path: Path, where: str) -> None:
    place = Place(top=tmp_path, base=base)
    place.manifest(build={"formats": ["oci-dir"]})
    epoch = {"SOURCE_DATE_EPOCH": str(EPOCH)}
    old = place.built(env=epoch)["files"][0]["sha256"]
    (place.proto / "etc/hello").write_text("other\n")
    (tmp_path / "dying.py").write_text(DYING)
    argv = [place.python, "-P", os.fspath(tmp_path / "dying.py"), *place.argv()[4:]]
    died = place.run(argv, env={**epoch, "DIE_AT": where})
    assert died.status != 0
    is_new = verified(place.folder) != old
    assert is_new == (where in ("after", "removal"))
    if is_new:
        assert list(place.out.glob(".*.oci.*.part")), "what is left of the old one"
    assert not list(place.out.glob("*.imgmanifest")) or where in ("writing", "removal")
    assert all(item["removed"] for item in place.heal())
    assert [path.name for path in place.out.glob(".*.part")] == []
    assert verified(place.folder)
    new = place.built(env=epoch)["files"][0]["sha256"]
    assert new == verified(place.folder) != old
    assert place.leftovers() == []
