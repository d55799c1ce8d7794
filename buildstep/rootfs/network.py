"""The network of commands in an image: a loopback of their own, and a proxy on it that this process serves.

So nothing that runs in an image meets the host's loopback, its abstract sockets or its interfaces. The proxy
looks names up on the host, refuses the host itself, and goes through the host's own proxy, whose password
never enters the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from buildstep.events import Bus
from buildstep.rootfs.network_policy import Policy
from buildstep.rootfs.network_proxy import Contact, NetworkProxy
from buildstep.system.netns import NetworkNamespace

PORT = 3128
"""Of the proxy, in a namespace where nobody else is."""

_URL = f"http://127.0.0.1:{PORT}"

ENVIRONMENT: Final[Mapping[str, str]] = {
    **{name: _URL for lower in ("http_proxy", "https_proxy", "all_proxy") for name in (lower, lower.upper())},
    # Whatever a program believes to be near: there is nothing but the proxy.
    "no_proxy": "",
    "NO_PROXY": "",
}
"""What programs go by. apt and most others do, those that know only addresses have no network."""


class Network:
    """A network for the commands of one sandbox."""

    def __init__(self, policy: Policy, environ: Mapping[str, str], bus: Bus) -> None:
        """environ: the CI host's, for its own proxy. Raises SandboxError."""
        self._bus = bus
        self._told: set[Contact] = set()
        self.namespace = NetworkNamespace(PORT)
        self._proxy = NetworkProxy(self.namespace.listener, policy, environ)

    def prefix(self) -> tuple[str, ...]:
        """Return the command line that runs what follows it in this network. Raises ToolMissing."""
        return self.namespace.prefix()

    def tell(self) -> None:
        """Tell of the hosts that were contacted since the last time, each once."""
        while self._proxy.contacts:
            contact = self._proxy.contacts.popleft()
            if contact in self._told:
                continue
            self._told.add(contact)
            self._bus.count("hosts_refused" if contact.problem else "hosts_contacted")
            if contact.problem:
                self._bus.note(f"the network: {contact.wanted}: {contact.problem}", level="warning")
            else:
                self._bus.note(f"the network: {contact.wanted} was contacted", level="debug")

    def close(self) -> None:
        """End all connections."""
        self._proxy.close()
        self.namespace.close()
        self.tell()
