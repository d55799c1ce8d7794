"""Debian's packages through a private apt: the machine's own lists and sources stay as they are."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.guest.commands import output
from tests.guest.errors import GuestError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# What the machine's apt needs to reach its mirror, such as a proxy, is what ours needs.
CARRIED = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package as the mirror has it now."""

    name: str
    version: str
    depends: str


def mirror_uri(override: str | None) -> str:
    """The machine's Debian mirror, or `override` on a machine that has none."""
    if override:
        return override.rstrip("/")
    listed = output(
        [
            "apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)",
            "Created-By: Packages", "Component: main",
        ]
    )  # fmt: skip
    for line in sorted(set(listed.splitlines())):
        match line.split():
            case ["Debian", "Debian", uri]:
                return uri.rstrip("/")
    raise GuestError(
        "the machine's apt knows no Debian mirror",
        hint="run apt-get update, or name a mirror in BUILDSTEP_GUEST_MIRROR",
    )


def source_line(uri: str, suite: str) -> str:
    """The sources entry for a mirror; ZFS lives in contrib."""
    return f"deb [signed-by={KEYRING}] {uri} {suite} main contrib"


def carried_settings() -> str:
    """The part of the machine's apt settings that is about reaching the mirror."""
    lines = output(["apt-config", "dump"]).splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(CARRIED))


class PrivateApt:
    """apt with its own sources, lists and cache, all below one folder."""

    def __init__(self, folder: Path, *, uri: str, suite: str) -> None:
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (folder / name).mkdir(parents=True)
        (folder / "sources.list").write_text(f"{source_line(uri, suite)}\n")
        settings = {
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": folder / "parts",
            "Dir::Etc::preferences": folder / "none",
            "Dir::Etc::preferencesparts": folder / "parts",
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": folder / "cache",
            "APT::Sandbox::User": "root",
            "APT::Architecture": "amd64",
            "Acquire::Languages": "none",
        }
        config = folder / "apt.conf"
        config.write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
        self._env = {"APT_CONFIG": os.fspath(config)}

    def update(self) -> None:
        """Fetch the package lists."""
        output(["apt-get", "-qq", "update"], env=self._env)

    def package(self, name: str) -> Package:
        """The newest version of a package."""
        text = output(["apt-cache", "show", "--no-all-versions", name], env=self._env)
        fields = dict(re.findall(r"^(Version|Depends): (.*)$", text, re.MULTILINE))
        return Package(name=name, version=fields["Version"], depends=fields.get("Depends", ""))

    def download(self, package: Package, folder: Path) -> Path:
        """Fetch a package's file, unpacking nothing."""
        folder.mkdir(parents=True, exist_ok=True)
        before = set(folder.iterdir())
        output(
            ["apt-get", "-qq", "download", f"{package.name}={package.version}"],
            cwd=folder,
            env=self._env,
        )
        (file,) = set(folder.iterdir()) - before
        return file
