"""The walls around an image's programs, and whether each is in force on this machine.

One table for `buildstep doctor` and for docs/explanation/isolation.md. Most rows are read from what a command
sees that is run in the way of an image's, so that they tell how it is and not how it is meant.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from buildstep.build.doctor import attempts
from buildstep.build.doctor.findings import Examination
from buildstep.errors import BuildstepError
from buildstep.rootfs import limits
from buildstep.spec.fields import Limits
from buildstep.system import bubblewrap, cgroup, host, keyring, process, seccomp
from buildstep.system.private import OTHERS
from buildstep.system.userns import in_user_namespace

_OWN_INTERFACES = re.compile(r"lo|sit0|tunl0|ip6tnl0|gre0|gretap0|erspan0|ip_vti0|ip6_vti0|ip6gre0")
"""Those that the kernel puts into every network namespace; none leads anywhere."""

_CAPABILITY_NUMBERS = {
    "chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7,
    "net_bind_service": 10, "sys_chroot": 18, "mknod": 27, "audit_write": 29, "setfcap": 31,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Inside:
    """What a command in an image sees. status: of itself, by field; options: of the mount of its root;
    interfaces: of its network; problem: why nothing is known."""

    status: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wall:
    """One wall. keeps: what a script in the image cannot do for it; by: what makes it; look: return why it is
    not in force, or nothing; fix: what to do then."""

    name: str
    keeps: str
    by: str
    look: Callable[[Examination, Inside], str]
    fix: str


def _entered(_seen: Examination, inside: Inside) -> str:
    return inside.problem


def _option(name: str) -> Callable[[Examination, Inside], str]:
    def look(_seen: Examination, inside: Inside) -> str:
        return inside.problem or ("" if name in inside.options else f"the image's root is not mounted {name}")

    return look


def _no_new_privileges(_seen: Examination, inside: Inside) -> str:
    return inside.problem or ("" if inside.status.get("NoNewPrivs") == "1" else "no_new_privs is not set")


def _capabilities(_seen: Examination, inside: Inside) -> str:
    allowed = sum(1 << _CAPABILITY_NUMBERS[name] for name in bubblewrap.CAPABILITIES)
    # Permitted, not the bounding set: with no_new_privs a program that is started gets no more of that.
    more = int(inside.status.get("CapPrm", "0"), 16) & ~allowed
    return inside.problem or (f"there are more than listed, mask {more:x}" if more else "")


def _system_calls(_seen: Examination, inside: Inside) -> str:
    if inside.problem or inside.status.get("Seccomp") == "2":
        return inside.problem
    try:
        seccomp.program()
    except seccomp.Unavailable as error:
        return str(error)
    return "no filter is set"


def _processes(_seen: Examination, inside: Inside) -> str:
    pid = inside.status.get("Pid", "0")
    return inside.problem or ("" if int(pid) < 100 else f"its number is {pid}, which is the host's")


def _network(_seen: Examination, inside: Inside) -> str:
    others = [name for name in inside.interfaces if not _OWN_INTERFACES.fullmatch(name)]
    return inside.problem or (f"it has {', '.join(others)}" if others else "")


def _keys(_seen: Examination, _inside: Inside) -> str:
    """Try it in a process that is gone then."""
    return attempts.apart(lambda: "" if keyring.leave_session() else "the kernel gives no session keyring")


def _limited(name: str) -> Callable[[Examination, Inside], str]:
    def look(_seen: Examination, _inside: Inside) -> str:
        return "" if name in cgroup.places() else dict(limits.in_force(Limits()))[name]

    return look


def _pool(seen: Examination, _inside: Inside) -> str:
    state = seen.backend.state if seen.backend is not None else None
    if state is None or not state.exists():
        return ""  # the first build makes it, closed
    # One closed directory on the way is enough.
    modes = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in (state.parent, state)}
    if all(mode & OTHERS for mode in modes.values()):
        return " and ".join(f"{folder} has mode {mode:04o}" for folder, mode in modes.items())
    return ""


_CONTAINER = "where the agent is itself a container, give it CAP_SYS_ADMIN and CAP_MKNOD, or build as root"

WALLS = (
    Wall(
        name="host tree",
        keeps="read, write or reach any file or socket of the host",
        by="bubblewrap makes the clone the root of a mount namespace and detaches the host's tree",
        look=_entered,
        fix=_CONTAINER,
    ),
    Wall(
        name="devices",
        keeps="open a device: nodes can be made and are recorded, none is opened",
        by="the clone is mounted nodev; /dev is a private one with the usual few",
        look=_option("nodev"),
        fix=_CONTAINER,
    ),
    Wall(
        name="device group",
        keeps="open a device on another mount either",
        by="a rule of the device control group",
        look=_limited("devices"),
        fix="mount the devices controller, and build as root",
    ),
    Wall(
        name="setuid",
        keeps="gain rights by a setuid file",
        by="the clone is mounted nosuid",
        look=_option("nosuid"),
        fix=_CONTAINER,
    ),
    Wall(
        name="new privileges",
        keeps="gain rights by starting a program",
        by="no_new_privs",
        look=_no_new_privileges,
        fix=_CONTAINER,
    ),
    Wall(
        name="capabilities",
        keeps="mount, trace, set the clock, or do anything else of root's that is not listed below",
        by="an allow-list",
        look=_capabilities,
        fix=_CONTAINER,
    ),
    Wall(
        name="system calls",
        keeps="make the calls listed below, or namespaces of its own",
        by="a seccomp filter, made by libseccomp",
        look=_system_calls,
        fix="apt-get install libseccomp2",
    ),
    Wall(
        name="processes",
        keeps="see, trace or stop a process of the host, or leave one",
        by="a PID namespace for each command, ended with it",
        look=_processes,
        fix=_CONTAINER,
    ),
    Wall(
        name="network",
        keeps="reach or be reached by anything, the host's loopback and abstract sockets included",
        by="a network namespace for each command with a loopback of its own",
        look=_network,
        fix=_CONTAINER,
    ),
    Wall(
        name="keys",
        keeps="find the keys of whoever builds",
        by="a session keyring of the build's own, and the filter of system calls",
        look=_keys,
        fix="a kernel with keyrings, or one without any",
    ),
    Wall(
        name="processes limit",
        keeps="start so many processes that the host has none left",
        by="a pids control group",
        look=_limited("pids"),
        fix="delegate the pids controller to the agent (Delegate=yes in its unit), or build as root",
    ),
    Wall(
        name="memory limit",
        keeps="take so much memory that the host has none left",
        by="a memory control group",
        look=_limited("memory"),
        fix="delegate the memory controller to the agent (Delegate=yes in its unit), or build as root",
    ),
    Wall(
        name="pool",
        keeps="be found by other users of the host: setuid files, keys and lists in a pool",
        by="directories that only their owner may enter",
        look=_pool,
        fix="build with it: that closes it",
    ),
)


def in_force(seen: Examination) -> None:
    """Say of each wall whether it is in force here, and if not, why."""
    if not host.HERE.namespaces or (seen.spec is not None and not seen.runs):
        return  # no program of the image is run
    if not seen.root or None in map(process.find, host.HERE.tools):
        return  # told already
    inside = look_inside()
    for wall in WALLS:
        try:
            why = wall.look(seen, inside)
        except BuildstepError as error:
            why = error.message
        if why:
            seen.warn("walls", wall.name, f"not in force: {why}", wall.fix)
        else:
            seen.ok("walls", wall.name, wall.by)
    who = (
        "root of a user namespace"
        if in_user_namespace()
        else "root of the host, with the capabilities that are left"
    )
    seen.ok("walls", "root in the image", f"is {who}")


def look_inside() -> Inside:
    """Return what a command sees that is run as one in an image is."""
    try:
        text = attempts.apart(attempts.seen_inside)
    except BuildstepError as error:
        return Inside(problem=error.message)
    return parse(text)


def parse(text: str) -> Inside:
    """Read what `attempts.seen_inside` returned."""
    status, mounts, devices = text.split("\f")
    fields = (row.partition(":") for row in status.splitlines())
    roots = [row.split() for row in mounts.splitlines() if row.split()[4:5] == ["/"]]
    return Inside(
        status={name: value.strip() for name, _, value in fields},
        options=tuple(roots[-1][5].split(",")) if roots else (),
        interfaces=tuple(row.partition(":")[0].strip() for row in devices.splitlines() if ":" in row),
    )
