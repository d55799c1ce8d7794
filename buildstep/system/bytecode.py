"""Compiled modules by their content: a fresh checkout, whose times are new, does not compile itself again.

Python keeps a module's bytecode beside its source, and takes it where time and size of that are the same. CI
checks out anew for each job, so each job would compile whatever it imports. Here bytecode is found by the
digest of the source: times and paths do not matter, and a directory serves any number of checkouts. A file is
written in place: one that is torn, cut or old does not have the digests that it names, and is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib import machinery, util
from pathlib import Path
from types import CodeType

VARIABLE = "BUILDSTEP_BYTECODE"
"""Directories with colons between them. All are read, in this order; the last one is written."""

SLOTS = 4
"""Versions of a module that are kept, by the first bits of the digest: a directory does not grow for ever."""

_UNCHECKED = (1).to_bytes(4, "little") + bytes(8)
"""After the magic number: kept by hash, and not to be compared with the source again (PEP 552)."""

_DIGEST = hashlib.sha256().digest_size


class Store:
    """Directories of bytecode. Trouble of any kind is no error: the module is compiled."""

    def __init__(self, folders: Sequence[str]) -> None:
        """folders: those that somebody else could write are left out, as what is in them is run."""
        part = f"{sys.implementation.cache_tag}{f'-O{sys.flags.optimize}' if sys.flags.optimize else ''}"
        self._folders = [os.path.join(folder, part) for folder in folders if _ours(folder)]
        written = folders[-1] if folders else ""
        self._target = os.path.join(written, part) if written and _may_be_made(written) else ""
        self._made = False

    def read(self, name: str, source: bytes) -> bytes | None:
        """Return the .pyc of a module, None where there is none of this source."""
        digest = hashlib.sha256(source).digest()
        for folder in self._folders:
            try:
                with open(os.path.join(folder, _slot(name, digest)), "rb") as stream:
                    value = stream.read()
            except OSError:
                continue
            data = value[2 * _DIGEST :]
            if value[:_DIGEST] == digest and value[_DIGEST : 2 * _DIGEST] == hashlib.sha256(data).digest():
                return data
        return None

    def write(self, name: str, source: bytes, code: CodeType) -> bool:
        """Keep what was compiled, where it may be kept. Tells whether it was."""
        if not self._target:
            return False
        digest = hashlib.sha256(source).digest()
        data = util.MAGIC_NUMBER + _UNCHECKED + marshal.dumps(code)
        try:
            if not self._made:
                _make(self._target)
                self._made = True
            file = os.path.join(self._target, _slot(name, digest))
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(file, flags, 0o644), "wb", buffering=0) as stream:
                stream.write(b"".join((digest, hashlib.sha256(data).digest(), data)))
        except OSError:
            self._target = ""  # a full or read-only disk: not asked again for each module
            return False
        return True


def _slot(name: str, digest: bytes) -> str:
    return f"{name}.{digest[0] % SLOTS}"


def _make(folder: str) -> None:
    """Make a directory, and those above it, that only we can write, whatever the umask: what a group could
    write would not be used (see `Store`). Raises OSError."""
    above = os.path.dirname(folder.rstrip("/"))
    if above and not os.path.isdir(above):
        _make(above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o755)


def _ours(folder: str) -> bool:
    """Whether nobody but us, root and the owner of this Python's environment can have written there."""
    try:
        seen, environment = os.lstat(folder), os.stat(sys.prefix)
    except OSError:
        return False
    return not seen.st_mode & 0o022 and seen.st_uid in (0, os.geteuid(), environment.st_uid)


def _may_be_made(folder: str) -> bool:
    """Whether a directory is ours, or can be: root makes none in somebody else's home."""
    path = Path(folder)
    if not path.is_absolute():
        return False
    while not os.path.lexists(path):
        path = path.parent
    try:
        seen = os.lstat(path)
    except OSError:
        return False
    private = not seen.st_mode & 0o022 or path != Path(folder)
    return private and seen.st_uid == os.geteuid() and os.access(path, os.W_OK)


class Loader(machinery.SourceFileLoader):
    """Loads a module with the bytecode of a store."""

    def __init__(self, store: Store, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self.store = store
        self._source: bytes | None = None

    def get_data(self, path: str) -> bytes:
        """Return the source, or in place of the file beside it what the store has for it."""
        if path.endswith(".pyc"):
            found = self.store.read(self.name, self._read())
            if found is None:
                raise FileNotFoundError(path)
            return found
        return self._read() if path == self.path else super().get_data(path)

    def _read(self) -> bytes:
        if self._source is None:
            self._source = super().get_data(self.path)
        return self._source

    def source_to_code(self, data: object, path: object, **options: object) -> CodeType:  # type: ignore[override]
        """Compile, which is asked for where the store had nothing, and keep what comes out."""
        code: CodeType = super().source_to_code(data, path, **options)  # type: ignore[arg-type]
        if isinstance(data, bytes):
            self.store.write(self.name, data, code)
        return code


def install(package: str, environ: str | None) -> None:
    """Have what is imported of a package from now on use the store. package: its directory.

    environ: what VARIABLE says; without it Python does as it always does.
    """
    folders = [folder for folder in (environ or "").split(":") if folder]
    if not folders:
        return
    loader = partial(Loader, Store(folders))
    below = package + os.sep

    def hook(path: str) -> machinery.FileFinder:
        if path != package and not path.startswith(below):
            raise ImportError
        return machinery.FileFinder(path, (loader, machinery.SOURCE_SUFFIXES))  # type: ignore[arg-type]

    sys.path_hooks.insert(0, hook)
    for known in [path for path in sys.path_importer_cache if path == package or path.startswith(below)]:
        del sys.path_importer_cache[known]
    sys.dont_write_bytecode = True


def fill(package: Path, folder: str) -> int:
    """Compile all modules of a package into a directory. Returns how many are there that were not before."""
    _make(folder)
    store, count = Store([folder]), 0
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        source = path.read_bytes()
        if store.read(name, source) is None:
            with contextlib.suppress(SyntaxError, ValueError):
                Loader(store, name, os.fspath(path)).get_code(name)  # compiles, and keeps what comes out
                count += store.read(name, source) is not None
    return count
