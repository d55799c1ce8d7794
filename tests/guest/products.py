"""The guest's heavy parts, made once and kept: kernel with ZFS, root file system, initramfs.

Layout of the cache folder:

    kernels/<kernel>_<version>_zfs-<version>/    vmlinuz, modules with ZFS among them, busybox
    guests/<digest of the recipe>/               vmlinuz, initrd, root.ext4, about.json
    runs/run-*/                                  drives of the runs in progress
    build.lock, runs.lock                        kernel locks

A guest is complete in itself: while its folder exists, nothing is asked of any mirror.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.guest import apt
from tests.guest.cache import aside, locked, remove_tree, say, sweep_aside
from tests.guest.commands import CONTAINED, need, output
from tests.guest.errors import GuestError

HERE = Path(__file__).parent
SUITE = "bookworm"
PYTHON = "3.11"
ROOT_SIZE = "16G"  # of a sparse file: the room that tests have, not what it takes
DRIVE_MODULES = ("virtio_pci", "virtio_blk")
# Raise it when the code below makes something else of the same package lists.
RECIPE_VERSION = 1

# For building the module; only ever in a throw-away folder.
BUILD_PACKAGES = "dkms,gcc,kmod,libc6-dev,lsb-release,make,perl,python3-distutils"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a guest contains, but for the versions the mirror has."""

    packages: tuple[str, ...]
    requirements: tuple[str, ...]
    boot: str

    @property
    def digest(self) -> str:
        """The name of the guest's folder."""
        parts = [RECIPE_VERSION, SUITE, PYTHON, ROOT_SIZE, self.packages, self.requirements]
        text = json.dumps([*parts, DRIVE_MODULES, self.boot])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A guest that is ready to boot."""

    folder: Path
    kernel: str
    zfs: str

    @property
    def vmlinuz(self) -> Path:
        """The kernel image."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initramfs: busybox, the drives' modules, boot.sh."""
        return self.folder / "initrd"

    @property
    def root(self) -> Path:
        """The root file system; runs never write to it."""
        return self.folder / "root.ext4"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the mirror has for us now, and the key of the kernel folder that follows from it."""

    image: apt.Package
    zfs: apt.Package
    busybox: apt.Package

    @property
    def release(self) -> str:
        """What `uname -r` will say."""
        return self.image.name.removeprefix("linux-image-")

    @property
    def key(self) -> str:
        """Kernel and ZFS version, as a file name."""
        key = f"{self.release}_{self.image.version}_zfs-{self.zfs.version}"
        return re.sub(r"[^\w.+~-]", "-", key)


def read_list(path: Path) -> tuple[str, ...]:
    """The lines of a package list, sorted, without comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return tuple(sorted(line for line in lines if line))


def load_recipe() -> Recipe:
    """The recipe that this checkout holds."""
    return Recipe(
        packages=read_list(HERE / "root-packages.txt"),
        requirements=read_list(HERE / "requirements.txt"),
        boot=(HERE / "boot.sh").read_text(),
    )


def find_guest(cache: Path, recipe: Recipe) -> Guest | None:
    """The guest for a recipe, if it has been made."""
    folder = cache / "guests" / recipe.digest
    try:
        about = json.loads((folder / "about.json").read_text())
    except FileNotFoundError:
        return None
    guest = Guest(folder=folder, kernel=about["kernel"], zfs=about["zfs"])
    complete = all(path.exists() for path in (guest.vmlinuz, guest.initrd, guest.root))
    return guest if complete else None


def ensure_guest(cache: Path, *, mirror: str | None = None, refresh: bool = False) -> Guest:
    """The guest for this checkout, made if it is missing; `refresh` asks the mirror for news."""
    recipe = load_recipe()
    if not refresh and (guest := find_guest(cache, recipe)):
        return guest
    _check_host()
    with locked(cache / "build.lock"):
        # Another run may have made it while we waited.
        if not refresh and (guest := find_guest(cache, recipe)):
            return guest
        for name in ("kernels", "guests"):
            sweep_aside(cache / name)
        return _build(cache, recipe, mirror)


def _check_host() -> None:
    if platform.machine() != "x86_64":
        raise GuestError(f"the guest is made on x86_64, this is {platform.machine()}")
    if os.geteuid() != 0:
        raise GuestError("making the guest needs root: its root file system has other owners")
    for tool in ("mmdebstrap", "mke2fs", "depmod", "modprobe", "dpkg", "unshare", "setpriv"):
        need(tool)
    if not apt.KEYRING.exists():
        raise GuestError(f"{apt.KEYRING} is missing", hint="install debian-archive-keyring")


@contextmanager
def _timed(what: str) -> Iterator[None]:
    say(f"{what} ...")
    start = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - start:.1f} s")


def _build(cache: Path, recipe: Recipe, mirror: str | None) -> Guest:
    uri = apt.mirror_uri(mirror)
    final = cache / "guests" / recipe.digest
    with aside(final) as new:
        work = Path(tempfile.mkdtemp(prefix="work-", dir=new))
        private = apt.PrivateApt(work / "apt", uri=uri, suite=SUITE)
        with _timed("package lists"):
            private.update()
            sources = _resolve(private)
        kernel = cache / "kernels" / sources.key
        if not _kernel_complete(kernel, sources.release):
            with aside(kernel) as folder:
                _make_kernel(private, sources, uri, folder)
        with _timed("initramfs"):
            _make_initrd(kernel, sources.release, recipe, new / "initrd", work)
        shutil.copyfile(kernel / "vmlinuz", new / "vmlinuz")
        with _timed("root file system"):
            _make_root(kernel, recipe, uri, new / "root.ext4", work)
        remove_tree(work)
        about = {"kernel": sources.release, "zfs": sources.zfs.version, "key": sources.key}
        (new / "about.json").write_text(json.dumps(about, indent=2) + "\n")
    return Guest(folder=final, kernel=sources.release, zfs=sources.zfs.version)


def _kernel_complete(folder: Path, release: str) -> bool:
    parts = ("vmlinuz", "busybox", f"lib/modules/{release}/extra/zfs.ko")
    return all((folder / part).exists() for part in parts)


def _resolve(private: apt.PrivateApt) -> Sources:
    depends = private.package("linux-image-cloud-amd64").depends
    found = re.search(r"linux-image-[\w.+-]+-cloud-amd64", depends)
    if not found:
        raise GuestError(f"linux-image-cloud-amd64 names no kernel in its Depends: {depends!r}")
    return Sources(
        image=private.package(found.group()),
        zfs=private.package("zfs-dkms"),
        busybox=private.package("busybox-static"),
    )


def _mmdebstrap(*args: str | Path, uri: str, work: Path) -> None:
    settings = work / "carried.conf"
    settings.write_text(apt.carried_settings())
    output(
        [
            *CONTAINED, "mmdebstrap", "--mode=root", "--quiet", f"--aptopt={settings}",
            "--aptopt=APT::Sandbox::User \"root\"",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            *args, apt.source_line(uri, SUITE),
        ],
        env={"TMPDIR": os.fspath(work)},
    )  # fmt: skip


def _make_kernel(private: apt.PrivateApt, sources: Sources, uri: str, folder: Path) -> None:
    release = sources.release
    work = Path(tempfile.mkdtemp(prefix="work-", dir=folder))
    with _timed(f"kernel {release}"):
        image, zfs, busybox = (
            private.download(package, work / "debs")
            for package in (sources.image, sources.zfs, sources.busybox)
        )
        output(["dpkg", "-x", image, work / "image"])
        output(["dpkg", "-x", busybox, work / "busybox"])
        (work / f"image/boot/vmlinuz-{release}").rename(folder / "vmlinuz")
        (work / "image/lib").rename(folder / "lib")
        (work / "busybox/bin/busybox").rename(folder / "busybox")
    with _timed(f"ZFS {sources.zfs.version} module (some minutes, once)"):
        modules = folder / "lib/modules" / release / "extra"
        _make_zfs_module(zfs, release, uri, into=modules, work=work)
    output(["depmod", "-b", folder, release])
    remove_tree(work)


def _make_zfs_module(deb: Path, release: str, uri: str, *, into: Path, work: Path) -> None:
    """Compile in a folder that mmdebstrap makes and removes; only the .ko files come out of it."""
    source = work / "zfs-source"
    output(["dpkg", "-x", deb, source])
    (tree,) = (source / "usr/src").glob("zfs-*")
    version = tree.name.removeprefix("zfs-")
    into.mkdir(parents=True)
    module = f"/var/lib/dkms/zfs/{version}/{release}/x86_64/module"
    log = f"/var/lib/dkms/zfs/{version}/build/make.log"
    build = f"dkms build -m zfs -v {version} -k {release} || {{ tail -n 40 {log}; exit 1; }}"
    _mmdebstrap(
        "--variant=apt", f"--include={BUILD_PACKAGES},linux-headers-{release}", "--format=null",
        f"--customize-hook=copy-in {shlex.quote(os.fspath(tree))} /usr/src",
        f'--customize-hook=chroot "$1" sh -c {shlex.quote(build)}',
        f'--customize-hook=cp "$1"{module}/*.ko {shlex.quote(os.fspath(into))}',
        SUITE, "-", uri=uri, work=work,
    )  # fmt: skip


def _make_initrd(kernel: Path, release: str, recipe: Recipe, target: Path, work: Path) -> None:
    tree = work / "initrd"
    for name in ("modules", "proc", "dev", "root"):
        (tree / name).mkdir(parents=True)
    order: list[str] = []
    for wanted in DRIVE_MODULES:
        shown = output(["modprobe", "-S", release, "-d", kernel, "--show-depends", wanted])
        for line in shown.splitlines():
            kind, _, rest = line.partition(" ")
            path = Path(rest.strip())
            if kind == "insmod" and path.name not in order:
                shutil.copyfile(path, tree / "modules" / path.name)
                order.append(path.name)
    (tree / "modules/order").write_text("".join(f"{name}\n" for name in order))
    shutil.copy(kernel / "busybox", tree / "busybox")
    init = tree / "init"
    init.write_text(recipe.boot)
    init.chmod(0o755)
    names = sorted(os.fspath(path.relative_to(tree)) for path in tree.rglob("*"))
    # The archive is binary, so busybox writes it to a file itself.
    script = 'exec "$1" cpio -o -H newc >"$2"'
    output(
        ["sh", "-c", script, "cpio", kernel / "busybox", target],
        cwd=tree,
        stdin="".join(f"{name}\n" for name in names),
    )


def _make_root(kernel: Path, recipe: Recipe, uri: str, target: Path, work: Path) -> None:
    tree = work / "root"
    _mmdebstrap(
        "--variant=minbase", f"--include={','.join(recipe.packages)}", "--format=directory",
        '--customize-hook=rm -f "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/etc/apt/apt.conf.d/99mmdebstrap',
        SUITE, tree, uri=uri, work=work,
    )  # fmt: skip
    shutil.copytree(kernel / "lib/modules", tree / "lib/modules", symlinks=True)
    site = Path(f"usr/local/lib/python{PYTHON}/dist-packages")
    _install_wheels(recipe.requirements, tree / site)
    output(["chroot", tree, "python3", "-m", "compileall", "-q", f"/{site}"])
    # No journal: nobody mounts this file system twice.
    ext4 = ["-t", "ext4", "-O", "^has_journal", "-m", "0"]
    output(["mke2fs", "-q", *ext4, "-d", tree, target, ROOT_SIZE])


def _install_wheels(requirements: tuple[str, ...], site: Path) -> None:
    """Put wheels for the guest's Python into a folder, whatever Python we run on ourselves."""
    output(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-compile",
            "--disable-pip-version-check", "--root-user-action=ignore", "--only-binary=:all:",
            "--implementation", "cp", "--python-version", PYTHON, "--abi", f"cp{PYTHON.replace('.', '')}",
            "--abi", "abi3", "--abi", "none", "--platform", "manylinux2014_x86_64",
            "--platform", "manylinux_2_28_x86_64", "--platform", "linux_x86_64", "--target", site, *requirements,
        ]
    )  # fmt: skip
