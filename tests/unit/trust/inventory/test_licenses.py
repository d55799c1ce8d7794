from __future__ import annotations

import pytest

from buildstep.trust.inventory.debian_copyright import read_copyright
from buildstep.trust.inventory.licenses import Expressions, spdx_name

NAMES = {
    "GPL-2+": "GPL-2.0-or-later",
    "GPL-2": "GPL-2.0-only",
    "GPL-2.0": "GPL-2.0-only",
    "GPLv3+": "GPL-3.0-or-later",
    "GPL": "GPL-1.0-or-later",
    "LGPL-2.1+": "LGPL-2.1-or-later",
    "LGPLv2.1+": "LGPL-2.1-or-later",
    "LGPL": "LGPL-2.0-or-later",
    "AGPL-3": "AGPL-3.0-only",
    "GPL-2.0-or-later": "GPL-2.0-or-later",
    "GNU GPL": "GPL-1.0-or-later",
    "Expat": "MIT",
    "BSD-3-clause": "BSD-3-Clause",
    "ZLIB": "Zlib",
    "Apache-2": "Apache-2.0",
    "Artistic": "Artistic-1.0-Perl",
    "GFDL-NIV-1.3+": "GFDL-1.3-no-invariants-or-later",
    "GFDL-1.3+-no-invariant": "GFDL-1.3-no-invariants-or-later",
    "GPL-3+-WITH-BISON-EXCEPTION": "GPL-3.0-or-later WITH Bison-exception-2.2",
    "GPL-2+-libtool-exception": "GPL-2.0-or-later WITH Libtool-exception",
    "public-domain": "",
    "LGPL-3.1": "",
    "GPL-9": "",
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_names_are_translated(name: str, expected: str) -> None:
    assert spdx_name(name) == expected


EXPRESSIONS = {
    "GPL-1+ or Artistic": "Artistic-1.0-Perl OR GPL-1.0-or-later",
    "Expat and GPL-2 or ISC": "(GPL-2.0-only AND MIT) OR ISC",
    "GPL-2+ or AFL-2.1, and Expat": "(AFL-2.1 OR GPL-2.0-or-later) AND MIT",
    "GPL-2+ with Autoconf exception": "GPL-2.0-or-later WITH Autoconf-exception-generic",
    "GPL-2 with Linux-syscall-note exception": "GPL-2.0-only WITH Linux-syscall-note",
    "LGPLv3+_or_GPLv2+": "GPL-2.0-or-later OR LGPL-3.0-or-later",
    "(MIT OR Apache-2.0) AND Unicode-3.0": "(Apache-2.0 OR MIT) AND Unicode-3.0",
    "GPL-2.0-only WITH Classpath-exception-2.0": "GPL-2.0-only WITH Classpath-exception-2.0",
    "public-domain": "LicenseRef-public-domain",
    "GPL-2+ with OpenSSL exception": "LicenseRef-GPL-2-with-OpenSSL-exception",
    "none": "",
    "": "",
    "((((": "",
    ") and or with (": "",
    "(" * 500 + "MIT": "MIT",
    "MIT ) ISC": "ISC AND MIT",
}


@pytest.mark.parametrize(("text", "expected"), EXPRESSIONS.items())
def test_expressions_have_the_precedence_of_dep_5(text: str, expected: str) -> None:
    found = Expressions().all_of([text])
    assert found.expression == expected
    assert set(found.texts) == {part for part in expected.split() if part.startswith("LicenseRef-")}


DEP_5 = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: hello

Files: *
Copyright: 1992 A
           2001 B <b@example.org>
License: GPL-2+ or Artistic

Files: src/sdbm/*
Copyright: C
License: SDBM-PUBLIC-DOMAIN
 The authors give this
 .
 to all.

Files: debian/*
Copyright: D
License: BSD-2-clause

Files: tests/x.c m4/a.m4 configure
Copyright: E
License: ISC

License: GPL-2+
 On Debian systems, see /usr/share/common-licenses/GPL-2.
"""


def test_a_copyright_file_in_the_form_of_dep_5() -> None:
    found = read_copyright(DEP_5, "hello")
    (ref,) = found.license.texts
    assert ref.startswith("LicenseRef-SDBM-PUBLIC-DOMAIN-")
    assert found.license.expression == f"(Artistic-1.0-Perl OR GPL-2.0-or-later) AND {ref}"
    assert found.license.texts[ref] == "The authors give this\n\nto all."
    assert found.copyright == "1992 A\n2001 B <b@example.org>"


def test_two_texts_of_one_name_are_two_licences() -> None:
    other = DEP_5.replace("to all.", "to some.")
    assert read_copyright(DEP_5, "a").license.texts.keys() != read_copyright(other, "b").license.texts.keys()


def test_packaging_alone_counts_where_nothing_else_is_said() -> None:
    text = "Format: x\n\nFiles: debian/*\nCopyright: D\nLicense: ISC\n"
    assert read_copyright(text, "a").license.expression == "ISC"


FREE = """\
This is the Debian prepackaged version of hello.

Copyright (C) 1995-2011 Software in the Public Interest.

This program is free software under the GNU General Public License; either
version 2 of the License, or (at your option) any later version.

On Debian systems, the complete text can be found in `/usr/share/common-licenses/GPL'.
"""


def test_free_text_names_the_common_licences() -> None:
    found = read_copyright(FREE, "base-files")
    assert found.license.expression == "GPL-2.0-or-later"
    assert found.copyright == "Copyright (C) 1995-2011 Software in the Public Interest."
    bsd = "See /usr/share/common-licenses/BSD and `/usr/share/common-licenses/Apache-2.0'."
    assert "Apache-2.0 AND LicenseRef-BSD" in read_copyright(bsd, "x").license.expression
    only = "version 2 only: /usr/share/common-licenses/GPL-2."
    assert read_copyright(only, "x").license.expression == "GPL-2.0-only"


def test_free_text_that_names_no_licence_is_one() -> None:
    text = "Do what you like with it."
    found = read_copyright(text, "odd")
    (ref,) = found.license.texts
    assert found.license.expression == ref
    assert found.license.texts[ref] == text
