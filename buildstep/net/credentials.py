"""User and password for a registry or web server: of the environment, or of what `docker login` wrote."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from buildstep.errors import UsageError

HUB = "docker.io"
HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    user: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"

    def header(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def credentials_for(
    host: str, environ: Mapping[str, str], *, service: str = "REGISTRY"
) -> Credentials | None:
    """Return BUILDSTEP_REGISTRY_USER and _PASSWORD, else what `docker login` wrote; None without either.

    The password of the environment is for BUILDSTEP_REGISTRY_HOST if that is set, else for any host. service:
    the word in these names for another service than a registry.
    Raises UsageError for a file that cannot be read as credentials. Its format: docker's config.json.
    """
    user = environ.get(f"BUILDSTEP_{service}_USER", "")
    if user and environ.get(f"BUILDSTEP_{service}_HOST", host) == host:
        return Credentials(user=user, password=environ.get(f"BUILDSTEP_{service}_PASSWORD", ""))
    home, runtime = environ.get("HOME", ""), environ.get("XDG_RUNTIME_DIR", "")
    docker = environ.get("DOCKER_CONFIG") or (f"{home}/.docker" if home else "")
    files = [
        environ.get("REGISTRY_AUTH_FILE", ""),
        f"{runtime}/containers/auth.json" if runtime else "",
        f"{docker}/config.json" if docker else "",
    ]
    names = [host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/", f"http://{host}"]
    if host == HUB:
        names += ["index.docker.io", "https://index.docker.io/v1/", HUB_HOST]
    for file in filter(None, files):
        try:
            auths = json.loads(Path(file).read_bytes()).get("auths", {})
        except OSError:
            continue
        except (ValueError, AttributeError) as error:
            raise UsageError(f"{file} is not a file of registry credentials") from error
        for name in names:
            entry = auths.get(name) if isinstance(auths, dict) else None
            if isinstance(entry, dict) and entry.get("auth"):
                return _decoded(str(entry["auth"]), file)
    return None


def _decoded(auth: str, file: str) -> Credentials:
    try:
        user, _, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except ValueError as error:
        raise UsageError(f"{file} has credentials that cannot be decoded", hint="log in again") from error
    return Credentials(user=user, password=password)
