"""Lay the sources of a recipe into a directory of this build alone, from which they go into the image."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from buildstep.build.recipe import Source
from buildstep.errors import CommandFailed, UsageError
from buildstep.events import Bus
from buildstep.system import process
from buildstep.system.remove import remove_tree
from buildstep.system.root import Root
from buildstep.tree.entry import FileList, line
from buildstep.tree.hashing import hash_entries, spread_digests
from buildstep.tree.scan import scan

_PROTOCOLS = "file:git:http:https:ssh"
"""What git may speak; its `ext` runs commands."""
_OF_GIT = re.compile("SSH_AUTH_SOCK|GIT_SSH_COMMAND|GIT_SSL_CAINFO|(https?|all|no)_proxy", re.IGNORECASE)
"""Variables of the CI host by which git reaches servers and is known to them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Laid:
    """A source as it was laid. commit: of a git source, whole; digest: SHA-256 over what is at its place."""

    source: Source
    commit: str
    digest: str

    def to_json(self) -> dict[str, str]:
        """Return it as the report has it."""
        row = self.source
        given = {
            "path": "" if row.path is None else os.fspath(row.path),
            "git": row.git,
            "commit": self.commit,
            "branch": row.branch,
            "link": row.link,
            "source": row.source,
            "dest": row.dest,
            "sha256": self.digest,
        }
        return {key: value for key, value in given.items() if value}


def lay(
    sources: tuple[Source, ...], into: Path, work: Path, bus: Bus, environ: Mapping[str, str]
) -> list[Laid]:
    """Copy the sources to their places below `into`, the later over the earlier; return what they were.

    work: an empty directory for checkouts. Links in them are copied as links, and never followed. Raises
    UsageError, CommandFailed, ToolMissing, OSError.
    """
    root = Root(into)
    commits = []
    for number, source in enumerate(sources):
        commit = ""
        if source.link:
            _link(root, source)
        elif source.path is not None:
            _copy(root, source.path, source)
        else:
            checkout, commit = _checked_out(source, work / str(number), bus, environ)
            _copy(root, checkout, source)
            remove_tree(checkout)
        commits.append(commit)
    entries = scan(into)
    hash_entries(into, entries.values())
    spread_digests(entries)
    return [
        Laid(source=source, commit=commit, digest=digest_below(entries, os.fsencode(source.dest.strip("/"))))
        for source, commit in zip(sources, commits, strict=True)
    ]


def digest_below(entries: FileList, top: bytes) -> str:
    """Return a digest of what is at a path and below: all but owners, which are the build's, and times."""
    found = hashlib.sha256()
    for path in sorted(entries):
        if not top or path == top or path.startswith(top + b"/"):
            found.update(line(replace(entries[path], uid=0, gid=0)))
    return found.hexdigest()


# -- placing ------------------------------------------------------------------------------------------------


def _link(root: Root, source: Source) -> None:
    if folder := source.dest.strip("/").rpartition("/")[0]:
        root.make_dirs(folder)
    with root.parent(source.dest) as (fd, name):
        os.symlink(source.link, name, dir_fd=fd)


def _copy(root: Root, top: Path, source: Source) -> None:
    """Copy what the source names to its place: a directory's content, or a file under its own name where the
    place ends with a slash."""
    each = source.source == "*" or source.source.endswith("/*")
    part = source.source.removesuffix("*").strip("/")
    found = Root(top).real("/" + part) if part else "/"
    if found is None:
        raise UsageError(f"there is no {source.source} in {source.path or source.git}")
    here = top / found.lstrip("/")
    if here.is_dir():
        _copy_into(root, here, source)
    elif each:
        raise UsageError(f"{part} in {source.path or source.git} is no directory")
    else:
        dest = source.dest + here.name if source.dest.endswith("/") else source.dest
        folder = dest.strip("/").rpartition("/")[0]
        if folder:
            root.make_dirs(folder)
        _cp(here, _host(root, folder) / dest.rpartition("/")[2])


def _copy_into(root: Root, folder: Path, source: Source) -> None:
    if source.dest.strip("/"):
        root.make_dirs(source.dest)
    target = _host(root, source.dest)
    if not source.plain:
        _cp(folder, target)
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_dir(follow_symlinks=False):
            _cp(Path(entry.path), target / entry.name)


def _host(root: Root, path: str) -> Path:
    """Return where a directory of the root is on this machine, no link in it."""
    real = root.real("/" + path.strip("/"))
    assert real is not None
    return root.path / real.lstrip("/")


def _cp(source: Path, target: Path) -> None:
    # A link that an earlier source has laid is replaced; without the option cp(1) writes to where it leads.
    words = ["cp", "-a", "--reflink=auto", "--remove-destination", "-T", "--"]
    process.run([*words, os.fspath(source), os.fspath(target)])


# -- git ----------------------------------------------------------------------------------------------------


def _checked_out(source: Source, folder: Path, bus: Bus, environ: Mapping[str, str]) -> tuple[Path, str]:
    """Return a checkout of a git source without its history, and its commit.

    Each build has its own: what another commit or branch left cannot be in it.
    """
    env = _git_env(source, environ)

    def git(*words: str) -> str:
        return process.query(["git", *words], env=env).stdout

    def fetch(*words: str) -> None:
        process.run(["git", *here, "fetch", "--quiet", *words], env=env, line=partial(bus.output, "git"))

    commit = source.commit or commit_of(source, environ)
    folder.mkdir()
    bus.note(f"{source.git}: {source.branch or 'commit'} is {commit}")
    here = ("-C", os.fspath(folder))
    git(*here, "init", "--quiet")
    try:
        fetch("--depth=1", "--no-tags", "--", source.git, commit)
    except CommandFailed:  # a server that gives no commit by its name
        fetch("--", source.git, "+refs/*:refs/all/*")
    git(*here, "checkout", "--quiet", "--detach", commit)
    if (head := git(*here, "rev-parse", "HEAD").strip()) != commit:
        raise UsageError(f"{source.git} gave {head} for the commit {commit}")
    moment = int(git(*here, "show", "--no-patch", "--format=%ct", commit))
    remove_tree(folder / ".git")
    for path in _all(folder):
        os.utime(path, (moment, moment), follow_symlinks=False)
    return folder, commit


def commit_of(source: Source, environ: Mapping[str, str]) -> str:
    """Return the commit that the branch or tag of a git source is now, as its server says; an empty one is
    what the server has as its HEAD. Raises UsageError, CommandFailed, ToolMissing."""
    env = _git_env(source, environ)
    return _resolve(process.query(["git", "ls-remote", "--", source.git], env=env).stdout, source)


def _git_env(source: Source, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of git. Login and password are in no argument: a helper, which git asks for the
    URL of this source alone, prints them from variables. Source: git-config(1), gitcredentials(7)."""
    env = {
        **process.base_env(environ),
        **{name: environ[name] for name in environ if _OF_GIT.fullmatch(name)},
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
    }
    if not source.password:
        return env
    return {
        **env,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"credential.{source.git}.helper",
        "GIT_CONFIG_VALUE_0": _HELPER,
        "RECIPE_LOGIN": source.login,
        "RECIPE_PASSWORD": source.password,
    }


_HELPER = """!f() { test "$1" = get || exit 0; \
printf 'username=%s\\npassword=%s\\n' "$RECIPE_LOGIN" "$RECIPE_PASSWORD"; }; f"""


def _all(folder: Path) -> Iterator[str]:
    for top, folders, files in os.walk(folder, topdown=False):
        yield from (os.path.join(top, name) for name in (*files, *folders))


def _resolve(answer: str, source: Source) -> str:
    """Return the commit of a branch or tag in what `git ls-remote` says; of a tag with a message, what it is
    of."""
    rows: dict[str, str] = {}
    for row in answer.splitlines():
        commit, _, ref = row.partition("\t")
        rows[ref] = commit
    name = source.branch or "HEAD"
    for ref in (f"refs/heads/{name}", f"refs/tags/{name}^{{}}", f"refs/tags/{name}", name):
        if ref in rows:
            return rows[ref]
    raise UsageError(f"{source.git} has no branch or tag {name!r}")
