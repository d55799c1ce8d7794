"""Starts buildstep.pyz: unpacks it once into a directory of the user's, by its content, and goes on there.

Native modules cannot be imported from a zip file. This runs on older Pythons too, to say which one is needed.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import sys

ARCHIVE = os.path.dirname(os.path.abspath(__file__))
KEPT_DAYS = 30


def failed(text: str) -> int:
    """Tell what is wrong; returns the exit status."""
    sys.stderr.write(f"error: {os.path.basename(ARCHIVE)}: {text}\n")
    return 5


def private(path: str) -> bool:
    """Whether nobody else can have written here."""
    seen = os.lstat(path)
    return seen.st_uid == os.geteuid() and not seen.st_mode & 0o022


def places() -> list[str]:
    """Where an archive may be unpacked, the first choice first."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    spare = os.environ.get("TMPDIR") or "/var/tmp"  # private() decides whether it is ours
    return [os.path.join(home, "buildstep"), os.path.join(spare, f"buildstep-{os.geteuid()}")]


def cache_folder() -> str:
    """The first place that is ours, or can be made; empty if there is none."""
    for place in places():
        with contextlib.suppress(OSError):
            path = os.path.join(place, "pyz")
            os.makedirs(place, 0o700, exist_ok=True)
            if private(place):
                os.makedirs(path, 0o700, exist_ok=True)
                if private(path) and os.access(path, os.W_OK):
                    return path
    return ""


def unpack(folder: str, name: str) -> None:
    """Unpack below a folder, under a lock. A copy has its name once it is whole; dead ones are removed."""
    import fcntl
    import shutil
    import time
    import zipfile

    target = os.path.join(folder, name)
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(target):
            return
        for other in os.listdir(folder):
            path = os.path.join(folder, other)
            old = time.time() - os.lstat(path).st_mtime > KEPT_DAYS * 86400
            if other.endswith(".part") or (old and other != "lock"):
                shutil.rmtree(path, ignore_errors=True)
        part = f"{target}.part"
        with zipfile.ZipFile(ARCHIVE) as archive:
            archive.extractall(part, [entry for entry in archive.namelist() if entry.startswith("lib/")])
        os.rename(part, target)


def main() -> int:
    """Go on as the program, which does not return; or tell why that cannot be."""
    name, tag, machine = (pkgutil.get_data("__main__", "needs") or b"").decode().split()
    here = (sys.implementation.cache_tag, os.uname().machine)
    if tag != "any" and here != (tag, machine):
        return failed(f"made for {tag} on {machine}; this is {here[0]} on {here[1]}")
    if sys.version_info < (3, 11):  # noqa: UP036 # it has to start to be able to say so
        return failed(f"needs Python 3.11 or later; this is {sys.version.split()[0]}")
    folder = cache_folder()
    if not folder:
        return failed(f"none of {', '.join(places())} can be used to unpack into; set XDG_CACHE_HOME")
    target = os.path.join(folder, name)
    if not os.path.isdir(target):
        try:
            unpack(folder, name)
        except OSError as error:
            return failed(f"cannot be unpacked into {folder}: {error.strerror or error}")
    with contextlib.suppress(OSError):
        os.utime(target)  # it is in use, and not to be removed as an old one
    environ = {**os.environ, "PYTHONPATH": os.path.join(target, "lib")}
    os.execve(sys.executable, [sys.executable, "-P", "-m", "buildstep", *sys.argv[1:]], environ)  # noqa: S606
    return 0


if __name__ == "__main__":
    sys.exit(main())
