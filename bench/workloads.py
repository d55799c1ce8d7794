"""The workloads: the table of what is measured, and how each input is made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bench import changes
from bench.model import Case, Input, Workload
from bench.trees import CHUNK, Item, Tree, many_files

SUITE = "bookworm"
SAMPLE_PACKAGES = ("nginx-light",)
_FIFTY = (
    "bash-completion bzip2 ca-certificates cpio cron curl diffstat ed ethtool file gawk gettext-base "
    "htop iproute2 iputils-ping jq kmod less logrotate lsof m4 make media-types mtr-tiny nano ncdu "
    "net-tools netcat-openbsd nginx-light openssh-client openssl patch pciutils pigz procps psmisc "
    "python3-minimal rsync screen socat sqlite3 strace sudo tcpdump tmux traceroute unzip vim-tiny "
    "wget xz-utils"
)
FIFTY = tuple(_FIFTY.split())
EXTRAS = ("tree", "pv", "time", "zip", "bc", "dos2unix", "whois", "dc", "lzip", "ncompress")

_WHOLE_LAYER = "a changed COPY is copied whole, whatever changed in it: as with 1 file changed"
_ALWAYS_WRITES = "writes its archive anew each time: as with nothing changed"
_WARM_ALONE = "compares times, so it copies all: as when cold"
_KNOWS_NO_GIT = "does not ask git: as a fresh checkout"
_BY_NAME = f"mmdebstrap:{SUITE}"
_SAME_AS_BUILDAH = "the same code as buildah; its cold case stands for it"


def _tree(folder: Path, name: str, items: list[Item]) -> Tree:
    tree = Tree(folder / name, items)
    tree.ensure()
    return tree


def _files(folder: Path, quick: bool) -> Input:
    count = 10_000 if quick else 100_000
    tree = _tree(folder, f"files-{count}", many_files(count))
    return Input(name="files", tree=tree, facts=tree.facts())


def _big(folder: Path, quick: bool) -> Input:
    unit = CHUNK * (16 if quick else 1024)
    items = [Item(f"large/part{index}.bin", unit) for index in range(4)]
    items += many_files(1000 if quick else 10_000, mean=100_000, seed=5)
    items.append(Item("sparse/disk.img", 8 * unit, data_at=5 * unit, data_size=CHUNK))
    tree = _tree(folder, f"big-{unit // CHUNK}", items)
    return Input(name="big", tree=tree, facts=tree.facts())


def _page(folder: Path, name: str) -> Tree:
    items = [
        Item("etc/nginx/sites-available/default", 300),
        Item("var/www/html/index.html", 150),
        Item("var/www/html/style.css", 2000),
    ]
    return _tree(folder, name, items)


def _tiny(folder: Path, quick: bool) -> Input:
    del quick
    tree = _page(folder, "tiny")
    return Input(name="tiny", tree=tree, facts=tree.facts())


def base_archive(folder: Path) -> Path:
    """A minimal Debian root as a tar archive, made once: the base image that every engine starts from."""
    path = folder / f"base-{SUITE}.tar"
    if not path.exists():
        part = path.with_suffix(".part")
        mirror = os.environ.get("BUILDSTEP_APT_MIRROR", "")
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar"]
        argv += ['--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"']
        subprocess.run(
            [*argv, SUITE, os.fspath(part), *([mirror] if mirror else [])],
            check=True,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1767225600"},
        )
        part.rename(path)
    return path


def _web(folder: Path, quick: bool) -> Input:
    del quick
    tree = _page(folder, "web")
    return Input(
        name="web", tree=tree, base=base_archive(folder), packages=SAMPLE_PACKAGES, facts=tree.facts()
    )


def _packages(folder: Path, quick: bool) -> Input:
    tree = _page(folder, "packages")
    names = FIFTY[:10] if quick else FIFTY
    return Input(
        name="packages",
        tree=tree,
        base=base_archive(folder),
        packages=names,
        extras=EXTRAS,
        facts={**tree.facts(), "packages": len(names)},
    )


WORKLOADS = (
    Workload(
        name="files",
        title="100,000 files, 610 MB",
        engines=("ours", "buildah", "podman", "script"),
        prepare=_files,
        space=8 << 30,
        cases=(
            Case(name="cold", title="cold", bar=4.0, cold=True),
            Case(name="unchanged", title="nothing changed", bar=0.9, skip={"podman": _SAME_AS_BUILDAH}),
            Case(
                name="fresh",
                title="nothing changed, output folder empty",
                bar=0.9,
                fresh=True,
                skip=dict.fromkeys(("buildah", "podman", "script"), _ALWAYS_WRITES),
            ),
            Case(
                name="checkout",
                title="fresh checkout, same content",
                bar=1.6,
                checkout="copy",
                skip={"podman": _SAME_AS_BUILDAH, "script": _WARM_ALONE},
            ),
            Case(
                name="checkout-git",
                title="the same, a clean work tree of git",
                bar=1.1,
                checkout="git",
                skip=dict.fromkeys(("buildah", "podman", "script"), _KNOWS_NO_GIT),
            ),
            Case(
                name="checkout-one-file",
                title="fresh checkout, 1 file changed",
                bar=2.4,
                checkout="copy",
                change=changes.one_file,
                skip={"buildah": _WHOLE_LAYER, "podman": _SAME_AS_BUILDAH, "script": _WARM_ALONE},
            ),
            Case(
                name="one-file",
                title="1 file changed",
                bar=1.5,
                change=changes.one_file,
                skip={"podman": _SAME_AS_BUILDAH},
            ),
            Case(
                name="one-file-oci-dir",
                title="1 file changed, oci-dir",
                bar=0.9,
                change=changes.one_file,
                formats=("oci-dir",),
            ),
            Case(
                name="directory",
                title="one directory renamed",
                bar=2.0,
                change=changes.one_directory,
                skip={"buildah": _WHOLE_LAYER, "podman": _SAME_AS_BUILDAH},
            ),
            Case(
                name="thousand",
                title="1000 files changed",
                bar=3.0,
                change=changes.thousand_files,
                skip={"buildah": _WHOLE_LAYER, "podman": _SAME_AS_BUILDAH},
            ),
            Case(
                name="cold-disk",
                title="cold, page cache dropped",
                cold=True,
                once=True,
                dropped=True,
                skip={"buildah": "cold says enough", "podman": _SAME_AS_BUILDAH},
            ),
        ),
    ),
    Workload(
        name="tiny",
        title="three small files on an empty base",
        full_size=True,
        engines=("ours", "buildah", "podman", "script"),
        prepare=_tiny,
        cases=(
            Case(name="cold", title="cold", cold=True),
            Case(name="unchanged", title="all warm, whole process", bar=0.4),
            Case(name="program", title="the same, bin/build of a fresh checkout", bar=0.5, program=True),
            Case(name="one-file", title="1 file changed", bar=0.4, change=changes.one_file),
        ),
    ),
    Workload(
        name="packages",
        title="fifty packages on Debian",
        engines=("ours", "buildah"),
        slow=("buildah",),
        prepare=_packages,
        space=6 << 30,
        cases=(
            Case(name="cold", title="base in the store, packages installed", cold=True),
            Case(name="one-more", title="one package added", bar=3.0, packages="one more"),
            Case(name="one-less", title="one package removed", bar=7.0, packages="one less"),
            Case(name="bumped", title="one package with another version", bar=7.0, packages="bumped"),
            Case(name="shared", title="empty pool, warm shared store", bar=6.0, cold=True, shared=_BY_NAME),
        ),
    ),
    Workload(
        name="web",
        title="the sample: Debian, a web server and its page",
        full_size=True,
        engines=("ours", "buildah", "mkosi"),
        prepare=_web,
        space=4 << 30,
        cases=(
            Case(name="cold", title="base in the store, packages installed", cold=True),
            Case(name="unchanged", title="nothing changed", bar=0.9, skip={"mkosi": "as proto changed"}),
            Case(name="proto", title="packages cached, proto changed", bar=0.9, change=changes.one_file),
            Case(name="shared", title="empty pool, warm shared store", bar=4.0, cold=True, shared=_BY_NAME),
        ),
    ),
    Workload(
        name="big",
        title="5 GB in large files, and a sparse one",
        engines=("ours", "script", "buildah"),
        prepare=_big,
        space=40 << 30,
        cases=(
            Case(name="cold", title="cold, holes kept", bar=16.0, cold=True, long=("buildah",)),
            Case(name="unchanged", title="nothing changed", skip={"buildah": "cold says enough"}),
            Case(
                name="one-mib",
                title="1 MiB changed",
                bar=4.0,
                change=changes.one_mebibyte,
                skip={"buildah": _WHOLE_LAYER},
            ),
        ),
    ),
)
