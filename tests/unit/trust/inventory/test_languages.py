"""Packages of languages that no package manager of the system brought, and what programs say of themselves."""

from __future__ import annotations

import base64
import json
import struct
import zlib

import pytest

from tests.unit.inventorydata import Content, inventory, only

# -- Python -------------------------------------------------------------------------------------------

SITE = "opt/venv/lib/python3.11/site-packages"
METADATA = """\
Metadata-Version: 2.1
Name: Typing_Extensions
Version: 4.12.2
Summary: Backported type hints
Author-email: "Guido, and others" <levkivskyi@gmail.com>
Classifier: License :: OSI Approved :: Python Software Foundation License
Requires-Dist: idna<4,>=2.5
Requires-Dist: PySocks; extra == 'socks'
Requires-Dist: absent

Name: not a header
"""
VENV: dict[str, Content] = {
    f"{SITE}/typing_extensions.py": "x",
    f"{SITE}/typing_extensions-4.12.2.dist-info/METADATA": METADATA,
    f"{SITE}/typing_extensions-4.12.2.dist-info/RECORD": "typing_extensions.py,sha256=abc,1\n"
    "../../../bin/typing,,\n../../../../../etc/none,,\n",
    f"{SITE}/typing_extensions-4.12.2.dist-info/INSTALLER": "pip\n",
    f"{SITE}/typing_extensions-4.12.2.dist-info/direct_url.json": json.dumps(
        {
            "url": "https://user:secret@example.org/t.whl",
            "archive_info": {"hashes": {"sha256": "ab" * 32}},
        }
    ),
    f"{SITE}/idna-3.7.dist-info/METADATA": "Name: idna\nVersion: 3.7\nLicense-Expression: BSD-3-Clause\n",
    f"{SITE}/pysocks-1.egg-info/PKG-INFO": "Name: PySocks\nVersion: 1\nLicense: BSD\n",
    f"{SITE}/old-2.egg-info": "Name: old\nVersion: 2\n",
    "opt/venv/bin/typing": "#!",
}


def test_packages_of_python() -> None:
    found = inventory(VENV)
    package = only(found, "Typing_Extensions")
    assert package.purl == "pkg:pypi/typing-extensions@4.12.2"
    assert package.license.expression == "PSF-2.0"
    assert package.depends == ("pkg:pypi/idna@3.7",)
    assert package.hashes == {"sha256": "ab" * 32}
    assert package.properties == {"installer": "pip", "installed from": "https://example.org/t.whl"}
    assert package.supplier == '"Guido, and others" <levkivskyi@gmail.com>'
    assert b"opt/venv/bin/typing" in package.files
    assert f"{SITE}/typing_extensions.py".encode() in package.files
    assert only(found, "PySocks").license.expression == "LicenseRef-BSD"
    assert only(found, "old").version == "2"
    assert found.files == ()


def test_what_dpkg_owns_is_no_package_of_python() -> None:
    folder = "usr/lib/python3/dist-packages/six-1.16.0.egg-info"
    image = {
        f"{folder}/PKG-INFO": "Name: six\nVersion: 1.16.0\n",
        "var/lib/dpkg/status": "Package: python3-six\nStatus: install ok installed\nVersion: 1.16.0-4\n",
        "var/lib/dpkg/info/python3-six.list": f"/{folder}\n/{folder}/PKG-INFO\n",
    }
    assert [row.name for row in inventory(image).components] == ["python3-six"]


def test_one_package_at_two_places_is_one_component() -> None:
    there = {path.replace("opt/venv", "srv/venv"): data for path, data in VENV.items()}
    found = inventory({**VENV, **there})
    package = only(found, "idna")
    assert package.location == f"{SITE}/idna-3.7.dist-info/METADATA".encode()
    assert package.others == (f"{SITE.replace('opt', 'srv')}/idna-3.7.dist-info/METADATA".encode(),)


# -- npm ----------------------------------------------------------------------------------------------

LOCK = {
    "packages": {
        "node_modules/@scope/a": {
            "version": "1.0.0",
            "resolved": "https://user:secret@registry.example.org/@scope/a/-/a-1.0.0.tgz",
            "integrity": "sha1-q6urq6urq6urq6urq6urq6urq6s= sha512-"
            + base64.b64encode(b"\xcc" * 64).decode(),
        }
    }
}
NODE: dict[str, Content] = {
    "srv/node_modules/.package-lock.json": json.dumps(LOCK),
    "srv/node_modules/.bin/a": "x",
    "srv/node_modules/@scope/a/package.json": json.dumps(
        {
            "name": "@scope/a",
            "version": "1.0.0",
            "license": "MIT",
            "author": "Ann <ann@example.org> (https://example.org)",
            "dependencies": {"b": "^1", "absent": "1"},
        }
    ),
    "srv/node_modules/@scope/a/lib/index.js": "1",
    "srv/node_modules/@scope/a/node_modules/b/package.json": json.dumps(
        {"name": "b", "version": "1.5.0", "licenses": [{"type": "MIT"}, {"type": "Apache-2.0"}]}
    ),
    "srv/node_modules/@scope/a/node_modules/.bin/b": "x",
    "srv/node_modules/b/package.json": json.dumps(
        {"name": "b", "version": "2.0.0", "license": "SEE LICENSE IN x"}
    ),
    "srv/node_modules/@scope/a/fixtures/package.json": '{"name": "none"}',
    "srv/node_modules/odd/package.json": "[" * 100_000,
}


def test_packages_of_npm() -> None:
    found = inventory(NODE)
    package = only(found, "@scope/a")
    assert package.purl == "pkg:npm/%40scope/a@1.0.0"
    assert package.depends == ("pkg:npm/b@1.5.0",)
    assert package.hashes == {"sha512": "cc" * 64}
    assert package.properties == {"resolved": "https://registry.example.org/@scope/a/-/a-1.0.0.tgz"}
    assert package.supplier == "Ann <ann@example.org>"
    assert package.files == (
        b"srv/node_modules/@scope/a/fixtures/package.json",
        b"srv/node_modules/@scope/a/lib/index.js",
        b"srv/node_modules/@scope/a/package.json",
    )
    inner = next(row for row in found.components if row.version == "1.5.0")
    assert inner.license.expression == "Apache-2.0 OR MIT"
    outer = next(row for row in found.components if row.version == "2.0.0")
    assert outer.license.expression.startswith("LicenseRef-b-license")
    assert found.unknown == ("srv/node_modules/odd/package.json names no package",)
    assert b"srv/node_modules/.bin/a" in [row.path for row in found.files]


# -- programs -----------------------------------------------------------------------------------------


def elf(**sections: bytes) -> bytes:
    """An ELF file that is nothing but its sections, named with dots for underlines and dashes for capitals."""
    names = [b"", *(name.replace("_", ".").replace("X", "-").encode() for name in sections), b".shstrtab"]
    table = b"\0".join(names) + b"\0"
    bodies = [b"", *sections.values(), table]
    data, rows, at_name = b"", b"", 0
    for name, body in zip(names, bodies, strict=True):
        rows += struct.pack("<IIQQQQIIQQ", at_name, 1, 0, 0, 64 + len(data), len(body), 0, 0, 1, 0)
        data += body
        at_name += len(name) + 1
    head = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack(
            "<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 64 + len(data), 0, 64, 0, 0, 64, len(names), len(names) - 1
        )
    )
    return head + data + rows


MODULES = (
    "path\texample.org/Tool/cmd\nmod\texample.org/Tool\t(devel)\t\n"
    "dep\tgithub.com/pkg/errors\tv0.9.1\th1:FEBL=\n"
    "dep\tgolang.org/x/net\tv0.1.0\th1:x=\n=>\tgolang.org/x/net\tv0.2.0\th1:y=\n"
    "build\tvcs.revision=abcdef\nbuild\t-ldflags=-X main.token=secret\n"
)


def varint(size: int) -> bytes:
    found = b""
    while size >= 0x80:
        found, size = found + bytes([size & 0x7F | 0x80]), size >> 7
    return found + bytes([size])


def go(version: str, rows: str) -> bytes:
    text = b"0" * 16 + rows.encode() + b"1" * 16 if rows else b""
    head = b"\xff Go buildinf:" + bytes([8, 2]) + bytes(16)
    return head + varint(len(version)) + version.encode() + varint(len(text)) + text


def test_modules_of_a_program_in_go() -> None:
    found = inventory(
        {"usr/local/bin/tool": elf(_go_buildinfo=go("go1.22.3", MODULES))}, ["usr/local/bin/tool"]
    )
    assert [row.purl for row in found.components] == [
        "pkg:golang/example.org/tool",
        "pkg:golang/github.com/pkg/errors@v0.9.1",
        "pkg:golang/golang.org/x/net@v0.2.0",
        "pkg:golang/stdlib@1.22.3",
    ]
    tool = found.components[0]
    assert tool.depends == tuple(row.purl for row in found.components[1:])
    assert tool.properties == {"go:vcs.revision": "abcdef"}
    assert tool.location == b"usr/local/bin/tool"
    assert [row.path for row in found.files] == [b"usr/local/bin/tool"]
    assert found.complete


def test_crates_of_a_program_in_rust() -> None:
    crates = {
        "packages": [
            {"name": "app", "version": "0.1.0", "source": "local", "dependencies": [1, 2, 99], "root": True},
            {"name": "serde", "version": "1.0.200", "source": "crates.io"},
            {"name": "cc", "version": "1.0", "source": "crates.io", "kind": "build"},
        ]
    }
    section = zlib.compress(json.dumps(crates).encode())
    found = inventory({"usr/bin/app": elf(_depXv0=section)}, ["usr/bin/app"])
    assert [row.purl for row in found.components] == ["pkg:cargo/app@0.1.0", "pkg:cargo/serde@1.0.200"]
    assert found.components[0].depends == ("pkg:cargo/serde@1.0.200",)


def test_a_note_names_the_package_of_a_program() -> None:
    said = b'{"type":"deb","os":"debian","osVersion":"12","name":"hello","version":"2.10-3","architecture":"amd64"}\0'
    note = struct.pack("<III", 4, len(said), 0xCAFE1A7E) + b"FDO\0" + said
    found = inventory({"opt/hello": elf(_note_package=note)}, ["opt/hello"])
    (hello,) = found.components
    assert hello.purl == "pkg:deb/debian/hello@2.10-3?arch=amd64&distro=debian-12"
    assert hello.kind == "elf"


@pytest.mark.parametrize(
    "data",
    [
        elf(),
        elf(_go_buildinfo=go("go1.19.8", "")),
        elf(_go_buildinfo=b"\xff Go buildinf:\x08\x02" + bytes(16) + b"\xff" * 12),
        elf(_depXv0=b"not zlib"),
        elf(_depXv0=zlib.compress(b"[" * 100_000)),
        elf(_note_package=b"\xff" * 40),
        elf(_note_package=struct.pack("<III", 4, 2, 0xCAFE1A7E) + b"FDO\0[]  "),
        b"\x7fELF\x02\x01" + b"\xff" * 80,
        elf(_go_buildinfo=go("go1.22.3", MODULES))[:-70],
    ],
)
def test_a_program_that_does_not_say_is_told(data: bytes) -> None:
    found = inventory(
        {"usr/local/bin/x": data, "usr/local/bin/x.sh": data}, ["usr/local/bin/x", "usr/local/bin/x.sh"]
    )
    assert found.unknown == ("programs that do not say what they are made of: usr/local/bin/x",)
    assert not found.complete
