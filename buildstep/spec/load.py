"""Make one checked, frozen BuildSpec of flags, an m.json and the environment.

`load` changes nothing, and a spec that it returns has no fault that could be known before the build.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from buildstep.errors import Fault, SpecError
from buildstep.formats.oci import naming
from buildstep.formats.oci.spec import ARCHITECTURES, OciPlatform
from buildstep.spec import (
    accounts,
    check_rules,
    ignore_file,
    imgmanifest,
    locking,
    repositories,
    run_rules,
    schema,
    shared_cache,
    trust,
)
from buildstep.spec.document import Document
from buildstep.spec.fields import (
    OCI_FORMATS,
    BuildSpec,
    InstallerOptions,
    Origin,
    Secret,
    from_data,
    store_url,
    to_data,
)
from buildstep.spec.json_schema import SCHEMA_KEY, build_rule
from buildstep.spec.rules import PREFIX
from buildstep.spec.schema import at
from buildstep.spec.settings import SETTINGS, Choices, Setting
from buildstep.system.text import shown_path

__all__ = ["BuildSpec", "check_document", "load", "summary"]

_BOOLEANS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
DEFAULT_PROTO: Final = "proto"
"""The proto directory where none is named, if it is there."""
_MAX_BASENAME: Final = 200  # of the 255 bytes of a file name, the rest for the longest extension


class _Given(NamedTuple):
    """What a setting was given as, and where."""

    value: Any
    where: str
    origin: Origin


def load(
    document: Document,
    *,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    cwd: Path,
    choices: Choices,
) -> BuildSpec:
    """Return the checked spec of a build. Flags win over the document, it over the environment.

    flags: by name of setting, and `dir` beside `proto`, as both mean the same; None is not given, nor is
    an empty variable. Relative paths are relative to cwd, wherever they were given.
    Errors: SpecError with every fault found, each with the file that it is in; LockError for a lock that does
    not fit where it has to.
    """
    try:
        return _load(document, flags=flags, environ=environ, cwd=cwd, choices=choices)
    except SpecError as error:
        raise SpecError(error.source, document.placed(error.faults)) from None


def _load(
    document: Document,
    *,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    cwd: Path,
    choices: Choices,
) -> BuildSpec:
    assert flags.keys() <= SETTINGS.keys() | {"dir"}, flags.keys()
    source, value = document.source, document.value
    faults = [*document.faults, *check_document(value, choices)]
    if not isinstance(value, dict) or not isinstance(value.get("build", {}), dict):
        raise SpecError(source, faults)
    user, build = _user_part(value), value.get("build", {})
    given: dict[str, _Given] = {}
    for name, setting in SETTINGS.items():
        found = _find(setting, flags=flags, build=build, environ=environ)
        if found is None and name == "proto" and (cwd / DEFAULT_PROTO).is_dir():
            found = _Given(DEFAULT_PROTO, "PROTO", "default")
        if found is None:
            if setting.required:
                hint = f"or $.build.{name}, or {setting.env}"
                faults.append(Fault(where=setting.option, message="is required", hint=hint))
            continue
        wrong = schema.check(found.value, setting.rule_for(choices), found.where)
        if not wrong:
            given[name] = found
        elif found.origin != "file":  # check_document has checked those of the file
            faults += wrong
    folder = document.folder or cwd
    faults += _relations(given, flags, cwd)
    faults += _run_faults(given, folder, environ)
    faults += _ignore(given, cwd)
    faults += _file_faults(given, folder, cwd)
    faults += _platform_faults(user, given)
    faults += trust.faults(given, folder, cwd)
    faults += _file_name_faults(user, given)
    if faults:
        raise SpecError(source, faults)
    spec = _spec(user, given, source, cwd)
    spec = dataclasses.replace(
        spec,
        installer_options=_with_keys(spec.installer_options, folder),
        package_files=repositories.files_of(spec.packages, _folder_of(given.get("packages"), folder, cwd)),
        run=run_rules.with_scripts(spec.run, folder),
        checks=check_rules.with_files(spec.checks, folder),
        secrets=_placed(spec.secrets, folder),
        cache=shared_cache.placed(spec.cache, folder) if isinstance(spec.cache, Mapping) else spec.cache,
        proof=trust.settled(given, folder, cwd),
    )
    return locking.with_lock(spec, environ, cwd, document.profiles)


def check_document(document: object, choices: Choices) -> list[Fault]:
    """Return every fault of an m.json by itself, of the manifest's part and of `build`; never raises."""
    if not isinstance(document, dict):
        return schema.check(document, {"type": "object"}, "$")
    faults = imgmanifest.validate_user(_user_part(document), beside=("build",))
    for name, rule in {"$schema": SCHEMA_KEY, "build": build_rule(choices)}.items():
        if name in document:
            faults += schema.check(document[name], rule, at("$", name))
    return [_with_place(fault) for fault in faults]


def _user_part(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in ("$schema", "build")}


def _with_place(fault: Fault) -> Fault:
    """Add where a setting belongs that stands beside `build` instead of in it."""
    name = fault.where.removeprefix("$.")
    if name not in SETTINGS or not SETTINGS[name].in_file:
        return fault
    return dataclasses.replace(fault, hint=f"it belongs to $.build.{name}")


def summary(spec: BuildSpec) -> list[tuple[str, str, Origin]]:
    """Return each setting's name, its value as text, and where it came from."""
    values = {name: to_data(getattr(spec, name)) for name in SETTINGS}
    return [
        (name, value if isinstance(value, str) else json.dumps(value), spec.origin_of[name])
        for name, value in values.items()
    ]


# Finding what was given.


def _find(
    setting: Setting, *, flags: Mapping[str, object], build: Mapping[str, object], environ: Mapping[str, str]
) -> _Given | None:
    """Return what a setting was given as, in the place that wins."""
    name = setting.name
    flag, where = flags.get(name), setting.option or name
    if name == "proto":
        flag, where = (flags.get("dir"), "--dir") if flag is None else (flag, "PROTO")
    if flag not in (None, (), []):
        return _Given(_from_text(flag, setting), where, "flag")
    if setting.in_file and name in build:
        return _Given(build[name], f"$.build.{name}", "file")
    if environ.get(setting.env):
        return _Given(_from_text(environ[setting.env], setting), setting.env, "environment")
    return None


def _from_text(value: object, setting: Setting) -> object:
    """Return the value that a flag or a variable stands for, by the kind of its setting.

    Text that is no such value is returned unchanged: the rule then says what it should be.
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [word for part in value for word in (_split(part) if setting.commas else [part])]
    return _parse(value, setting) if isinstance(value, str) else value


def _parse(value: str, setting: Setting) -> object:
    if {"[": "array", "{": "object"}.get(value[:1]) in setting.types:
        with contextlib.suppress(SpecError):
            return schema.parse(value, "")
        return value
    match setting.kind:
        case "array":
            return _split(value) if setting.commas else [value]
        case "boolean":
            return _BOOLEANS.get(value.lower(), value)
        case "integer" if re.fullmatch("-?[0-9]{1,18}", value):
            return int(value)
    return value


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",")]


# Checking it.


def _relations(given: Mapping[str, _Given], flags: Mapping[str, object], cwd: Path) -> Iterator[Fault]:
    """Yield faults between settings, and of settings that name something on this machine."""
    if proto := given.get("proto"):
        path = cwd / proto.value
        if wrong := _no_directory(path):
            yield Fault(where=proto.where, message=f"{shown_path(os.fsencode(path))} {wrong}")
        other = flags.get("dir")
        if proto.origin == "flag" and other is not None and cwd / str(other) != path:
            message = f"the proto directory is given twice: {proto.value} and {other}"
            yield Fault(where=proto.where, message=message)
    if output := given.get("output_dir"):
        path = cwd / output.value
        if os.path.exists(path) and not os.path.isdir(path):
            yield Fault(where=output.where, message=f"{path} is not a directory")
    if (motd := given.get("motd")) and motd.value and "source_repo" not in given:
        hint = "give -S, $.build.source_repo or BUILDSTEP_SOURCE_REPO"
        yield Fault(where=motd.where, message="needs a source repository to name", hint=hint)
    formats = given["formats"].value if "formats" in given else BuildSpec.formats
    if (ref := given.get("ref")) and OCI_FORMATS & set(formats):
        try:
            naming.image_name("", "", ref.value)
        except ValueError as error:
            yield Fault(where=ref.where, message=str(error), hint="such as team/web or team/web:1.2")
    yield from accounts.faults(
        *(
            (given[name].where, given[name].value) if name in given else (name, empty)
            for name, empty in (("users", ()), ("groups", ()), ("units", {}))
        )
    )
    if clean := given.get("clean"):
        dropped = [name for name in clean.value if name.startswith("-")]
        if dropped and len(dropped) < len(clean.value):
            message = "names cleaners to run and cleaners to leave out; it can only be one of them"
            yield Fault(where=clean.where, message=message)


def _run_faults(given: Mapping[str, _Given], folder: Path, environ: Mapping[str, str]) -> Iterator[Fault]:
    """Yield faults of commands, of secrets, and of who names these."""
    run, secrets = given.get("run"), given["secrets"].value if "secrets" in given else {}
    where = run.where if run else "$.build.run"
    yield from run_rules.faults(run.value if run else (), secrets, where, folder, environ)
    options = given.get("installer_options")
    for index, name in enumerate(options.value.get("secrets", ()) if options else ()):
        if options and name not in secrets:
            place = at(at(options.where, "secrets"), index)
            yield Fault(where=place, message=f"there is no secret {name}", hint=schema.near(name, secrets))


def _file_faults(given: Mapping[str, _Given], folder: Path, cwd: Path) -> Iterator[Fault]:
    """Yield faults of repositories, of packages that are files, and of checks: all may name files."""
    if checks := given.get("checks"):
        yield from check_rules.faults(checks.value, checks.where, folder)
    if options := given.get("installer_options"):
        rows = options.value.get("repositories", ())
        yield from repositories.faults(rows, at(options.where, "repositories"), folder)
    if packages := given.get("packages"):
        yield from repositories.file_faults(packages.value, packages.where, _folder_of(packages, folder, cwd))


def _folder_of(given: _Given | None, folder: Path, cwd: Path) -> Path:
    """Return what a path is relative to: the m.json that has it, else where the command runs."""
    return folder if given is not None and given.origin == "file" else cwd


def _with_keys(options: InstallerOptions, folder: Path) -> InstallerOptions:
    """Return the options with the keys of repositories, not their files' names."""
    return dataclasses.replace(options, repositories=repositories.with_keys(options.repositories, folder))


def _placed(secrets: Mapping[str, Secret], folder: Path) -> dict[str, Secret]:
    """Return the secrets with absolute paths of their files."""
    return {
        name: dataclasses.replace(secret, file=os.path.abspath(folder / os.path.expanduser(secret.file)))
        if secret.file
        else secret
        for name, secret in secrets.items()
    }


def _ignore(given: dict[str, _Given], cwd: Path) -> Sequence[Fault]:
    """Add what the file beside the proto directory leaves out; return what is wrong with that file."""
    if "proto" not in given:
        return ()
    ignored = ignore_file.read(Path(os.path.abspath(cwd / given["proto"].value)))
    if ignored.patterns:
        named = given.get("exclude", _Given([], "$.build.exclude", "file"))
        given["exclude"] = named._replace(value=[*named.value, *ignored.patterns])
    return ignored.faults


def _no_directory(path: Path) -> str:
    """Return why a path is no directory; empty if it is one."""
    try:
        return "" if stat.S_ISDIR(os.stat(path).st_mode) else "is not a directory"
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be looked at: {getattr(error, 'strerror', '') or error}"


def _platform_faults(user: Mapping[str, Any], given: Mapping[str, _Given]) -> Iterator[Fault]:
    """Yield faults of a platform that there is none of, or that the rest of an m.json contradicts."""
    if (found := given.get("platform")) is None:
        return
    system, _, processor = found.value.partition("/")
    name = processor.partition("/")[0]
    if name not in ARCHITECTURES:
        meant = OciPlatform.of_machine(name)
        hint = f"it is {meant}" if meant.architecture in ARCHITECTURES else f"{', '.join(ARCHITECTURES)}"
        yield Fault(where=found.where, message=f"{name!r} is no architecture in OCI's words", hint=hint)
    if system != "linux" or user.get("os", "linux") not in ("linux", "other"):
        message = f"{found.value} is not what {user.get('os', 'linux')} runs on"
        yield Fault(where=found.where, message=message, hint="platforms are for images of linux")
    label = dict(given["oci"].value).get("architecture") if "oci" in given else None
    if label and label != processor:
        message = f"$.build.oci.architecture says {label}, and the platform is {found.value}"
        yield Fault(where=found.where, message=message, hint="one of the two is enough")


def _file_name_faults(user: Mapping[str, Any], given: Mapping[str, _Given]) -> Iterator[Fault]:
    """Yield faults of a name or version that a manifest allows, but a file name does not."""
    name, version = user.get("name"), user.get("version")
    if isinstance(version, str) and "/" in version:
        yield Fault(where="$.version", message='is part of file names and cannot hold a "/"')
    prefix = given["image_prefix"].value if "image_prefix" in given else name
    if not isinstance(prefix, str) or not isinstance(version, str):
        return
    if "image_prefix" not in given and schema.check(prefix, PREFIX, ""):
        hint = "give another with -P or $.build.image_prefix"
        yield Fault(where="$.name", message="cannot be the start of a file name", hint=hint)
    if len(f"{prefix}-{version}".encode(errors="replace")) > _MAX_BASENAME:
        message = f"{prefix[:20]}...-{version[:20]}... is too long for a file name"
        yield Fault(where="$.version", message=message, hint=f"{_MAX_BASENAME} bytes are possible")


def _spec(user: Mapping[str, Any], given: Mapping[str, _Given], source: str, cwd: Path) -> BuildSpec:
    name, version = user["name"], user["version"]
    values = {key: from_data(key, found.value) for key, found in given.items()}
    values.setdefault("image_prefix", name)
    # A name may hold slashes and dots, and must not lead out of bits/.
    folder = values["image_prefix"] if schema.check(name, PREFIX, "") else name
    values.setdefault("output_dir", Path("bits", folder))
    for key in ("proto", "output_dir"):
        values[key] = Path(os.path.abspath(cwd / values[key]))
    if "store" in values:
        values["store"] = store_url(values["store"], cwd)
    origins: dict[str, Origin] = {key: given[key].origin if key in given else "default" for key in SETTINGS}
    return BuildSpec(name=name, version=version, source=source, manifest=user, origin_of=origins, **values)
