"""What a shell may complete a value to. Asked on a TAB: nothing is changed, and nothing fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from buildstep.assets.names import Name

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]

_FILE_SCHEMES = ("tar", "oci", "docker-archive", "zfs", "btrfs", "dir", "overlay", "file")
"""Schemes whose locator is a path."""


def callback(find: Callable[[click.Context, click.Parameter, str], Iterable[str]]) -> Complete:
    """Return a click callback that offers what `find` returns and begins as what was typed."""

    def complete(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        found: list[str] = []
        # A broken configuration or pool offers less, and must not print into a prompt.
        with contextlib.suppress(Exception):
            for value in find(context, param, begun):
                if value.startswith(begun):
                    found.append(value)
        return [CompletionItem(value) for value in dict.fromkeys(found)]

    return complete


def _native(kind: str) -> Complete:
    """Return a callback that lets the shell itself complete paths."""

    def complete(_context: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(begun, type=kind)]

    return complete


FILES = _native("file")
FOLDERS = _native("dir")


def _of_setting(_context: click.Context, param: click.Parameter, begun: str) -> Iterator[str]:
    from buildstep.cli.choices import choices
    from buildstep.spec.settings import SETTINGS

    setting = SETTINGS[str(param.name)]
    rule = setting.rule_for(choices(plugins=True))
    values = rule.get("enum") or rule.get("items", {}).get("enum", ())
    # A list may be given as A,B: its last entry is the one that is typed.
    before = begun[: begun.rfind(",") + 1] if setting.kind == "array" and setting.commas else ""
    yield from (f"{before}{value}" for value in values)


OF_SETTING = callback(_of_setting)
"""For an option with the name of a setting that has a closed set of values."""


def _proofs(_context: click.Context, _param: click.Parameter, begun: str) -> Iterator[str]:
    from buildstep.trust.policy import PROOFS as NAMES

    before = begun[: begun.rfind(",") + 1]
    yield from (f"{before}{name}" for name in NAMES)


PROOFS = callback(_proofs)
"""For a list of what has to be proved of an image."""


def _paths(begun: str) -> Iterator[str]:
    """Yield SCHEME:PATH for the paths that go on from what was typed."""
    scheme, colon, path = begun.partition(":")
    if not colon or scheme not in _FILE_SCHEMES:
        return
    folder, _, start = path.rpartition("/")
    top = f"{folder}/" if "/" in path else ""
    for entry in sorted(os.scandir(top or "."), key=lambda entry: entry.name):
        hidden = entry.name.startswith(".") and not start.startswith(".")
        if entry.name.startswith(start) and not hidden and not any(map(str.isspace, entry.name)):
            yield f"{scheme}:{top}{entry.name}{'/' if entry.is_dir() else ''}"


def _pools(_context: click.Context, _param: click.Parameter, begun: str) -> Iterator[str]:
    from buildstep.pool import BACKENDS

    yield from (f"{name}:" for name in BACKENDS.names())
    yield from _paths(begun)


POOLS = callback(_pools)


def _stores(_context: click.Context, _param: click.Parameter, begun: str) -> Iterator[str]:
    from buildstep.files import STORES as SCHEMES

    yield from (f"{name}:" if name == "dir" else f"{name}://" for name in SCHEMES.names())
    yield from _paths(begun)


STORES = callback(_stores)


def _registers(_context: click.Context, _param: click.Parameter, begun: str) -> Iterator[str]:
    from buildstep.assets import REGISTERS as SCHEMES

    yield from (f"{name}:" if name == "file" else f"{name}://" for name in SCHEMES.names())
    yield from _paths(begun)


REGISTERS = callback(_registers)


def _mapped(context: click.Context) -> Mapping[str, tuple[str, ...]]:
    """Return the mappings of the command line's register, if it is a file: no TAB waits for a network."""
    from buildstep.assets import open_register
    from buildstep.assets.interface import RegisterAccess
    from buildstep.assets.places import default_register
    from buildstep.events import Bus
    from buildstep.spec import config as configs

    named = context.params.get("register") or configs.load(os.environ, Path.cwd()).assets.register
    url = str(named or default_register(os.environ))
    if url.startswith("consul"):
        return {}
    return open_register(url, RegisterAccess(environ={}, bus=Bus())).read().services


PATTERNS = callback(lambda context, _param, _begun: _mapped(context))
"""Of an argument that is a pattern of a register."""


def _mapped_services(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    for services in _mapped(context).values():
        yield from services


MAPPED_SERVICES = callback(_mapped_services)
"""Of an argument that is a service of a register."""


def _refs(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    """Yield the refs of the command line's store, if it is on this machine: no TAB waits for a network."""
    from buildstep.files import open_storage, refs
    from buildstep.files.places import default_store
    from buildstep.spec import config as configs

    named = context.params.get("store")
    url = str(named) if named else configs.load(os.environ, Path.cwd()).store or default_store(os.environ)
    storage = open_storage(url)
    if storage.root is not None:
        yield from sorted(ref.name for ref in refs.every(storage))


def _times(_context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    yield from ("keep", "now")


TIMES = callback(_times)

REFS = callback(_refs)
"""Of an argument that is a ref of a store."""


def _assets_there(context: click.Context) -> list[Name]:
    """Return the assets of the command line's store, if it is on this machine."""
    from buildstep.assets import open_assets
    from buildstep.assets.places import default_assets
    from buildstep.spec import config as configs

    named = context.params.get("store") or configs.load(os.environ, Path.cwd()).assets.store
    url = str(named or default_assets(os.environ))
    scheme, colon, _ = url.partition(":")
    if colon and scheme != "dir":
        return []
    return sorted(asset.name for asset in open_assets(url).list())


def _services(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    yield from (name.service for name in _assets_there(context))


SERVICES = callback(_services)
"""Of an argument that is a service in a store of assets."""


def _versions(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    service = context.params.get("service")
    yield from (name.version for name in _assets_there(context) if name.service == service)


VERSIONS = callback(_versions)
"""Of an argument that is a version of the argument `service`."""


def service_version_path(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Offer what fits for an argument that takes SERVICE VERSION PATH."""
    given = len(context.params.get(str(param.name)) or ())
    return [] if given == 1 else (FILES if given else SERVICES)(context, param, begun)


def _installed(context: click.Context) -> Path:
    from buildstep.assets.places import default_install_dir
    from buildstep.spec import config as configs

    given = context.params.get("install_dir") or configs.load(os.environ, Path.cwd()).assets.install_dir
    return Path(str(given or default_install_dir(os.environ)))


def _installed_services(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    from buildstep.assets.mark import services, versions

    top = _installed(context)
    yield from (service for service in services(top) if versions(top, service))


INSTALLED = callback(_installed_services)
"""Of an argument that is an installed service."""


def _installed_versions(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    from buildstep.assets.mark import versions

    # click leaves arguments alone while the value of an option is missing.
    service = context.params.get("service") or next(iter(context.args), "")
    yield from sorted(versions(_installed(context), service))


INSTALLED_VERSIONS = callback(_installed_versions)
"""Of an option that is an installed version of the argument `service`."""


def _forms(_context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    from buildstep.files.lists import LISTS

    yield from LISTS.names()


FORMS = callback(_forms)
"""Of an option that is a form of file list."""


def _stored(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    """Yield uuids and names of the images in the pool of the command line, without opening a session."""
    from buildstep.images.record import ImageRecord
    from buildstep.pool import choose, default_location, open_pool
    from buildstep.pool.layout import MARK
    from buildstep.spec import config as configs

    named = context.params.get("pool")
    pool = configs.load(os.environ, Path.cwd(), pool=str(named) if named else None).pool
    location = default_location(os.environ)
    if pool is None and os.geteuid() == 0 and not os.path.exists(location / "overlay" / MARK):
        pool = f"dir:{location}/dir"  # if any: to know whether overlays work one has to be mounted
    uri = choose(pool, os.environ).uri
    scheme, _, path = uri.partition(":")
    # What a user namespace made is the user's to read, but not to open as a pool.
    state = Path(path) / "state" if scheme in ("dir", "overlay") else open_pool(uri).state
    for file in sorted((state / "images").glob("*.json")):
        record = ImageRecord.read(file)
        yield from (f"{record.name}@{record.version}", record.name, record.uuid)


STORED = callback(_stored)
"""Of an argument that is an image in the store."""


def _references(context: click.Context, param: click.Parameter, begun: str) -> Iterator[str]:
    from buildstep.images.sources import SOURCES
    from buildstep.images.sources.suggestions import SUITES

    for name in SOURCES.names():
        yield {"scratch": "scratch", "docker": "docker://"}.get(name, f"{name}:")
    yield from (f"mmdebstrap:{suite}" for suite in SUITES)
    if begun.startswith("files:") and "#" not in begun:
        yield from (f"files:{name}" for name in _refs(context, param, begun))
    yield from _paths(begun)
    if ":" not in begun:
        yield from _stored(context, param, begun)


REFERENCES = callback(_references)
"""Of an option or argument that is a base image."""


def _importable(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    return (REFERENCES(context, param, begun) if begun else []) or FILES(context, param, begun)


IMPORTABLE = _importable
"""Of an argument that is a base image, or a file without a scheme."""


def _sides(context: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    named = [*REFS(context, param, begun), *STORED(context, param, begun)] if begun else []
    return named or FILES(context, param, begun)


SIDES = _sides
"""Of an argument that is one side of a comparison."""


def _targets(_context: click.Context, _param: click.Parameter, begun: str) -> Iterator[str]:
    from buildstep.spec import config as configs

    yield from ("docker://", "s3://", "https://", "dir:")
    yield from _paths(begun)
    yield from configs.load(os.environ, Path.cwd()).targets


TARGETS = callback(_targets)
SOURCES = callback(lambda _context, _param, begun: ("https://", "s3://", "dir:", *_paths(begun)))
OWNERS = callback(lambda *_: ("root:root", "keep"))


def _filters(_context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    from buildstep.net.imgapi import FILTERS

    yield from (f"{name}=" for name in FILTERS)


FILTERS = callback(_filters)
"""Of an argument KEY=VALUE that filters images."""


def _components(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    root = Path(str(context.params.get("root") or "."))
    yield from sorted(path.parent.name for path in root.glob("src/*/build") if path.is_dir())


COMPONENTS = callback(_components)
"""Of a value that is a component of the repository."""

MODES = callback(lambda _context, _param, _begun: ("k8s", "yarn", "all"))
"""Of a mode word: those of OpenPAI, any other may be one too."""


def _executors(_context: click.Context, _param: click.Parameter, _begun: str) -> Iterable[str]:
    from buildstep.components import EXECUTORS

    return EXECUTORS.names()


EXECUTORS = callback(_executors)
"""Of where jobs of components run."""


def _service_keys(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    from buildstep.cli.service_options import open_repository

    yield from open_repository(context.params.get("root"), strict=False).services


SERVICE_KEYS = callback(_service_keys)
"""Of a value that is the key of a service."""


def _service_states(*_: object) -> Iterable[str]:
    from buildstep.services.states import State

    return [state.value for state in State]


SERVICE_STATES = callback(_service_states)
"""Of a value that is the state of a service."""


def _service_templates(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    from buildstep.cli.service_options import open_repository

    opened = open_repository(context.params.get("root"), context.params.get("templates") or (), strict=False)
    yield from map(str, opened.templates)


SERVICE_TEMPLATES = callback(_service_templates)
"""Of a value that is a template of services."""
