"""Files that differ from build to build."""

from __future__ import annotations

import stat
from collections.abc import Mapping

from buildstep.rootfs.glob import matches
from buildstep.system.root import Root

ENTROPY: Mapping[str, str] = {
    "/etc/ssh/ssh_host_*_key": "a key made at install time (the cleaner ssh-host-keys removes it)",
    "/etc/ssh/ssh_host_*_key.pub": "of a key made at install time (the cleaner ssh-host-keys removes it)",
    "/etc/ssl/private/ssl-cert-snakeoil.key": "a key made at install time by ssl-cert",
    "/etc/ssl/certs/ssl-cert-snakeoil.pem": "a certificate made at install time by ssl-cert",
    "/etc/ssl/certs/java/cacerts": "a Java key store, which dates its entries",
    "/etc/bind/rndc.key": "a key made at install time by bind9",
    "/etc/hostid": "a random host id",
    "/etc/iscsi/initiatorname.iscsi": "a random initiator name",
    "/etc/nvme/hostnqn": "a random host name of NVMe",
    "/etc/nvme/hostid": "a random host id of NVMe",
    "/etc/pki/tls/private/localhost.key": "a key made at install time by mod_ssl",
    "/etc/pki/tls/certs/localhost.crt": "a certificate made at install time by mod_ssl",
    "/etc/mysql/debian.cnf": "a password made at install time",
    "/etc/salt/pki/minion/minion.pem": "a key made by salt",
    "/var/lib/tor/keys/*": "a key made by tor",
    "/var/lib/snmp/snmpd.conf": "a random engine id",
    "/etc/unbound/unbound_server.key": "a key made at install time by unbound",
    "/etc/dropbear/dropbear_*_host_key": "a key made at install time (dropbear)",
    "/etc/machine-id": "a random machine id (the cleaner machine-id empties it)",
    "/var/lib/dbus/machine-id": "a random machine id (the cleaner machine-id removes it)",
    "/var/lib/systemd/random-seed": "a random seed (the cleaner random-seed removes it)",
    "/var/lib/NetworkManager/secret_key": "a key made at install time by NetworkManager",
    "/var/lib/postgresql/*/*/global/pg_control": "a database cluster with an id of its own",
    "/var/lib/mysql/auto.cnf": "a database with an id of its own",
    "/var/lib/mysql/ibdata1": "a database made at install time",
    "/var/cache/man/index.db": "an index whose order is not fixed (the cleaner man-cache removes it)",
    "/var/cache/ldconfig/aux-cache": "inode numbers and times (the cleaner ldconfig-cache removes it)",
    "/var/cache/fontconfig/*": "a cache keyed by times",
}
"""Files that are known to differ from build to build, by pattern, and why."""


def entropy(root: Root) -> list[tuple[str, str]]:
    """Return the files in the root that are known to differ from build to build, and why."""
    found = []
    for pattern, why in ENTROPY.items():
        for path in matches(root, pattern):
            status = root.lstat(path)
            if status is not None and stat.S_ISREG(status.st_mode) and status.st_size:
                found.append((path, why))
    return found
