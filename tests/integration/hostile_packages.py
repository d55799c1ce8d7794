"""Images whose packages say of themselves what none should: for tests of what is made of such words."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

WORDS = (
    "", "a", "A B", "\u00e9", "\u202e", "x" * 300, "1:2~3+b4", "<script>", '"q"', "a;b", "LicenseRef-", "LicenseRef-a b",
    "MIT", "GPL-2+", "(MIT OR", "MIT AND", "NOASSERTION", "NONE", "http://x", "https://exa mple.org/", "http://[::1",
    "https://example.org/a#b?c=d", "javascript:x", "Name <mail>", "<a@b>", "A (B) <a@b.c>", "\x00", "\x1b[31m", "\ud7ff",
    "\U0001f600", "%2F", "../..", "@scope/x", "@/", "/", "@a", "a@b@c", "pkg:x", "2.0\n3", "-", ".", "..", "BSD",
    "SEE LICENSE IN x", "Apache-2.0 WITH LLVM-exception", "GPL-3.0-only WITH nonsense", "Apache License 2.0",
    "http://www.example.org:99999/", "cpe:2.3:a:x", "t\u00ebst\x00",
)  # fmt: skip
PATHS = ("\u00e9", "\udcff\udcfe", "a b", '"', "\\", "x\n", "\x7f", "<", "%41", "#", "?")

_STATUS = """Package: p{number}{more}
Status: install ok installed
Architecture: {arch}
Version: {}
Source: {}
Maintainer: {}
Homepage: {}
Depends: p{other}, {}
Description: {}

"""
_COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: {}
License: {}
 {}

License: {}
 text {}
"""
_METADATA = """Metadata-Version: 2.4
Name: {}
Version: {}
License: {}
License-Expression: {}
Home-page: {}
Summary: {}
Author: {}
Requires-Dist: {}
"""
_APK = "P:{}\nV:{}\nA:x86_64\nL:{}\no:{}\nF:etc\nR:x\n\nP:ok\nV:1\nL:{}\nU:{}\nm:{}\n\n"


def write_image(path: Path, seed: int) -> Path:
    """A tar of databases of four kinds; the same seed gives the same one."""
    chosen = random.Random(seed)

    def word() -> str:
        return "".join(chosen.choices(WORDS, k=1 if chosen.random() < 0.8 else 2))

    def filled(form: str, **more: object) -> str:
        return form.format(*(word() for _ in range(form.count("{}"))), **more)

    with tarfile.open(path, "w") as archive:

        def put(name: str, text: str) -> None:
            data = text.encode("utf-8", "surrogatepass")
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        status = ""
        for number in range(chosen.randrange(6)):
            more, arch = (
                chosen.choice(["", "+", ".x"]),
                chosen.choice(["amd64", "all", word().replace("\n", "")]),
            )
            status += filled(_STATUS, number=number, more=more, arch=arch, other=chosen.randrange(6))
            put(f"usr/share/doc/p{number}/copyright", filled(_COPYRIGHT))
        put("var/lib/dpkg/status", status)
        release = 'ID={}\nVERSION_ID="{}"\nPRETTY_NAME="{}"\n'
        put(
            "etc/os-release", filled(release if chosen.random() < 0.3 else release.replace("{}", "debian", 1))
        )
        for number in range(chosen.randrange(6)):
            fields = {name: word() for name in ("name", "version", "homepage", "description", "author")}
            licence = chosen.choice([word(), {"type": word()}, [word()], 3])
            module = {**fields, "license": licence, "dependencies": {word(): word()}}
            put(f"srv/{number}/node_modules/m/package.json", json.dumps(module))
            put(f"opt/python3/site-packages/{number}.dist-info/METADATA", filled(_METADATA))
        put("lib/apk/db/installed", filled(_APK))
        for number in range(3):
            put(f"etc/{chosen.choice(PATHS)}{number}", word())
    return path
