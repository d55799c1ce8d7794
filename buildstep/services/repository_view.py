"""The services of a repository, as the life cycle sees them, and the places where each of them runs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from buildstep.errors import SpecError
from buildstep.services.delivery import Delivering, Delivery
from buildstep.services.facts import facts_of, machine_of, secrets_of
from buildstep.services.inputs import has_key, tagger
from buildstep.services.interface import Facts, Place, ServiceError, Side, Where
from buildstep.services.relations import relations
from buildstep.services.removal import remove
from buildstep.services.repository import Repository, Service
from buildstep.services.services_view import Subject

STATE: Final = ".buildstep"
"""The directory below the root of a repository that holds what must not be shared, such as the key."""

RECORDS: Final = "records"
"""The directory in it with what the actions of the management side have completed."""


class RepositoryView:
    """See `services_view.ServicesView`.

    environ: of this command, for secrets and for OpenSSH; secret: whether all secrets must be there, and it
    is found out what is delivered, as where services are installed; else secrets that are not there are left
    out.
    """

    def __init__(self, repository: Repository, environ: Mapping[str, str], *, secret: bool = True) -> None:
        self._repository, self._environ, self._secret = repository, environ, secret
        self._places: dict[str, Place] = {}
        self._lock = threading.RLock()
        self._delivery = Delivery(environ)

    def needs(self) -> Mapping[str, Collection[str]]:
        found = relations(self._repository)
        found.levels()  # names a circle, member by member, with the reasons
        return found.needs

    def folder(self, key: str) -> Path:
        """Return the directory of a service."""
        return self._repository.services[key].folder.absolute()

    def subject(self, key: str) -> Subject:
        with self._lock:
            service = self._repository.services[key]
            found = Subject(
                facts=facts_of(self._repository, service),
                folder=service.folder.absolute(),
                place=self.place(key, Side.NODE).describe(),
                secrets=self._secrets(service),
            )
            return self._delivery.told(found, machine_of(service)) if self._secret else found

    def _secrets(self, service: Service) -> Mapping[str, str]:
        try:
            return secrets_of(self._repository, service, self._environ)
        except SpecError:
            if self._secret:
                raise
            return {}

    def place(self, key: str, side: Side) -> Place:
        with self._lock:
            service = self._repository.services[key]
            node = service if service.id.role == "node" else service.node
            name = "" if side is not Side.NODE else ("here" if node is None else node.key)
            if name not in self._places:
                self._places[name] = self._made(side, node)
            return self._places[name]

    def _made(self, side: Side, node: Service | None) -> Place:
        from buildstep.services import PLACES

        if side is not Side.NODE:
            # Beside the services: those of another repository on this machine may have the same keys.
            records = self._repository.root.absolute() / STATE / RECORDS
            return PLACES["mgmt"](Where(state=records, environ=self._environ))
        kind = "node" if node is None else node.id.name.partition(".")[2] or "node"
        maker = PLACES.find(kind)
        if maker is None:
            raise ServiceError(
                f"{node}: no place has the name {kind!r}",
                hint=f"a template of a node is called node, or node.PLACE: {PLACES.hint(kind)}",
            )
        address = "" if node is None else address_of(kind, facts_of(self._repository, node))
        where = Where(address=address, environ=self._environ, owner=self._owner)
        return Delivering(maker(where), self._delivery)

    def _owner(self) -> str:
        """Return by what a node tells this repository from others: a tag that its key alone makes, and where
        it is. It stays the same in a repository that is moved."""
        state = self._repository.root / STATE
        if not has_key(state):
            return ""
        return f"{tagger(state)('owner', '')} {socket.gethostname()}:{self._repository.root.absolute()}"

    def store(self, key: str, values: Mapping[str, Any]) -> None:
        with self._lock:
            self._repository.services[key].set(values)

    def remove(self, key: str) -> None:
        with self._lock:
            remove(self._repository, [self._repository.services[key]], force=True)

    def close(self) -> None:
        for place in self._places.values():
            place.close()


def address_of(kind: str, facts: Facts) -> str:
    """Return the address of a node, as its place wants it, from the values of its service.

    ssh: `node.tcp.addr`, `ssh.port` and `login`, as AYS has them. image: `image.root`, a directory. Raises
    ServiceError for a node that does not say where it is.
    """
    values = facts.values
    if kind == "image":
        if root := str(values.get("image.root") or ""):
            return root
        raise ServiceError(f"{facts.key} does not say where its root is", hint="set image.root")
    if kind != "ssh":
        return str(values.get("node.address") or "")
    host = str(values.get("node.tcp.addr") or values.get("tcp.addr") or "")
    if not host:
        raise ServiceError(f"{facts.key} does not say where it is", hint="set node.tcp.addr")
    login, port = str(values.get("login") or ""), str(values.get("ssh.port") or "")
    shown = f"[{host}]" if ":" in host else host
    return f"ssh://{login + '@' if login else ''}{shown}{':' + port if port else ''}"
