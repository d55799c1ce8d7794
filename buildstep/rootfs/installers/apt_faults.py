"""Why apt failed, found in what it printed, and what to do about that.

apt's last lines often name a consequence ("does not have a Release file", "is not signed"), so that the lines
of each download are read first. The sentences are those of apt-pkg and its methods, from Debian 10 to 13, in
the C locale, where they are not translated.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from buildstep.rootfs.installers.apt_sources import Sources
from buildstep.rootfs.installers.common import Cause
from buildstep.system.root import Root


class Keys(NamedTuple):
    """The keys that are believed for a repository. place: the file or directory of them; hint: what to do
    where one is missing."""

    place: str
    hint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What depends on whose apt it is.

    keys: those of a repository, by its URI and suite; mirror: how to fetch from elsewhere; authority: where
    the certificate of an authority goes; expired: what to do where a repository is no longer renewed;
    sources: what names the repositories; network: False where the build is to have none.
    """

    keys: Callable[[str, str], Keys]
    mirror: str
    authority: str
    expired: str
    sources: str = "the image's sources"
    network: bool = True


class _Download(NamedTuple):
    """A download that failed. what: its URL, or the file and its repository as apt names them."""

    what: str
    reason: str

    @property
    def url(self) -> str:
        return self.what.partition(" ")[0]

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2] or self.url


_FAILED = re.compile(
    r"^(?:E: Failed to fetch (\S+)  |Err:\d+ (.+)\n  )(.+?)(?: \[IP: [^\]]*\])?$", re.MULTILINE
)
_DATED = re.compile(
    r"^E: Release file for (\S+) is (?:expired \(invalid since|not valid yet \(invalid for another)"
    r" (?P<time>[^)]*)\)",
    re.MULTILINE,
)
_SIGNED = re.compile(
    r"^[WE]: (?:GPG error|OpenPGP signature verification failed): "
    r"(?P<uri>\S+) (?P<suite>\S+) \S+: (?P<why>.+)",
    re.MULTILINE,
)
_UNSIGNED = re.compile(r"^E: The repository '(\S+) (\S+) \S+' is not signed", re.MULTILINE)
_UNKNOWN = re.compile(
    r"^E: ((?:Unable to locate package|Couldn't find any package by"
    r"|Package '[^']+' has no installation candidate"
    r"|(?:Version|Release) '[^']*' for '[^']+' was not found).*)",
    re.MULTILINE,
)
_UNMET = re.compile(r"^The following packages have unmet dependencies:\n (.+)", re.MULTILINE)
_HELD = re.compile(r"^The following held packages will be changed:\n((?:  .+\n)+)", re.MULTILINE)
_CHANGED_HELD = "E: Held packages were changed"
_SOURCES = re.compile(r"^E: (Malformed (?:line|entry|stanza) .*)", re.MULTILINE)
_METHOD = re.compile(r"^E: The method (?:driver )?\S*?/?(\w+)'? could not be found", re.MULTILINE)

_UNREACHABLE = re.compile(
    r"Could not (?:connect|resolve)|Unable to connect|Temporary failure resolving|Something wicked happened"
    r"|cannot be reached|Connection (?:failed|timed out|refused|reset)|Network is unreachable"
    r"|No route to host"
)
_CERTIFICATE = re.compile(r"certificate|CERTIFICATE_VERIFY_FAILED|Could not handshake")
_REFUSED = re.compile(r"403 +(?P<host>\S+) is the CI host itself \([^)]*\)")
_NO_WAY = re.compile(r"502 +\S+ cannot be reached: (?P<why>.*?)(?:  Content-Type: .*)?$")
_HOSTS_PROXY = re.compile(r"this host's proxy .*")
"""What the build's own proxy says (`network_proxy`, `network_policy`)."""

_SECONDS = {"d": 86400, "h": 3600, "min": 60, "s": 1}


def explain(output: str, advice: Advice) -> Cause | None:
    """Return why apt failed, by its output; None where nothing is found in it.

    Several causes become one, with the hints of all.
    """
    # apt 3 can write the words out.
    plain = re.sub(r"^(Error|Warning): ", lambda match: f"{match[1][0]}: ", output, flags=re.MULTILINE)
    found = list(dict.fromkeys(_causes(plain, advice)))
    if not found:
        return None
    return Cause(
        text=_joined(cause.text for cause in found),
        hint=_joined(cause.hint for cause in found),
        retryable=all(cause.retryable for cause in found),
        old_index=any(cause.old_index for cause in found),
    )


def _joined(parts: Iterable[str]) -> str:
    """Return what there is, each once, without the passwords of URLs."""
    return re.sub(r"//[^/@\s]+@", "//", "; ".join(dict.fromkeys(filter(None, parts))))


def _causes(output: str, advice: Advice) -> Iterator[Cause]:
    for match in _DATED.finditer(output):
        yield _dated(match, advice)
    signed = set()
    for match in _SIGNED.finditer(output):
        signed.add((match["uri"], match["suite"]))
        yield _signature(match, advice)
    failed = set()
    # apt names most twice: as one of a repository's, and by its URL, which says more.
    for match in sorted(_FAILED.finditer(output), key=lambda match: not match[1]):
        download = _Download(match[1] or match[2], match[3])
        if (key := (download.host, download.reason)) not in failed:
            failed.add(key)
            yield from _download(download, advice)
    for match in _UNSIGNED.finditer(output):
        if (match[1], match[2]) not in signed and not failed:
            hint = "sign it; one that you trust without can have [trusted=yes] in an image's sources"
            yield Cause(text=f"the repository {match[1]} {match[2]} is not signed", hint=hint)
    yield from _packages(output, advice)
    for match in _SOURCES.finditer(output):
        yield Cause(text=match[1], hint=f"mend {advice.sources}")
    for match in _METHOD.finditer(output):
        yield Cause(
            text=f"apt has no method {match[1]}", hint="the sources have a URL of that scheme: mend it"
        )


def _dated(match: re.Match[str], advice: Advice) -> Cause:
    """A Release file that is too old or from the future: its date is that far from now."""
    parts = re.findall(r"(\d+)(d|h|min|s)", match["time"])
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in parts)
    now = time.time()
    clock = f"this host's clock says {_date(now)}"
    if "expired" in match[0]:
        text = f"{match[1]} expired on {_date(now - seconds)}"
        return Cause(text=text, hint=f"{advice.expired}; {clock}: set it if that is wrong")
    text = f"{match[1]} is valid from {_date(now + seconds)} on"
    return Cause(text=text, hint=f"{clock}: set it if that is wrong", retryable=True)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _signature(match: re.Match[str], advice: Advice) -> Cause:
    """A Release file whose signature was not believed. The words are gpgv's, or those of sqv (apt 3)."""
    repository, why = f"{match['uri']} {match['suite']}", match["why"]
    place, hint = advice.keys(match["uri"], match["suite"])
    if missing := re.findall(r"(?:NO_PUBKEY|Missing key) ([0-9A-F]{8,})", why):
        keys = f"the key{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
        return Cause(text=f"{repository} is signed with {keys}, not found in {place}", hint=hint)
    if expired := re.search(r"(?:EXPKEYSIG|KEYEXPIRED) (\S+)|[Ee]xpired on|not live", why):
        key = f"the key {expired[1]}" if expired[1] else "a key"
        text = f"{repository} is signed with {key}, which has expired in {place}"
        return Cause(text=text, hint=f"a newer version of it has another date: {hint}")
    if revoked := re.search(r"REVKEYSIG (\S+)|revoked", why):
        text = f"{repository} is signed with {revoked[1] or 'a key'}, which was revoked"
        return Cause(text=text, hint="take a repository whose keys are good")
    if "BADSIG" in why:
        text = f"{repository} does not fit its signature"
        hint = f"a proxy or the mirror altered it, or it was replaced meanwhile: build again; {advice.mirror}"
        return Cause(text=text, hint=hint, retryable=True)
    return Cause(text=f"the signature of {repository} is not believed: {why}", hint=hint)


def _download(download: _Download, advice: Advice) -> Iterator[Cause]:
    what, reason = download.what, download.reason
    if match := _REFUSED.search(reason):
        allow = f"BUILDSTEP_NETWORK_ALLOW={match['host']}"
        hint = f"{allow}, or network.allow in buildstep.toml, lets builds reach it"
        yield Cause(text=match[0].removeprefix("403").strip(), hint=hint)
    elif match := _NO_WAY.search(reason):
        yield _unreachable(download.host, match["why"], advice)
    elif _CERTIFICATE.search(reason):
        yield _certificate(download, advice)
    elif _UNREACHABLE.search(reason) and not advice.network:
        yield Cause(text="the build has no network", hint="leave out --no-network (build.network: false)")
    elif _UNREACHABLE.search(reason):
        yield _unreachable(download.host, reason, advice)
    elif match := re.match(r"(\d{3})  ?", reason):
        yield _status(what, int(match[1]), reason, advice)
    elif re.search("Hash Sum mismatch|unexpected size|Size mismatch", reason):
        hint = f"the mirror is being updated, or a proxy alters what it sends: build again; {advice.mirror}"
        text = f"{what} is not what the index says ({reason})"
        yield Cause(text=text, hint=hint, retryable=True, old_index=True)
    elif "Clearsigned file isn't valid" in reason:
        text = f"{what} is no Release file"
        yield Cause(text=text, hint="something else answered: a proxy, or a page to log in? look at that URL")


def _unreachable(host: str, why: str, advice: Advice) -> Cause:
    text = f"{host} cannot be reached ({why})"
    if _HOSTS_PROXY.match(why):
        hint = "http_proxy, https_proxy or all_proxy of this host names that proxy"
        return Cause(text=text, hint=hint, retryable=True)
    hint = f"is the package source reachable from this CI host? {advice.mirror}"
    return Cause(text=text, hint=hint, retryable=True)


def _certificate(download: _Download, advice: Advice) -> Cause:
    reason = download.reason
    said = re.sub(r"^Certificate verification failed: |  Could not handshake.*", "", reason)
    text = f"the certificate of {download.host} is not believed ({said})"
    if "does not match" in reason or "mismatch" in reason:
        return Cause(text=text, hint="write the server's name in the sources as its certificate has it")
    if "expired" in reason or "not yet" in reason:
        hint = f"it must be renewed, unless this host's clock is wrong: it says {_date(time.time())}"
        return Cause(text=text, hint=hint)
    return Cause(text=text, hint=advice.authority)


def _status(what: str, status: int, reason: str, advice: Advice) -> Cause:
    """A response that is no success."""
    if status in (404, 410):
        if match := re.fullmatch(r"(\S+) (\S+) Release", what):
            text = f"{match[1]} has no Release file of the suite {match[2]} ({status})"
            hint = "check the address and the suite; suites that have ended are moved to another host"
            return Cause(text=text, hint=f"{hint}; {advice.mirror}")
        hint = f"the mirror is being updated, or lacks files: build again later; {advice.mirror}"
        text = f"{what} is not there, though the index names it ({status})"
        return Cause(text=text, hint=hint, retryable=True, old_index=True)
    if status in (401, 407):
        who = "proxy" if status == 407 else "server"
        return Cause(text=f"{what}: {reason}", hint=f"the {who} wants a user and a password")
    if status == 403:  # what some stores answer for a file that they do not have
        return Cause(text=f"{what}: {reason}", hint="the server, or a proxy, refuses it", old_index=True)
    return Cause(
        text=f"{what}: {reason}", hint=f"build again later; {advice.mirror}", retryable=status >= 429
    )


def _packages(output: str, advice: Advice) -> Iterator[Cause]:
    """Names that the index does not know, dependencies that it cannot fulfil, and packages on hold."""
    if unknown := list(dict.fromkeys(_UNKNOWN.findall(output))):
        hint = f"check the names, and {advice.sources}: the component or suite of one may be missing"
        yield Cause(text="; ".join(unknown), hint=hint, old_index=True)
    for match in _UNMET.finditer(output):
        text = f"unmet dependencies: {' '.join(match[1].split())}"
        yield Cause(text=text, hint="the last lines have all of them", old_index=True)
    for match in _HELD.finditer(output) if _CHANGED_HELD in output else ():
        hint = "leave them out, or take a base image that does not hold them (apt-mark(8))"
        yield Cause(text=f"on hold in the base image: {' '.join(match[1].split())}", hint=hint)


# -- whose apt it is ----------------------------------------------------------------------------------------

ARCHIVE_KEYRINGS = {
    "debian": ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    "ubuntu": ("/usr/share/keyrings/ubuntu-archive-keyring.gpg", "ubuntu-keyring"),
    "kali": ("/usr/share/keyrings/kali-archive-keyring.gpg", "kali-archive-keyring"),
}
"""Where each vendor's own keys are, and the package that brings them, on Debian and its derivatives."""

_COMPARE = "get it from those who run the repository, compare its fingerprint, and put it"


def image_advice(root: Root, sources: Sources, *, network: bool) -> Advice:
    """Return the advice for an image's own apt. sources: what it fetches from; network: see `Advice`."""

    def keys(uri: str, suite: str) -> Keys:
        entry, named = sources.signed_by(uri, suite)
        if "BEGIN PGP" in named:
            return Keys(f"the Signed-By of {entry}", f"{_COMPARE} there in the base image")
        if not named.startswith("/"):
            only = f" ({named} alone counts)" if named else ""
            return Keys(f"/etc/apt/trusted.gpg.d{only}", f"{_COMPARE} there in the base image")
        for _, package in ARCHIVE_KEYRINGS.values():
            if package.removesuffix("-keyring") in named:
                return Keys(_seen(root, named), f"take a base image with a newer {package}")
        return Keys(_seen(root, named), f"{_COMPARE} there in the base image")

    return Advice(
        keys=keys,
        mirror="the installer option mirror, or BUILDSTEP_APT_MIRROR, names another mirror of Debian's",
        authority="the base image needs the package ca-certificates, and an authority of your own in its"
        " /usr/local/share/ca-certificates, with update-ca-certificates run after that",
        expired="take a mirror that is renewed; an archive that no longer is can have Check-Valid-Until: no"
        " in the image's sources",
        network=network,
    )


def _seen(root: Root, path: str) -> str:
    return path if root.exists(path) else f"{path}, which is not there"
