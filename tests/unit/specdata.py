"""A small m.json, and a row of values for each setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from buildstep.errors import SpecError
from buildstep.spec.accounts import Group, Units, User
from buildstep.spec.fields import (
    BuildSpec,
    InstallerOptions,
    Limits,
    OciConfig,
    RunCommand,
    RunOptions,
    Secret,
    Timeouts,
)
from buildstep.spec.settings import Choices

CHOICES = Choices(
    installers=("apt", "apk", "pkgsrc"),
    formats=("oci", "tar", "zfs", "btrfs"),
    cleaners=("package-cache", "logs", "tmp"),
)
GOOD: dict[str, Any] = {"name": "hello", "version": "1.0.0", "build": {"image": "scratch", "proto": "proto"}}

Load = Callable[..., BuildSpec]


def with_build(**more: Any) -> dict[str, Any]:
    return GOOD | {"build": GOOD["build"] | more}


def faults(call: Load, document: object = GOOD, **more: Any) -> dict[str, str]:
    """The faults of a load that has to fail: place to text."""
    with pytest.raises(SpecError) as caught:
        call(document, **more)
    found = {fault.where: str(fault) for fault in caught.value.faults}
    assert len(found) == len(caught.value.faults), "a place is told once"
    return found


# One row per setting: flag, file, variable, and what each becomes.
GIVEN: dict[str, tuple[Any, Any, str, Any, Any, Any]] = {
    "image": ("a@1", "b@2", "c@3", "a@1", "b@2", "c@3"),
    "platform": (
        "linux/arm64",
        "linux/arm/v7",
        "linux/amd64",
        "linux/arm64",
        "linux/arm/v7",
        "linux/amd64",
    ),
    "packages": ("a,b", ["c"], "d, e", ("a", "b"), ("c",), ("d", "e")),
    "installer": ("apt", "apk", "pkgsrc", "apt", "apk", "pkgsrc"),
    "installer_options": (
        {"recommends": True},
        {"env": {"A": "b"}},
        '{"mirror": "http://m"}',
        InstallerOptions(recommends=True),
        InstallerOptions(env={"A": "b"}),
        InstallerOptions(mirror="http://m"),
    ),
    "run": (
        ("a, b", "c"),
        ["a", ["b", "c"]],
        '["d", ["e"]]',
        (RunCommand(script="a, b"), RunCommand(script="c")),
        (RunCommand(script="a"), RunCommand(argv=("b", "c"))),
        (RunCommand(script="d"), RunCommand(argv=("e",))),
    ),
    "run_options": (
        {"network": True},
        {"env": {"A": "b"}},
        "{}",
        RunOptions(network=True),
        RunOptions(env={"A": "b"}),
        RunOptions(),
    ),
    "secrets": (
        {"a": {"file": "/etc/passwd"}},
        {"b": {"file": "/etc/passwd", "variable": "B"}},
        '{"c": {"file": "/etc/passwd", "mode": "0640"}}',
        {"a": Secret(file="/etc/passwd")},
        {"b": Secret(file="/etc/passwd", variable="B")},
        {"c": Secret(file="/etc/passwd", mode="0640")},
    ),
    "users": (
        [{"name": "a", "uid": 990}],
        [{"name": "b", "uid": 1001.0, "groups": ["c"], "create_home": False}],
        '[{"name": "d", "uid": 7, "home": "/d"}]',
        (User(name="a", uid=990),),
        (User(name="b", uid=1001, groups=("c",), create_home=False),),
        (User(name="d", uid=7, home="/d"),),
    ),
    "groups": (
        [{"name": "a", "gid": 990}],
        [{"name": "b", "gid": 5, "members": ["c"]}],
        '[{"name": "d", "gid": 7}]',
        (Group(name="a", gid=990),),
        (Group(name="b", gid=5, members=("c",)),),
        (Group(name="d", gid=7),),
    ),
    "order": (
        "packages-first",
        "packages-first",
        "packages-first",
        "packages-first",
        "packages-first",
        "packages-first",
    ),
    "owner": (
        "keep",
        {"*": "0:0", "srv/**": "www:www"},
        '{"a": "1:1"}',
        {"*": "keep"},
        {"srv/**": "www:www", "*": "0:0"},
        {"a": "1:1", "*": "root:root"},
    ),
    "modes": (
        {"*": "0640"},
        {"srv/**": "D0755,F0644", "a": "u=rwX,go=rX"},
        '{"a": "+x"}',
        {"*": "0640"},
        {"srv/**": "D0755,F0644", "a": "u=rwX,go=rX"},
        {"a": "+x"},
    ),
    "units": (
        {"enable": ["a.service"]},
        {"mask": ["b@.service", "c@d.timer"], "disable": ["e.socket"]},
        "{}",
        Units(enable=("a.service",)),
        Units(mask=("b@.service", "c@d.timer"), disable=("e.socket",)),
        Units(),
    ),
    "exclude": (("a,b", "c"), ["- d"], "{e,f}", ("a,b", "c"), ("- d",), ("{e,f}",)),
    "replace": (("/a,b", "c/**"), ["/d"], "{e,f}", ("/a,b", "c/**"), ("/d",), ("{e,f}",)),
    "clean": (("logs,tmp",), ["-logs"], "tmp", ("logs", "tmp"), ("-logs",), ("tmp",)),
    "formats": (("oci", "tar"), ["zfs"], '["btrfs"]', ("oci", "tar"), ("zfs",), ("btrfs",)),
    "compression": ("gzip", "zstd", "xz", "gzip", "zstd", "xz"),
    "store": ("s3://b", "ssh://u@h/p", "dir:/s", "s3://b", "ssh://u@h/p", "dir:/s"),
    "ref": ("a", "b/1.0", "c", "a", "b/1.0", "c"),
    "outputs": (("/a,b", "!/c"), ["/d"], "/e", ("/a,b", "!/c"), ("/d",), ("/e",)),
    "strip": ("/a", "/b", "/c", "/a", "/b", "/c"),
    "motd": (True, True, "yes", True, True, True),
    "source_repo": ("u1", "u2", "u3", "u1", "u2", "u3"),
    "upgrade_first": (True, True, "on", True, True, True),
    "pkg_audit": (True, True, "TRUE", True, True, True),
    "image_prefix": ("x", "y", "z-zfs", "x", "y", "z-zfs"),
    "pool": ("zfs:a/b", "dir:/p", "overlay:/q", "zfs:a/b", "dir:/p", "overlay:/q"),
    "cache": (False, False, "0", False, False, False),
    "keep_on_failure": (True, True, "1", True, True, True),
    "shell_on_failure": (True, True, "1", True, True, True),
    "full": (True, True, "1", True, True, True),
    "sparse": (True, True, "1", True, True, True),
    "max_size": ("1M", "2M", "3M", "1M", "2M", "3M"),
    "max_growth": ("1%", "2%", "3M", "1%", "2%", "3M"),
    "base_max_age": (1, 2, "3", 1, 2, 3),
    "over_size": ("warn", "warn", "warn", "warn", "warn", "warn"),
    "checks": (
        {"budget": "1M"},
        {"rules": {"setuid": "off"}},
        "{}",
        {"budget": "1M"},
        {"rules": {"setuid": "off"}},
        {},
    ),
    "allow": (
        {"setuid": ["/a"]},
        {"budget": ["/b", "c"]},
        "{}",
        {"setuid": ["/a"]},
        {"budget": ["/b", "c"]},
        {},
    ),
    "timeouts": (
        {"idle": 1},
        {"command": 5.0},
        '{"command": 2}',
        Timeouts(idle=1),
        Timeouts(command=5),
        Timeouts(command=2),
    ),
    "limits": (
        {"pids": 50},
        {"memory": 2.0, "output": 0},
        '{"open_files": 9}',
        Limits(pids=50),
        Limits(memory=2, output=0),
        Limits(open_files=9),
    ),
    "oci": (
        {"cmd": ["a"]},
        {"expose": ["80/tcp"], "user": "0:0", "labels": {"a.b": ""}},
        '{"entrypoint": []}',
        OciConfig(cmd=("a",)),
        OciConfig(expose=("80/tcp",), user="0:0", labels={"a.b": ""}),
        OciConfig(entrypoint=()),
    ),
    "index_max_age": (60, 120, "180", 60, 120, 180),
    "network": (False, False, "off", False, False, False),
    "locked": (False, False, "off", False, False, False),
}

BAD_SETTINGS: list[tuple[str, Any, str]] = [
    ("store", "", ""),
    ("store", "s3://key:secret@bucket", ""),
    ("store", "https://user:secret@host/store", ""),
    ("store", "ssh://user:secret@host/store", ""),
    ("store", "ssh://host", ""),
    ("store", "gopher://host/store", ""),
    ("store", "dir:", ""),
    ("ref", "-x", ""),
    ("run", [[]], "[0]"),
    ("outputs", ["a"], "[0]"),
    ("strip", "a", ""),
    ("run", ["a\0b"], "[0]"),
    ("run", [3], "[0]"),
    ("run", [{"argv": ["a"]}], "[0].name"),
    ("run", [{"name": "1", "argv": ["a"]}], "[0].name"),
    ("run", [{"name": "a", "argv": []}], "[0].argv"),
    ("run", [{"name": "a", "argv": ["a"], "inputs": ["../a"]}], "[0].inputs[0]"),
    ("run", [{"name": "a", "argv": ["a"], "inputs": ["/a"]}], "[0].inputs[0]"),
    ("run", [{"name": "a", "argv": ["a"], "inputs": []}], "[0].inputs"),
    ("run", [{"name": "a", "argv": ["a"], "cache": ["a"]}], "[0].cache[0]"),
    ("run", [{"name": "a", "argv": ["a"], "cache": ["/a/../b"]}], "[0].cache[0]"),
    ("run", [{"name": "a", "argv": ["a"], "networks": True}], "[0].networks"),
    ("secrets", {"1": {"file": "/etc/passwd"}}, '["1"]'),
    ("secrets", {"a": {"file": "/etc/passwd", "mode": "600x"}}, ".a.mode"),
    ("secrets", {"a": {"file": "/etc/passwd", "target": "etc/a"}}, ".a.target"),
    ("run_options", {"net": True}, ".net"),
    ("image", "", ""),
    ("image", "a\nb", ""),
    ("installer", "yum", ""),
    ("installer_options", {"recomends": True}, ".recomends"),
    ("installer_options", {"recommends": "yes"}, ".recommends"),
    ("installer_options", {"env": {"1A": ""}}, '.env["1A"]'),
    ("installer_options", {"env": {"A": 1}}, ".env.A"),
    ("order", "random", ""),
    ("owner", "root", ""),
    ("owner", {}, ""),
    ("owner", {"a": "root"}, ".a"),
    ("owner", ["root:root"], ""),
    ("users", [{"name": "a"}], "[0].uid"),
    ("users", [{"name": "9", "uid": 1}], "[0].name"),
    ("users", [{"name": "a", "uid": 0}], "[0].uid"),
    ("users", [{"name": "a", "uid": 1, "home": "/a:b"}], "[0].home"),
    ("users", [{"name": "a", "uid": 1, "sehll": "/b"}], "[0].sehll"),
    ("groups", [{"name": "a", "gid": 4294967295}], "[0].gid"),
    ("modes", {"*": "999"}, '["*"]'),
    ("modes", {"*": "rwx"}, '["*"]'),
    ("units", {"enable": ["app"]}, ".enable[0]"),
    ("units", {"start": []}, ".start"),
    ("exclude", [""], "[0]"),
    ("replace", ["a\nb"], "[0]"),
    ("clean", ["-lgos"], "[0]"),
    ("formats", [], ""),
    ("formats", ["oci", "oci"], "[1]"),
    ("formats", ["ocl"], "[0]"),
    ("compression", "lzma", ""),
    ("compression", None, ""),
    ("motd", 1, ""),
    ("pool", "/var/lib", ""),
    ("checks", {"rules": {"setuid": "no"}}, ".rules.setuid"),
    ("checks", {"rules": {"suid": "off"}}, ".rules.suid"),
    ("checks", {"budget": "large"}, ".budget"),
    ("allow", {"setuid": []}, ".setuid"),
    ("allow", {"suid": ["/a"]}, ".suid"),
    ("timeouts", {"command": 0}, ".command"),
    ("timeouts", {"idle": 1.5}, ".idle"),
    ("timeouts", {"idle": True}, ".idle"),
    ("limits", {"pids": -1}, ".pids"),
    ("limits", {"memory": "1G"}, ".memory"),
    ("limits", {"output": True}, ".output"),
    ("limits", {"files": 1}, ".files"),
    ("oci", {"entrypoint": "sh"}, ".entrypoint"),
    ("oci", {"expose": ["65536"]}, ".expose[0]"),
    ("oci", {"expose": [80]}, ".expose[0]"),
    ("oci", {"workdir": "srv"}, ".workdir"),
    ("oci", {"stop_signal": "TERM"}, ".stop_signal"),
    ("oci", {"env": {"A=B": "c"}}, '.env["A=B"]'),
    ("source_date_epoch", 1, ""),
]
