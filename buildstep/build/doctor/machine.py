"""Who we are, what is installed, and what the kernel allows."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable

from buildstep import emit
from buildstep.build.doctor import attempts
from buildstep.build.doctor.findings import Examination
from buildstep.build.plan import takes_in_place
from buildstep.errors import BuildstepError, ExitCode, SandboxError, ToolMissing
from buildstep.formats import codecs
from buildstep.rootfs import limits
from buildstep.spec.fields import Limits
from buildstep.system import host as platforms
from buildstep.system import process, seccomp, userns
from buildstep.system.tools import getting


def privileges(seen: Examination) -> None:
    """Whether this user may do what the build does."""
    if seen.root:
        who = "root of a user namespace" if userns.in_user_namespace() else "root"
        seen.ok("privileges", who, "may mount and set owners")
        return
    base = seen.spec.image if seen.spec is not None else ""
    if not seen.runs and not base.startswith("mmdebstrap:"):
        who = "root that may not mount" if os.geteuid() == 0 else "not root"
        seen.ok("privileges", "user", f"{who}; without packages and commands that is enough")
        return
    lacks = userns.lacks()
    for what, fix in lacks:
        code, also = (ExitCode.TOOL_MISSING, "; or run as root") if os.geteuid() else (ExitCode.SANDBOX, "")
        seen.fail("privileges", "user namespace", what, f"{fix}{also}", code)
    if not lacks:
        seen.ok("privileges", "user namespace", "can be had")


def tools(seen: Examination) -> None:
    """Programs and codecs that this build needs, and their versions."""
    seen.ok("tools", "python", f"{platform.python_version()} at {sys.executable}")
    spec = seen.spec
    surely = spec is not None and not takes_in_place(spec)
    _tool(seen, "rsync", needed=surely, why="lays the proto directory on the root")
    if spec is None or spec.image.startswith("mmdebstrap:"):
        known = spec is not None and seen.image is not None
        _tool(seen, "mmdebstrap", needed=spec is not None and not known, why="makes Debian base images")
    if seen.runs:
        for name in platforms.HERE.tools:
            _tool(seen, name, needed=True, why="enters the image")
    _codecs(seen)


def _tool(seen: Examination, name: str, *, needed: bool, why: str) -> None:
    path = process.find(name)
    if path is None:
        what = f"is not installed; it {why}"
        fix = getting(name)
        if needed:
            seen.fail("tools", name, what, fix, ExitCode.TOOL_MISSING)
        else:
            seen.warn("tools", name, what, fix)
        return
    said = _said_of_itself(name)
    seen.ok("tools", name, f"{_version(said)} at {path}")
    if name == "rsync" and (lacks := _rsync_lacks(said)):
        seen.warn(
            "tools",
            name,
            f"was built without {', '.join(lacks)}: they are lost",
            "install the distribution's rsync",
        )


def _said_of_itself(name: str) -> str:
    """Return what a tool says of its version; nothing where it says nothing, or not in time."""
    try:
        return process.query([name, "--version"], ok=range(256)).stdout
    except (BuildstepError, OSError):
        return ""


def _version(said: str) -> str:
    found = re.search(r"\d+(\.\d+)+\S*", said)
    return found[0].rstrip(",)") if found else "a version it does not tell"


def _rsync_lacks(said: str) -> list[str]:
    asked = [("ACLs", "--acls"), ("xattrs", "--xattrs")]
    return [
        name for name, flag in asked if flag in platforms.HERE.rsync and re.search(rf"\bno {name}\b", said)
    ]


def _codecs(seen: Examination) -> None:
    names = {emit.codec_of(seen.spec, name) for name in seen.spec.formats} if seen.spec else {"gzip", "zstd"}
    for name in sorted(names):
        try:
            ident = codecs.codec(name).ident
        except ToolMissing as error:
            if seen.spec is not None:
                seen.error("tools", f"codec {name}", error)
            else:
                seen.warn("tools", f"codec {name}", error.message, error.hint)
            continue
        if name == "gzip" and ident.startswith("zlib"):
            seen.warn(
                "tools",
                "codec gzip",
                f"{ident}; libdeflate is several times faster",
                "pip install buildstep[fast]",
            )
        else:
            seen.ok("tools", f"codec {name}", ident)


# -- the kernel ----------------------------------------------------------------------------------------------


def kernel(seen: Examination) -> None:
    """What the kernel allows, by trying."""
    if not sys.platform.startswith("linux"):
        seen.ok(
            "kernel", platform.system(), f"{platform.release()}: no namespaces here, mounts are journaled"
        )
        return
    if not seen.root:
        return  # a build without root makes none of these
    tries: list[tuple[str, Callable[[], str], int]] = [
        ("namespaces", lambda: "mount, PID, IPC, UTS", ExitCode.SANDBOX)
    ]
    if seen.runs:
        tries += [
            ("devices", attempts.devices, ExitCode.SANDBOX),
            ("commands in an image", attempts.command_chain, ExitCode.SANDBOX),
        ]
    for where, job, code in tries:
        if where == "commands in an image" and None in map(process.find, platforms.HERE.tools):
            continue  # told already
        try:
            value = attempts.apart(job)
        except SandboxError as error:
            fix = error.hint or "where the agent is itself a container, give it CAP_SYS_ADMIN and CAP_MKNOD"
            seen.fail("kernel", where, error.message, fix, code)
            if where == "namespaces":
                return
        else:
            seen.ok("kernel", where, value or "as a build needs them")
    if seen.runs:
        try:
            seccomp.program()
        except seccomp.Unavailable as error:
            what = f"are not filtered: {error}; the other walls stand"
            seen.warn("kernel", "system calls", what, "apt-get install libseccomp2")
        else:
            seen.ok("kernel", "system calls", "filtered, as container engines do")


def command_limits(seen: Examination) -> None:
    """What a command in the image may take, and how that is kept on this machine."""
    if not platforms.HERE.namespaces or (seen.spec is not None and not seen.runs):
        return
    asked = seen.spec.limits if seen.spec is not None else Limits()
    for name, how in limits.in_force(asked.or_else(seen.config.limits)):
        seen.ok("limits", name, how)
