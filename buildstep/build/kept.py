"""Every kind of file that a pool keeps: what it holds, how it is checked before use, and what verifies it.

A kind that comes to be kept gets a row here. The page of pools and `buildstep cache verify` are made from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from buildstep.cache import verify as cached
from buildstep.cache.verify import Verifier
from buildstep.images import verify as imported
from buildstep.pool.damage import Damage
from buildstep.pool.interface import Backend
from buildstep.pool.verify import journals, marks


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A kind of kept file. where: its places, below the pool; holds: what is in it; checked: how it is before
    it is used; damaged: what a build does about damage; verify: yields all that is damaged, None where
    nobody goes by what is in the file."""

    name: str
    where: tuple[str, ...]
    holds: str
    checked: str
    damaged: str
    verify: Verifier | None = None


KEPT: tuple[Kept, ...] = (
    Kept(
        name="pool",
        where=("buildstep-pool.json",),
        holds="that the directory is a pool, and of which kind",
        checked="its own digest",
        damaged="written again, if the directory holds nothing but a pool's directories; else refused",
        verify=marks,
    ),
    Kept(
        name="image",
        where=("image/UUID", "state/images/UUID.json", "state/images/UUID.list", "state/images/DIGEST.tag"),
        holds="a base image: its tree, its record, the list of its files; what a registry's tag was when it"
        " was asked for last",
        checked="names, sizes, inodes and change times of the whole tree, and every file where one of these"
        " is another or with `--no-cache`; the list by the digest in the record, the record and what is known"
        " of a tag by their own",
        damaged="the list is made again from the tree where that has all of it; else the image is imported"
        " again and takes the place of the old one, and layers on a damaged tree are removed. A tag is asked"
        " for again",
        verify=imported.images,
    ),
    Kept(
        name="layer",
        where=("layer/KEY", "state/layers/KEY.json", "state/layers/KEY.list"),
        holds="the tree that package steps made, its record, the list of its files",
        checked="as an image, with the layers that it lies on",
        damaged="removed, with a note, and made again",
        verify=cached.layers,
    ),
    Kept(
        name="blob",
        where=("state/blobs/NAME", "state/blobs/NAME.json"),
        holds="a compressed layer, made here or brought by a base image, and its record",
        checked="size, inode, times and boot, and a sample of it; the whole file by its digest where one of"
        " these is another, and with `--paranoid`; the record by its own digest",
        damaged="made again, with a note; one that a base image brought by importing that again. What only"
        " `--paranoid` finds ends that build, and the next one makes the layer again",
        verify=cached.compressed_layers,
    ),
    Kept(
        name="chunks",
        where=("state/blobs/NAME.parts", "state/blobs/NAME.shape", "state/blobs/NAME.last"),
        holds="where the chunks of a compressed layer are; that there was one of this shape; which layers the"
        " last build had",
        checked="the digest of each record; a chunk by its own checksum, in a layer that is checked, and a"
        " piece of a large file by the digest of its content. A shape or a list of layers decides what is"
        " tried, and never what is written",
        damaged="as if it were missing: more is compressed",
        verify=cached.chunks,
    ),
    Kept(
        name="index",
        where=("state/index/NAME.idx",),
        holds="what was read of a proto directory for a component, with the times in its last image and"
        " the blobs of git that files are; from which checkout that image is",
        checked="the digest of each record, and then each path by all that `lstat` says of it, by its"
        " content, or by the blob that git's index has of it now",
        damaged="what comes after the damage is read again, and the index written anew",
        verify=cached.indexes,
    ),
    Kept(
        name="answer",
        where=("state/resolved/KEY.json",),
        holds="the versions that packages resolved to",
        checked="its own digest, and its age",
        damaged="as if it were missing: the repository is asked",
        verify=cached.resolutions,
    ),
    Kept(
        name="outputs",
        where=("state/artifacts/KEY.json", "state/artifacts/last-NAME.json"),
        holds="which files a build wrote, and from what",
        checked="its own digest, and what `lstat` says of each file, also before they are brought elsewhere",
        damaged="as if it were missing: the outputs are written again",
        verify=cached.outputs,
    ),
    Kept(
        name="tree",
        where=(
            "state/artifacts/tree-NAME.bin",
            "state/artifacts/texts-NAME.bin",
            "state/artifacts/source-NAME.bin",
        ),
        holds="the finished tree of a component's last build; which of its files name no place of a host;"
        " what was read of it for a bill of materials",
        checked="the digest of each record, and that it was made from the same inputs",
        damaged="as if it were missing: the full route is taken",
        verify=cached.trees,
    ),
    Kept(
        name="digests",
        where=("state/filehash.json",),
        holds="the SHA-256 of base archives",
        checked="its own digest, and what `lstat` says of each archive; not used with `--no-cache`",
        damaged="as if it were missing: the archive is read",
        verify=cached.archive_digests,
    ),
    Kept(
        name="lists",
        where=("state/packages/apt/lists/KEY/TIME/*",),
        holds="the package lists of a base image's apt, what apt made of them, what they say of files",
        checked="size, inode, times and boot; the whole file by its digest where one of these is another; a"
        " list by its Release file when it is fetched; not used with `--no-cache`",
        damaged="removed, with a note, and fetched again",
        verify=cached.package_lists,
    ),
    Kept(
        name="package",
        where=("state/packages/apt/debs/NAME.DIGEST",),
        holds="a package file",
        checked="the whole file by the digest that the package lists have, in every build that installs it;"
        " not used with `--no-cache`",
        damaged="removed, with a note, and fetched again",
        verify=cached.package_files,
    ),
    Kept(
        name="mirror",
        where=("state/packages/apt/mirror.json",),
        holds="the mirror that the CI host's own apt is set to",
        checked="its own digest, and what `lstat` says of what apt reads; not used with `--no-cache`",
        damaged="as if it were missing: apt is asked",
        verify=cached.mirror,
    ),
    Kept(
        name="journal",
        where=("state/journal/BUILD.jsonl",),
        holds="what a build has acquired",
        checked="the digest of each line; only what lies in the pool or has the name of a half-written output"
        " is ever removed for it",
        damaged="the line is passed over; what a dead build left is found by its name as well",
        verify=journals,
    ),
    Kept(
        name="cache",
        where=("state/step-caches/NAME", "state/step-caches/NAME.json"),
        holds="a directory of the commands of one component (`cache` in `build.run`), and how much is in it",
        checked="not by builds: what is in it is the commands' own, and nothing else depends on it",
        damaged="as the command that uses it does; `buildstep cache prune` removes it",
    ),
    Kept(
        name="download",
        where=("state/downloads/*",),
        holds="image files on their way here",
        checked="the digests in the manifest, over the whole file, also of one that was resumed",
        damaged="fetched again",
    ),
    Kept(
        name="log",
        where=("state/logs/*", "state/published.jsonl", "state/kept/*", "state/locks/*", "*.used"),
        holds="logs of failed builds, what was published, empty marks and locks",
        checked="not used by builds: for people, or empty",
        damaged="nothing depends on what is in them",
    ),
)


def verify(backend: Backend, *, mend: bool) -> list[tuple[Damage, bool]]:
    """Read all that a pool keeps and return what is damaged, each with whether it was mended.

    It is safe beside builds, and without `mend` it changes nothing.
    """
    found = []
    for kind in KEPT:
        for damage in kind.verify(backend) if kind.verify is not None else ():
            found.append((damage, mend and damage.mend is not None and damage.mend()))
    return found
