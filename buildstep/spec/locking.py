"""Whether a build takes what the lock beside its m.json has, or why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from buildstep.errors import Fault, LockError, SpecError
from buildstep.formats.oci.spec import OciPlatform
from buildstep.spec import lock
from buildstep.spec.fields import BuildSpec


def asked(spec: BuildSpec) -> lock.Asked:
    """Return what a lock of this spec answers."""
    return lock.Asked(
        image=spec.image,
        packages=tuple(dict.fromkeys(spec.packages)),
        files={file.name: file.sha256 for file in spec.package_files},
        repositories=tuple(row.line for row in spec.installer_options.repositories),
        hold=tuple(sorted(set(spec.installer_options.hold))),
        upgrade_first=spec.upgrade_first,
        recommends=spec.installer_options.recommends,
        installer=spec.installer,
        platform=spec.platform or str(OciPlatform.here()),
    )


def path_for(spec: BuildSpec, cwd: Path, profiles: Sequence[str] = ()) -> Path | None:
    """Return where the lock of a spec is; None where its m.json is in no file. profiles: those chosen."""
    told = spec.platform and spec.origin_of["platform"] in ("flag", "environment")
    return lock.path_of(spec.source, cwd, [*profiles, *([spec.platform or ""] if told else [])])


def with_lock(
    spec: BuildSpec, environ: Mapping[str, str], cwd: Path, profiles: Sequence[str] = ()
) -> BuildSpec:
    """Return the spec with the lock beside its m.json, where it is to be used.

    One that does not fit is an error where it is demanded, and in CI, where nobody reads a warning. Raises
    LockError and SpecError.
    """
    if spec.locked is False or (path := path_for(spec, cwd, profiles)) is None:
        if spec.locked:
            message = "is asked for, and only an m.json in a file has a lock beside it"
            raise SpecError(spec.source, [Fault(where="--locked", message=message)])
        return spec
    found, again = lock.read(path), f"`buildstep lock {spec.source}` writes it"
    if found is None:
        if spec.locked:
            raise LockError(f"there is no lock {path}", hint=again)
        return spec
    if not (differences := found.asked.differences(asked(spec))):
        return dataclasses.replace(spec, lock=found)
    message = f"{path} is not about what {spec.source} asks for: {'; '.join(differences)}"
    if spec.locked or is_ci(environ):
        raise LockError(message, hint=f"{again} anew; --no-lock builds without it")
    return dataclasses.replace(spec, lock_problem=f"{message}; it is not used, and {again} anew")


def is_ci(environ: Mapping[str, str]) -> bool:
    """Whether this is a CI server's job: most set CI, Jenkins its own URL."""
    return environ.get("CI", "").lower() not in ("", "0", "false", "no") or "JENKINS_URL" in environ
