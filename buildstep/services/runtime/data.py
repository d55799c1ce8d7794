"""The data of a service: the directories that its `data.dirs` names, packed, put back, removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import time
from typing import Any

from buildstep.services.runtime.answers import Failure
from buildstep.services.runtime.records import sync_folder
from buildstep.services.runtime.service import Service

KEY = "data.dirs"

_SUFFIX = ".tar.gz"


def folders_of(service: Service) -> list[str]:
    """Return the directories of a service's data. Raises Failure for one that cannot be meant."""
    value = service.get(KEY, [])
    named = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    found = [os.path.normpath(str(one)) for one in named if str(one)]
    for path in found:
        # Nobody keeps data in /var or /home itself, and a slip of the pen must not remove it.
        if not os.path.isabs(path) or len(path.strip("/").split("/")) < 2 or ".." in path.split("/"):
            raise Failure(f"{KEY}: {path} is no directory of data; give one at least two levels below /")
        if os.path.realpath(path) != path and os.path.islink(path):
            raise Failure(f"{KEY}: {path} is a link; give the directory itself")
    return found


def remove(service: Service) -> list[str]:
    """Remove the directories; return those that were there."""
    removed = []
    for path in folders_of(service):
        if os.path.isdir(path):
            with _failing():
                shutil.rmtree(path)
            removed.append(path)
    return removed


def pack(service: Service) -> str:
    """Pack the directories; return the name of what was made, in the service's records."""
    folders = folders_of(service)
    if not folders:
        raise Failure(f"{service.key} does not say where its data is: set {KEY} in its template")
    missing = [path for path in folders if not os.path.isdir(path)]
    if missing:
        raise Failure(f"there is no {', '.join(missing)}")
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    above = service.records.make("exports")
    new = os.path.join(above, f".new{_SUFFIX}")
    with _failing():
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                with tarfile.open(fileobj=file, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
                    for path in folders:
                        archive.add(path, arcname=path.lstrip("/"))
                file.flush()
                os.fsync(file.fileno())
            name, final = _free(above, name)
            os.rename(new, final)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        sync_folder(above)
    return name


def _free(above: str, name: str) -> tuple[str, str]:
    number, text = 1, name
    while os.path.exists(os.path.join(above, text + _SUFFIX)):
        number += 1
        text = f"{name}-{number}"
    return text, os.path.join(above, text + _SUFFIX)


def unpack(service: Service, name: str) -> bool:
    """Put back what was packed, in place of what is there. What is there now is kept until the end."""
    folders = folders_of(service)
    above = service.records.path("exports")
    path = os.path.join(above, os.path.basename(name) + _SUFFIX)
    if not name or not os.path.isfile(path):
        known = sorted(one[: -len(_SUFFIX)] for one in os.listdir(above)) if os.path.isdir(above) else []
        raise Failure(f"there is no export {name!r}; there is {', '.join(known) or 'none'}")
    with _failing(), tarfile.open(path) as archive:
        members = archive.getmembers()
        _check(members, folders)
        aside = {folder: f"{folder}.buildstep-old" for folder in folders}
        for folder, old in aside.items():
            if not os.path.lexists(old) and os.path.lexists(folder):
                os.rename(folder, old)  # one that is there is of a call that was killed: it is the older
            elif os.path.isdir(folder):
                shutil.rmtree(folder)
        archive.extractall(  # noqa: S202 - checked above
            "/", members=members, numeric_owner=True, **_as_packed()
        )
        for old in aside.values():
            if os.path.lexists(old):
                shutil.rmtree(old)
    return True


def _check(members: list[tarfile.TarInfo], folders: list[str]) -> None:
    """Refuse an archive that has anything outside the directories."""
    inside = [folder.lstrip("/") for folder in folders]
    for member in members:
        name = os.path.normpath(member.name)
        if not any(name == folder or name.startswith(f"{folder}/") for folder in inside):
            raise Failure(f"the export has /{name}, which is outside of {KEY}")


def _as_packed() -> dict[str, Any]:
    # It is our own archive, of data that may have modes and links that a filter would change.
    return {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}


@contextlib.contextmanager
def _failing() -> Any:
    try:
        yield
    except (OSError, tarfile.TarError) as error:
        raise Failure(f"{getattr(error, 'filename', None) or KEY}: {error}") from None
