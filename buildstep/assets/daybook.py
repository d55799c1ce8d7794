"""The configuration file and the flags of daybook, for the commands that take its place.

Source: tobz/daybook at 08c5fce, `daybook-push`, `daybook-pull` and `daybook-map`; Go's packages `flag` and
`encoding/json`. Keys that daybook does not know are ours; it ignores them, so that one file serves both.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from buildstep.errors import Fault, SpecError, UsageError
from buildstep.spec import schema
from buildstep.spec.schema import BOOLEAN, HTTP, Rule, integer, record, text

CONFIG_FILE: Final = "/etc/daybook.json"
SHARED_FILE: Final = "AWS_SHARED_CREDENTIALS_FILE"
"""The variable that names a file of credentials; daybook's library knew it as AWS_CREDENTIAL_FILE."""
_TEXT: Rule = {"type": ["string", "null"]}  # to Go, null leaves a value as it is
_ADDRESS: Rule = text(rf"({HTTP}://)?[^\s@?#/]+", say="HOST:PORT or http(s)://HOST:PORT")
_ENDPOINT: Rule = text(rf"{HTTP}://[^\s@?#]+", say="an http or https address")

RULE: Final = record(
    {
        "hostname": _TEXT,
        "install_dir": _TEXT,
        "bucket_name": _TEXT,
        "aws_access_key": _TEXT,
        "aws_secret_key": _TEXT,
        "aws_session_token": _TEXT,
        "region": _TEXT,
        "endpoint": _ENDPOINT,
        "store": _TEXT,
        "register": _TEXT,
        "consul_address": _ADDRESS,
        "consul_token_file": _TEXT,
        "consul_datacenter": _TEXT,
        "consul_namespace": _TEXT,
        "consul_ca_file": _TEXT,
        "compat": BOOLEAN,
        "hyphens": BOOLEAN,
        "replace": BOOLEAN,
        "keep": integer(1),
    },
    extra=True,
)
"""What a daybook.json may hold. The first five keys are daybook's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Daybook:
    """The settings of a daybook.json; texts are empty where it says nothing.

    hostname: of this host, as mappings know it. store, register: URLs, in place of the bucket and of Consul.
    compat: the longest pattern wins, as with daybook, so that hosts of both generations agree. hyphens: take
    versions with hyphens, which daybook cuts. replace: a
    push may change a version that is there, as daybook does without being asked. keep: how many versions of
    a service a pull wants; 0: all of them.
    """

    hostname: str = ""
    install_dir: str = "/tmp"
    bucket_name: str = "daybook"
    aws_access_key: str = ""
    aws_secret_key: str = ""
    aws_session_token: str = ""
    region: str = ""
    endpoint: str = ""
    store: str = ""
    register: str = ""
    consul_address: str = ""
    consul_token_file: str = ""
    consul_datacenter: str = ""
    consul_namespace: str = ""
    consul_ca_file: str = ""
    compat: bool = True
    hyphens: bool = False
    replace: bool = False
    keep: int = 0
    notes: tuple[str, ...] = ()

    @property
    def store_url(self) -> str:
        """The store, as `open_assets` takes it."""
        return self.store or f"s3://{self.bucket_name}"

    @property
    def register_url(self) -> str:
        """The register, as `open_register` takes it. Without an address Consul's own variables count, and
        without these its agent on this host, which is the one that daybook asks."""
        scheme, _, address = self.consul_address.rpartition("://")
        kind = "consul+https" if scheme.lower() == "https" else "consul"
        return self.register or f"{kind}://{address.rstrip('/')}"

    @property
    def consul_options(self) -> dict[str, str]:
        """What a register at Consul is told besides; see `spec.assets_config`."""
        options = {
            "token_file": self.consul_token_file,
            "datacenter": self.consul_datacenter,
            "namespace": self.consul_namespace,
            "ca_file": self.consul_ca_file,
        }
        return {name: value for name, value in options.items() if value}

    def host(self) -> str:
        """Return the name of this host as daybook finds it. Raises UsageError where there is none."""
        name = self.hostname or socket.gethostname()
        if not name:
            raise UsageError("this host has no name", hint='set "hostname" in the configuration file')
        return name

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which clients of S3 find the credentials that daybook would take.

        The names that only its library knows are given their newer ones. A pair of keys in the file counts
        alone: neither a token nor a profile of the environment belongs to it.
        """
        made = dict(environ)
        for old, new in _OLD_NAMES.items():
            if environ.get(old):
                made.setdefault(new, environ[old])
        if self.aws_access_key and self.aws_secret_key:
            made.pop("AWS_PROFILE", None)
            made.pop("AWS_SESSION_TOKEN", None)
            made["AWS_ACCESS_KEY_ID"] = self.aws_access_key
            made["AWS_SECRET_ACCESS_KEY"] = self.aws_secret_key
            if self.aws_session_token:
                made["AWS_SESSION_TOKEN"] = self.aws_session_token
        if self.region:
            made["AWS_REGION"] = self.region
        return made


_OLD_NAMES: Final = {
    "AWS_ACCESS_KEY": "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_KEY": "AWS_SECRET_ACCESS_KEY",
    "AWS_SECURITY_TOKEN": "AWS_SESSION_TOKEN",
    "AWS_CREDENTIAL_FILE": SHARED_FILE,
}


def load(path: str) -> Daybook:
    """Return the settings of a file.

    The default one need not be there, as every key is optional. Raises SpecError with all faults, each with
    its place, and UsageError.
    """
    if not path:
        raise UsageError("You must specify a path to the Daybook configuration!")
    if path == CONFIG_FILE and not os.path.lexists(path):
        return Daybook()
    source = schema.read_file(path)
    try:
        data = schema.parse(source, path)
    except SpecError as error:
        raise SpecError(path, [_explained(fault, source) for fault in error.faults]) from error
    if isinstance(data, dict):  # Go compares names of keys without their case
        data = {key if key in RULE["properties"] else key.lower(): value for key, value in data.items()}
        # Nothing is set by what is empty, whatever the key: files are made from templates.
        empty = [key for key, value in data.items() if key in RULE["properties"] and value in (None, "")]
        data = {key: value for key, value in data.items() if key not in empty}
    if faults := schema.check(data, RULE, "$"):
        raise SpecError(path, faults)
    assert isinstance(data, dict)
    known = {key: value for key, value in data.items() if key in RULE["properties"]}
    if "keep" in known:
        known["keep"] = int(known["keep"])  # 3.0 is a whole number to JSON
    settings = Daybook(**known)
    return replace(settings, notes=(*_unknown(path, data), *_readable(path, settings)))


def _explained(fault: Fault, source: str) -> Fault:
    """Return the fault of a text that is no JSON, with a hint for what both examples of daybook lack."""
    if "delimiter" not in fault.message:
        return fault
    number = int(fault.where.split()[1])
    lines = source.splitlines()[: number - 1]
    before = next((at for at in range(len(lines), 0, -1) if lines[at - 1].strip()), 0)
    if not before or lines[before - 1].rstrip().endswith((",", "{", "[", ":")):
        return fault
    # Not what the line holds: it may be the secret key.
    return replace(fault, hint=f"a comma is missing at the end of line {before}")


def _unknown(path: str, data: Mapping[str, object]) -> list[str]:
    """Return a note for each key that nobody knows: daybook ignores them in silence."""
    notes = []
    for key in data:
        if key not in RULE["properties"]:
            hint = schema.near(key, RULE["properties"])
            notes.append(f"{path}: {json.dumps(key)} is not a known key" + (f"; {hint}" if hint else ""))
    return notes


def _readable(path: str, settings: Daybook) -> list[str]:
    """Return a note if a file with a secret key can be read by everybody on this machine."""
    if settings.aws_secret_key and os.stat(path).st_mode & stat.S_IROTH:
        return [f"{path} holds a secret key and can be read by every user of this host: chmod 0600 {path}"]
    return []


# -- flags ------------------------------------------------------------------------------------------------


class FlagsError(UsageError):
    """Flags that Go's package `flag` would refuse too; the program then shows its usage and exits with 2."""


class Flags(NamedTuple):
    """What a command line says. words: what is not a flag; help: whether that was asked for."""

    config_file: str
    words: tuple[str, ...]
    help: bool = False


def parse_flags(argv: Sequence[str]) -> Flags:
    """Return what a command line says, read as Go's package `flag` does: one or two hyphens, a value after
    `=` or as the next word, and nothing is a flag from the first word on that is none. Raises FlagsError."""
    config_file = CONFIG_FILE
    words = list(argv)
    while words and len(words[0]) > 1 and words[0].startswith("-"):
        word = words.pop(0)
        if word == "--":
            break
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if not name or name.startswith("-"):
            raise FlagsError(f"bad flag syntax: {word}")
        if name in ("h", "help"):
            return Flags(config_file, tuple(words), help=True)
        if name != "config-file":
            raise FlagsError(f"flag provided but not defined: -{name}")
        if not equals:
            if not words:
                raise FlagsError("flag needs an argument: -config-file")
            value = words.pop(0)
        config_file = value
    return Flags(config_file, tuple(words))
