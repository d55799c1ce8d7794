"""A place where hostile packages are built into an image: a Debian base, a repository on loopback, pools of each kind."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.conftest import debian_root, demand
from tests.integration.ordinary_user import UserLab, usable_python
from tests.integration.pools import location
from tests.integration.repository import Repository, make_place
from tests.integration.support import Done, Lab
from tests.walls import attack
from tests.walls.attack import Attack
from tests.walls.canaries import Canaries

KINDS = ("overlay", "btrfs", "dir", "user")
"""Root's builds on each kind of pool, and a user's, which is in a user namespace."""


@dataclass(kw_only=True)
class Scene:
    """One place of its kind. top: a directory that any user may enter; repository: served while a test runs."""

    kind: str
    top: Path
    lab: Lab
    repository: Repository

    @property
    def uid(self) -> int:
        return self.lab.uid if isinstance(self.lab, UserLab) else 0

    def build(self, *packages: str, more: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Done:
        """Build an image with these packages into a tar file; whatever comes of it."""
        arguments = ["--json", "-f", "tar", *(["-p", ",".join(packages)] if packages else []), *more]
        self.give()
        return self.lab.run(self.lab.argv(*arguments), env=env)

    def built(self, *packages: str, more: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Image:
        """Build, which has to work, and open the image."""
        done = self.build(*packages, more=more, env=env)
        assert done.status == 0, done.stderr[-8000:]
        return self.image(done)

    def image(self, done: Done) -> Image:
        (path,) = [row["path"] for row in done.json["files"] if row["format"] == "tar"]
        return Image(done=done, path=Path(path))

    def give(self) -> None:
        """Make what a user's build works with the user's."""
        if isinstance(self.lab, UserLab):
            for path in (self.top, self.lab.proto, *self.lab.proto.rglob("*"), self.top / "m.json"):
                os.chown(path, self.lab.uid, self.lab.gid, follow_symlinks=False)


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image as it was written."""

    done: Done
    path: Path

    def members(self, below: str = "") -> dict[str, tuple[tarfile.TarInfo, bytes]]:
        """Return what is below a path, with the content of files, by path."""
        found = {}
        argv = ["zstd", "-dc", os.fspath(self.path)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as unpacker:
            assert unpacker.stdout is not None
            with tarfile.open(fileobj=unpacker.stdout, mode="r|") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if name.startswith(below):
                        stream = archive.extractfile(member) if member.isreg() else None
                        found[name] = (member, stream.read() if stream else b"")
        return found


@contextlib.contextmanager
def scene(kind: str, base: Path) -> Iterator[Scene]:
    """Make a place of this kind for the length of a block. base: of `hostile_base`."""
    if kind == "user":
        demand("newuidmap", "useradd", "unshare")
    with contextlib.ExitStack() as stack:
        top = stack.enter_context(quick_folder())
        lab = stack.enter_context(_user_lab(top, base) if kind == "user" else _root_lab(kind, top, base))
        port = int((base.parent / "port").read_text())
        # Of the host's own services the repository is the only one that a build may reach.
        lab.environ["BUILDSTEP_NETWORK_ALLOW"] = f"127.0.0.1:{port}"
        repository = Repository(top / "repository", port)
        stack.enter_context(repository.served())
        yield Scene(kind=kind, top=top, lab=lab, repository=repository)


@contextlib.contextmanager
def quick_folder() -> Iterator[Path]:
    """A directory in memory with a short name that any user may enter: sockets' paths are short, builds many."""
    top = Path(tempfile.mkdtemp(prefix="bsw-"))
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g,mode=0755", "bsw", os.fspath(top)], check=True)
        try:
            yield top
        finally:
            _unmount(top)
    finally:
        top.rmdir()


def _unmount(top: Path) -> None:
    """Unmount it; a loop device that was on it closes its file a moment after its own mount is gone.

    The kernel also calls a mount busy whose copy is in use in a namespace that was made meanwhile, by another test
    that runs beside: nothing of ours holds it then, and it goes with that namespace.
    """
    for _ in range(100):
        done = subprocess.run(["umount", os.fspath(top)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.1)
    holders = _holders(os.fspath(top))
    subprocess.run(["umount", "--lazy", os.fspath(top)], check=True)
    assert not holders, f"something of a test holds {top}: {done.stderr}{holders}"


def _holders(mark: str) -> list[str]:
    """The mounts below a place, the loop devices on files of it, and the processes that are in it or have a file of
    it open."""
    mounts = [row.split()[4] for row in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [f"mount {point}" for point in mounts if point.startswith(f"{mark}/")]
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if mark in loop.read_text():
                found.append(f"loop device {loop.parts[3]}")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            links = [process / "cwd", process / "root", *process.glob("fd/*")]
            if used := [link.name for link in links if mark in os.readlink(link)]:
                found.append(f"process {process.name} ({(process / 'comm').read_text().strip()}): {used}")
    return found


@dataclass(kw_only=True)
class _PoolLab(Lab):
    place: str = ""

    @property
    def pool(self) -> Path:
        return Path(self.place)


@contextlib.contextmanager
def _root_lab(kind: str, top: Path, base: Path) -> Iterator[Lab]:
    with location(kind, top) as place:
        yield _PoolLab(top=top, base=base, scheme=kind, place=place)


@contextlib.contextmanager
def _user_lab(top: Path, base: Path) -> Iterator[Lab]:
    python, path = usable_python()
    name = f"bs{secrets.token_hex(4)}"
    subprocess.run(["useradd", "--no-create-home", name], check=True, capture_output=True)
    try:
        start = 3_000_000 + secrets.randbelow(1000) * 65_536
        for flag in ("--add-subuids", "--add-subgids"):
            argv = ["usermod", flag, f"{start}-{start + 65_535}", name]
            subprocess.run(argv, check=True, capture_output=True)
        entry = pwd.getpwnam(name)
        (top / "home").mkdir()
        os.chown(top / "home", entry.pw_uid, entry.pw_gid)
        yield UserLab(
            top=top, base=base, scheme="dir", python=python, environ={"PYTHONPATH": path},
            uid=entry.pw_uid, gid=entry.pw_gid,
        )  # fmt: skip
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True)


def hostile_base(folder: Path) -> Path:
    """Make the smallest Debian as a base whose packages come from a port of this machine; returns its file."""
    demand("root", "namespaces", "overlay", "mmdebstrap", "mirror", "dpkg-deb", "rsync", "zstd")
    if os.uname().machine != "x86_64":
        pytest.skip("the attacks name system calls by their numbers on x86-64")
    base = make_place(folder).base
    for path in (base, folder):
        path.chmod(0o755)
    return base


# -- one build with many attacks -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Assault:
    """What came of a build whose package ran all of a table's attacks."""

    canaries: Canaries
    done: Done
    printed: Mapping[str, str]
    image: Image

    def wrong(self, name: str) -> list[str]:
        """Return what an attack got; nothing, if the walls hold."""
        if name not in self.printed:
            return [f"it did not run; the build said: {self.done.stderr[-3000:]}"]
        known = [self.canaries.shared_secret, self.canaries.secret(name)]
        return attack.verdict(self.printed[name], known) + self.canaries.found(name)


TOKEN = "BUILDSTEP_TEST_TOKEN"
"""The variable of the CI job that holds a secret."""


def assault(place: Scene, attacks: Sequence[Attack], *, name: str = "hostile") -> Assault:
    """Build an image with a package that runs these attacks, with canaries beside it."""
    names = [one.name for one in attacks]
    canaries = Canaries(place.top / f"canary-{name}", names, uid=place.uid)
    with canaries:
        files = attack.files(attacks, canaries)
        place.repository.put(name, "1", postinst=attack.POSTINST, files=files)
        with _inherited(canaries, names[0]) as descriptors:
            place.give()
            done = place.lab.run(
                place.lab.argv("--json", "-f", "tar", "-p", name),
                env={TOKEN: canaries.shared_secret, "AWS_SECRET_ACCESS_KEY": canaries.shared_secret},
                pass_fds=descriptors,
            )
    assert done.status == 0, f"{done.stderr[-4000:]}\nand meanwhile: {canaries.all_found()}"
    image = place.image(done)
    printed = {
        path.rpartition("/")[2]: data.decode(errors="replace")
        for path, (_, data) in image.members(f"{attack.OUT}/").items()
    }
    return Assault(canaries=canaries, done=done, printed=printed, image=image)


@contextlib.contextmanager
def _inherited(canaries: Canaries, name: str) -> Iterator[list[int]]:
    """Descriptors that a CI host may leave open for the build: the canaries' directory, and a file."""
    folder = os.open(canaries.top, os.O_RDONLY | os.O_DIRECTORY)
    secret = canaries.top / "inherited-secret"
    secret.write_text(canaries.shared_secret)
    file = os.open(secret, os.O_RDONLY)
    try:
        yield [folder, file]
    finally:
        os.close(folder)
        os.close(file)


def without_walls(attacks: Sequence[Attack], folder: Path) -> Mapping[str, list[str]]:
    """Run attacks in nothing but a chroot on the host, and return what each got.

    For the test that they can win at all: a script that never wins proves nothing about a wall.
    """
    names = [one.name for one in attacks]
    canaries = Canaries(folder / "canary", names)
    script = folder / "chroot.sh"
    script.write_text(_CHROOT)
    printed = {}
    with canaries:
        for path, text in attack.files(attacks, canaries).items():
            file = folder / "attacks" / Path(path).name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)
        root = os.fspath(debian_root())
        subprocess.run(
            ["unshare", "--mount", "--propagation=slave", "sh", os.fspath(script), root, os.fspath(folder)],
            check=True,
            timeout=200,
        )
    for name in names:
        printed[name] = (folder / "out" / name).read_text(errors="replace")
    result = {}
    for name in names:
        known = [canaries.shared_secret, canaries.secret(name)]
        result[name] = attack.verdict(printed[name], known) + canaries.found(name)
    return result


_CHROOT = """\
set -e
root=$1 folder=$2
mkdir -p "$folder/out" "$folder/upper" "$folder/root"
mount --make-rprivate /
mount -t tmpfs none "$folder/upper"
mkdir "$folder/upper/u" "$folder/upper/w"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$folder/upper/u,workdir=$folder/upper/w" "$folder/root"
for name in proc dev sys; do mount --rbind "/$name" "$folder/root/$name"; done
touch "$folder/root/etc/hosts"
mount --bind "$folder/chroot.sh" "$folder/root/etc/hosts"
mkdir -p "$folder/root/attacks"
cp "$folder"/attacks/* "$folder/root/attacks/"
for file in "$folder"/attacks/*; do
  name=${file##*/}
  timeout --kill-after=1 12 chroot "$folder/root" "/attacks/$name" >"$folder/out/$name" 2>&1 </dev/null || true
done
"""
