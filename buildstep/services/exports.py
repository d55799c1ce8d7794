"""Recipes: what `git.export.N`, `git.build.N` and `web.export.N` of a template say, checked as a whole.

Nothing is fetched here. What is wrong with any row is told together with all else, before anything of the
service is touched: places that are not absolute, sources that are pinned twice, digests that are none, two
rows that want one place. Meaning of the sub-keys: docs/reference/services.md.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from buildstep.build.recipe import SOURCE, leaves
from buildstep.errors import Fault
from buildstep.services.hrd import Value
from buildstep.services.platforms import shares
from buildstep.services.template_keys import Kind, wrong
from buildstep.spec import schema

GIT, BUILD, WEB = "git.export", "git.build", "web.export"
_KEY = re.compile(rf"({re.escape(GIT)}|{re.escape(BUILD)}|{re.escape(WEB)})\.([1-9][0-9]*)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HTTP = re.compile(r"https?://[^\s@?#/]+(/[^\s#]*)?")
SITES: Final = {"github": "github.com", "gitlab": "gitlab.com", "bitbucket": "bitbucket.org"}
"""Short names of `site`; another one is a host."""
CODE: Final = "code"
"""Below `system.paths.base`: what exports with `link` lead to, a directory for each commit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """A row of a recipe. kind: GIT, BUILD or WEB; dest: absolute, of what it makes.

    commit, branch: of git; neither: what the server has as HEAD. link: lay the repository in a directory of
    its commit, and at `dest` only links; plain: with `*`, only what is no directory. sha256: of a download;
    md5: it is checked by the `.md5sum` beside it instead. login: for the server.
    """

    key: str
    kind: str
    url: str
    dest: str
    source: str = ""
    commit: str = ""
    branch: str = ""
    link: bool = False
    plain: bool = False
    overwrite: bool = True
    sha256: str = ""
    md5: bool = False
    login: str = ""

    @property
    def git(self) -> bool:
        return self.kind != WEB

    @property
    def each(self) -> bool:
        """Whether each entry of a directory is taken."""
        return self.source == "*" or self.source.endswith("/*")


def is_export(key: str) -> bool:
    """Return whether a key is a row of a recipe."""
    return _KEY.fullmatch(key) is not None


def exports_of(
    values: Mapping[str, Value], machine: frozenset[str] | None, where: str, faults: list[Fault]
) -> list[Export]:
    """Return the rows in resolved values that are for a machine, in the order of their kinds and numbers.

    machine: names of its platform; None where these are not known: then a row with a platform is taken. What
    is wrong is added to `faults`.
    """
    order = {GIT: 0, BUILD: 1, WEB: 2}
    found = [(order[m[1]], int(m[2]), m[1], key) for key in values if (m := _KEY.fullmatch(key))]
    rows, others = [], []
    for _, _, kind, key in sorted(found):
        row, at = values[key], f"{where}: {key}"
        if not isinstance(row, dict):
            faults.append(Fault(where=at, message="is no table", hint="url:… , source:… , dest:…"))
            continue
        platforms = re.split(r"[;,\s]+", str(row.get("platform", "")).strip())
        fits = machine is None or shares(platforms, machine)
        bad = list(_row_faults(kind, row, values, at))
        faults += bad
        if not fits:
            others.append(f"{key} is for {', '.join(platforms)}")
        elif not bad:
            rows.append(_export(kind, key, row, values))
    if others and not any(row.kind != BUILD for row in rows):
        message = f"nothing of its recipe is for this platform: {'; '.join(others)}"
        names = ", ".join(sorted(machine or ()))
        faults.append(Fault(where=where, message=message, hint=f"the platform is {names}"))
    faults += _clashes(rows, where)
    return rows


def _truth(row: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    text = str(row.get(name, "")).lower()
    return default if text == "" else text in ("true", "1", "yes")


def _url(kind: str, row: Mapping[str, Any], values: Mapping[str, Value]) -> str:
    if url := str(row.get("url", "")):
        return url
    if kind == WEB:
        return ""
    parts = [str(row.get(name, "")) for name in ("account", "repo")]
    if all(parts):
        site = str(row.get("site", "")) or "github"
        return f"https://{SITES.get(site, site)}/{'/'.join(map(quote, parts))}"
    return str(values.get("git.url", ""))


def _dest(kind: str, row: Mapping[str, Any], url: str) -> str:
    if dest := str(row.get("dest", "")):
        return dest
    # As JumpScale 7 had it: /opt/build/HOST/ACCOUNT/REPO.
    path = re.sub(r"^[a-z]+://([^/@]*@)?|^[^/:]*@|\.git$", "", url).replace(":", "/").strip("/")
    return f"/opt/build/{path}" if kind == BUILD else ""


def _row_faults(kind: str, row: Mapping[str, Any], values: Mapping[str, Value], at: str) -> Iterator[Fault]:
    url = _url(kind, row, values)
    dest, source = _dest(kind, row, url), str(row.get("source", ""))
    if not url:
        yield Fault(where=at, message="has no url", hint="add url:…" if kind == WEB else "or add git.url")
    if not dest and url:
        yield Fault(where=at, message="has no dest", hint="add dest:VALUE")
    elif dest and not dest.startswith("/"):
        hint = "begin it with / or $(system.paths.base)/"
        yield Fault(where=f"{at}: dest", message=f"is {dest!r}, and must be an absolute path", hint=hint)
    for name, path in (("dest", dest), ("source", source)):
        if leaves(path):
            yield Fault(where=f"{at}: {name}", message=f"{path!r} has a part that is . or ..")
    for name in ("link", "nodirs", "overwrite", "checkmd5"):
        if reason := wrong(Kind.TRUTH, row.get(name, "")):
            yield Fault(where=f"{at}: {name}", message=f"is {row[name]!r}, and must be {reason}")
    if dest.strip("/") == "" and dest and _truth(row, "link") and not source.endswith("*"):
        yield Fault(where=f"{at}: dest", message="the top of a system cannot be a link")
    yield from _web_faults(row, url, at) if kind == WEB else _git_faults(row, url, at)


def _git_faults(row: Mapping[str, Any], url: str, at: str) -> Iterator[Fault]:
    source = str(row.get("source", ""))
    if source.startswith("/"):
        yield Fault(where=f"{at}: source", message=f"{source!r} must be a path in the repository")
    if _truth(row, "nodirs") and not source.endswith("*"):
        yield Fault(where=f"{at}: nodirs", message="is for a source that ends with *")
    pins = [name for name in ("branch", "revision", "tag") if row.get(name)]
    if len(pins) > 1:
        yield Fault(where=at, message=f"has {' and '.join(pins)}", hint="one of them says what is taken")
    said = {"git": url, "commit": row.get("revision"), "branch": row.get("branch") or row.get("tag")}
    given = {"dest": "/x"} | {name: str(value) for name, value in said.items() if value}
    names = {"$.git": "url", "$.commit": "revision", "$.branch": pins[0] if pins else "branch"}
    for fault in schema.check(given, SOURCE, "$"):
        place = names.get(fault.where, fault.where)
        yield Fault(where=f"{at}: {place}", message=fault.message, hint=fault.hint)


def _web_faults(row: Mapping[str, Any], url: str, at: str) -> Iterator[Fault]:
    if url and not _HTTP.fullmatch(url):
        message = "must be http(s)://HOST/PATH, without a password"
        yield Fault(where=f"{at}: url", message=message)
    sha256, md5 = str(row.get("sha256", "")), _truth(row, "checkmd5")
    if sha256 and not _SHA256.fullmatch(sha256):
        yield Fault(where=f"{at}: sha256", message="must be 64 hex digits")
    if not sha256 and not md5:
        hint = "add sha256:…, which `sha256sum` tells of the file; checkmd5:True trusts the server instead"
        yield Fault(where=at, message="nothing says what the download must be", hint=hint)


def _export(kind: str, key: str, row: Mapping[str, Any], values: Mapping[str, Value]) -> Export:
    url = _url(kind, row, values)
    source = str(row.get("source", ""))
    if kind == WEB:
        url = f"{url.rstrip('/')}/{quote(source.lstrip('/'))}" if source else url
    return Export(
        key=key,
        kind=kind,
        url=url,
        dest=_dest(kind, row, url),
        source="" if kind == WEB else source,
        commit=str(row.get("revision", "")),
        branch=str(row.get("branch") or row.get("tag") or ""),
        link=_truth(row, "link"),
        plain=_truth(row, "nodirs"),
        overwrite=_truth(row, "overwrite", default=True),
        sha256=str(row.get("sha256", "")),
        md5=_truth(row, "checkmd5") and not row.get("sha256"),
        login=str(row.get("login", "")),
    )


def _clashes(rows: Sequence[Export], where: str) -> Iterator[Fault]:
    """Yield the rows that want a place which one before them has, and may not replace what it made."""
    seen: dict[str, str] = {}
    for row in rows:
        place = posixpath.normpath(row.dest)
        if place in seen and not row.overwrite and not row.each:
            hint = "give it another dest, or overwrite:True"
            message = f"has the dest of {seen[place]}, {row.dest}, which it may not overwrite"
            yield Fault(where=f"{where}: {row.key}", message=message, hint=hint)
        seen.setdefault(place, row.key)
