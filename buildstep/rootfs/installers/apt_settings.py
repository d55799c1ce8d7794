"""What apt is told when it works in an image: settings, environment, and how its failures read."""

from __future__ import annotations

OURS = "/run/buildstep-apt"
"""Settings, lists and downloads are shown to apt on the sandbox's /run: none of it gets into the image,
and what a base image has in apt's own places (Docker's empty the cache after every run) does not matter."""
CONFIG = f"{OURS}/apt.conf"
HELPER = "/usr/lib/apt/apt-helper"

NAME = r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+|/[A-Za-z0-9.+~-]+)?"
"""Of a package, as apt takes it: NAME, NAME:ARCH, and with =VERSION or /SUITE."""

POLICY = b"""#!/bin/sh
# Put here by buildstep while packages are installed: no service starts in an image.
exit 101
"""

ENV = {
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
    "DEBIAN_PRIORITY": "critical",
    "APT_LISTCHANGES_FRONTEND": "none",
    "NEEDRESTART_MODE": "l",
    "UCF_FORCE_CONFFOLD": "1",
}

# Read by `--config-file` after the image's own settings, so that it has the last word over them. No locks:
# nobody else is in the image, and what apt is shown is read-only. Lists are not compressed again: so they
# have the digests that Release files name. A repository may have another name or suite than when lists were
# kept: without these nobody would ask. No proxies of the image's own: all goes through the build's, which
# the environment names, and through that of the CI host.
SETTINGS = f"""\
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
APT::Cmd::Pattern-Only "true";
APT::Keep-Downloaded-Packages "true";
APT::Update::Error-Mode "any";
Debug::NoLocking "true";
Acquire::Retries "3";
#clear Acquire::http::Proxy;
#clear Acquire::https::Proxy;
#clear Acquire::http::Proxy-Auto-Detect;
#clear Acquire::https::Proxy-Auto-Detect;
Acquire::http::Timeout "60";
Acquire::https::Timeout "60";
Acquire::Languages "none";
Acquire::GzipIndexes "false";
Acquire::AllowReleaseInfoChange "true";
Dir::Cache::archives "{OURS}/archives";
Dir::State::lists "{OURS}/lists";
Dir::Cache::pkgcache "{OURS}/pkgcache.bin";
Dir::Cache::srcpkgcache "{OURS}/parsed/srcpkgcache.bin";
Dpkg::Use-Pty "0";
DPkg::Options:: "--force-unsafe-io";
DPkg::Options:: "--force-confdef";
DPkg::Options:: "--force-confold";
DPkg::Lock::Timeout "60";
"""

# Whose names a failing apt or dpkg prints, and how.
CULPRITS = (
    r"^E(?:rror)?: Unable to locate package (\S+)",
    r"^E(?:rror)?: Couldn't find any package by \S+ '([^']+)'",
    r"^E(?:rror)?: Package '([^']+)' has no installation candidate",
    r"^E(?:rror)?: Version '[^']*' for '([^']+)' was not found",
    r"^E(?:rror)?: Release '[^']*' for '([^']+)' was not found",
    r"^dpkg: error processing (?:package|archive) (\S+)",
    r"^Errors were encountered while processing:\n((?: \S+\n?)+)",
    r"^ (\S+) : (?:Depends|Breaks|Conflicts|PreDepends):",
    r"^E(?:rror)?: Failed to fetch \S+/([^/_\s]+)_",
)
