"""The tables `assets` and `consul` of buildstep.toml: where assets lie, and who maps hosts to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from buildstep.spec.fields import store_url
from buildstep.spec.rules import STORE
from buildstep.spec.schema import BOOLEAN, HTTP, array, choice, integer, record, text

_PLAIN = r"\x00-\x1f\x7f"
_PATH = text(rf"[^{_PLAIN}]+", say="a path")
_REGISTER = text(
    rf"consul(\+https)?:(//[^\s@?#/]*/?)?|file:[^{_PLAIN}]+|[^{_PLAIN}:-][^{_PLAIN}:]*",
    say="consul://HOST:PORT, consul+https://HOST:PORT or file:PATH, without a token",
)
_NAME = text(r"[A-Za-z0-9][A-Za-z0-9._-]*", say="a name")

ASSETS: Final = record(
    {
        "store": STORE,
        "endpoint": text(rf"{HTTP}://[^\s@?#]+", say="an http or https address"),
        "register": _REGISTER,
        "install_dir": _PATH,
        "host": text(r"[^\s/]+", say="the name of a host"),
        "keep": integer(0, 1_000_000),
        "hyphens": BOOLEAN,
        "compat": BOOLEAN,
        "key": _PATH,
        "trusted": array(_PATH),
    }
)
"""See `AssetsConfig`."""

CONSUL: Final = record(
    {
        "token_file": _PATH,
        "datacenter": _NAME,
        "namespace": _NAME,
        "consistency": choice(["default", "consistent", "stale"]),
        "ca_file": _PATH,
        "cert_file": _PATH,
        "key_file": _PATH,
    }
)
"""What `net.consul` is given; where one is not set, Consul's own variables count."""

VARIABLES: Final = {
    "BUILDSTEP_ASSETS": ("assets", "store"),
    "BUILDSTEP_ASSETS_ENDPOINT": ("assets", "endpoint"),
    "BUILDSTEP_REGISTER": ("assets", "register"),
    "BUILDSTEP_INSTALL_DIR": ("assets", "install_dir"),
    "BUILDSTEP_HOST": ("assets", "host"),
    "BUILDSTEP_KEEP": ("assets", "keep"),
    "BUILDSTEP_HYPHENS": ("assets", "hyphens"),
    "BUILDSTEP_COMPAT": ("assets", "compat"),
    "BUILDSTEP_SIGNING_KEY": ("assets", "key"),
    "BUILDSTEP_TRUSTED_KEYS": ("assets", "trusted"),
}
"""Variables, and the settings that they give."""

_SWITCHES: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class AssetsConfig:
    """The settings of assets; empty where none is given, and paths absolute.

    store: of assets; endpoint: of an S3 store that is not Amazon's; register: of mappings; install_dir: where
    a host keeps its services; host: the name that patterns are matched with, instead of the machine's. keep:
    newest versions of each service that a pull takes, 0 for all. hyphens: take versions with hyphens, which
    daybook cuts. compat: the longest pattern wins, as with daybook. key: of a private key that signs what is
    pushed; trusted: files of public keys, of which one must have signed what is pulled. consul: see CONSUL.
    """

    store: str = ""
    endpoint: str = ""
    register: str = ""
    install_dir: str = ""
    host: str = ""
    keep: int = 0
    hyphens: bool = False
    compat: bool = False
    key: str = ""
    trusted: tuple[str, ...] = ()
    consul: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, assets: Mapping[str, Any], consul: Mapping[str, str]) -> AssetsConfig:
        """Return the settings of two tables that are merged and checked."""
        values: dict[str, Any] = {
            key: tuple(value) if key == "trusted" else value for key, value in assets.items()
        }
        return cls(**values, consul=dict(consul))


def of_variable(given: str, key: str) -> Any:
    """Return what the text of a variable stands for in the table `assets`; a rule checks it later."""
    match key:
        case "keep":
            return int(given) if given.isascii() and given.isdigit() else given
        case "hyphens" | "compat":
            return _SWITCHES.get(given.lower(), given)
        case "trusted":
            return [path for path in given.split(os.pathsep) if path]
    return given


def located(table: str, values: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return checked settings of one place; paths become absolute. directory: what they are relative to."""
    found = dict(values)
    for key, value in values.items():
        if key == "store":
            found[key] = store_url(value, directory)
        elif key == "register":
            found[key] = _register(value, directory)
        elif key == "trusted":
            found[key] = [os.path.abspath(directory / path) for path in value]
        elif key in ("install_dir", "key") or (table == "consul" and key.endswith("_file")):
            found[key] = os.path.abspath(directory / value)
    return found


def _register(url: str, directory: Path) -> str:
    scheme, colon, path = url.partition(":")
    if colon and scheme != "file":
        return url
    return f"file:{os.path.abspath(directory / (path if colon else url))}"
