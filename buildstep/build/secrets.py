"""What a step is shown and nobody else: hidden in every log, and looked for in what the step has left."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import resource
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildstep.build.context import BuildState
from buildstep.errors import BuildstepError, CommandFailed, SandboxError
from buildstep.events import Bus
from buildstep.rootfs import secret_files
from buildstep.rootfs.run_as import Account, account
from buildstep.rootfs.sandbox import ChrootSandbox
from buildstep.rootfs.secret_files import SecretFile
from buildstep.spec.fields import BuildSpec, Secret
from buildstep.spec.run_rules import target_of
from buildstep.system import masking
from buildstep.system.root import Root
from buildstep.tree.entry import Entry

_MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Secrets:
    """The secrets of one step. env: those that it has as variables."""

    files: tuple[SecretFile, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()

    @contextlib.contextmanager
    def shown(self, inside: ChrootSandbox, who: Account) -> Iterator[None]:
        """Show the files in an image for the length of a block."""
        with contextlib.ExitStack() as stack:
            for secret in self.files:
                stack.enter_context(secret_files.shown(inside, secret, who))
            yield

    @property
    def finder(self) -> re.Pattern[bytes]:
        """An expression that finds them in bytes."""
        return masking.finder(self.words)


def read(
    spec: BuildSpec, names: Sequence[str], root: Root, *, environ: Mapping[str, str], bus: Bus
) -> Secrets:
    """Read the secrets of a step; from now on no log of the build shows them. root: has the accounts that own
    them; environ: of the CI host. Raises SandboxError for one that is not there any more."""
    if not names:
        return Secrets()
    files: list[SecretFile] = []
    env: list[tuple[str, str]] = []
    words: list[str] = []
    with contextlib.suppress(ValueError, OSError):  # a core of ours would have them
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for name in names:
        secret = spec.secrets[name]
        content = _content(name, secret, environ)
        words += masking.words(content)
        if secret.variable is not None:
            env.append((secret.variable, content.decode("utf-8", "surrogateescape").rstrip("\r\n")))
            continue
        owner = account(root, secret.owner) if secret.owner else None
        files.append(
            SecretFile(
                name=name,
                content=content,
                target=target_of(name, secret.target),
                mode=int(secret.mode, 8),
                uid=owner.uid if owner else None,
                gid=owner.gid if owner else None,
            )
        )
    found = Secrets(files=tuple(files), env=tuple(env), words=tuple(dict.fromkeys(words)))
    if found.words:
        bus.hide(masking.pattern(found.words))
    return found


def words_of(spec: BuildSpec, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return what must not be in the image of this build: its secrets, and those of the CI host's variables.
    A secret that cannot be read is told by the step that needs it."""
    contents = []
    for name, secret in spec.secrets.items():
        with contextlib.suppress(SandboxError):
            contents.append(_content(name, secret, environ))
    from buildstep.trust.secrets.own_words import of_contents, of_environment

    return tuple(dict.fromkeys([*of_contents(contents), *of_environment(environ)]))


def _content(name: str, secret: Secret, environ: Mapping[str, str]) -> bytes:
    if secret.env is not None:
        value = environ.get(secret.env, "")
        if not value:
            raise SandboxError(f"the secret {name}: the variable {secret.env} is not set, or empty")
        return os.fsencode(value)
    try:
        return Path(secret.file or "").read_bytes()
    except OSError as error:
        raise SandboxError(f"the secret {name}: {secret.file} cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def errors_masked(bus: Bus) -> Iterator[None]:
    """Take what the bus hides out of an error as well: it is shown where no event is."""
    try:
        yield
    except BuildstepError as error:
        error.message, error.detail = bus.masked(error.message), bus.masked(error.detail)
        error.hint = bus.masked(error.hint)
        error.args = tuple(bus.masked(part) if isinstance(part, str) else part for part in error.args)
        if isinstance(error, CommandFailed):
            error.errors = bus.masked(error.errors)
            error.argv = tuple(map(bus.masked, error.argv))
        raise


# -- in what a step left -------------------------------------------------------------------------------------


def check_left(state: BuildState, entries: Iterable[Entry], secrets: Secrets, what: str) -> None:
    """Raise SandboxError that names the files in which a step left a secret. entries: what it changed."""
    if not secrets.words:
        return
    top, finder = os.fsencode(state.dataset.path), secrets.finder
    found = []
    for entry in entries:
        texts = [entry.path, entry.target, *(value for _, value in entry.xattrs)]
        in_file = entry.kind == "f" and not entry.source and holds(os.path.join(top, entry.path), finder)
        if in_file or any(map(finder.search, texts)):
            found.append("/" + os.fsdecode(entry.path))
    if found:
        more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        raise SandboxError(
            f"{what} left a secret in the image: {', '.join(found[:_MOST_NAMED])}{more}",
            hint="have it read the secret where it is shown, or remove the file in the same command",
        )


def holds(path: bytes, finder: re.Pattern[bytes]) -> bool:
    """Return whether a regular file has a secret in it."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not os.fstat(fd).st_size:
            return False
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as content:
            return finder.search(content) is not None
    finally:
        os.close(fd)


def drop_left(folder: Path, since: float, secrets: Secrets, bus: Bus) -> None:
    """Remove the files of a cache in which a step left a secret. since: when it began (s since 1970)."""
    if not secrets.words:
        return
    finder, dropped = secrets.finder, []
    for path, _, names, fd in os.fwalk(os.fsencode(folder), follow_symlinks=False):
        for name in names:
            with contextlib.suppress(OSError):
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                here = os.path.join(path, name)
                regular = stat.S_ISREG(info.st_mode)
                if info.st_ctime >= since - 1 and (finder.search(name) or (regular and holds(here, finder))):
                    os.unlink(name, dir_fd=fd)
                    dropped.append(os.fsdecode(os.path.relpath(here, os.fsencode(folder))))
    if dropped:
        shown = ", ".join(dropped[:_MOST_NAMED])
        bus.note(f"removed from a cache, as a secret was in it: {shown}", level="warning")
