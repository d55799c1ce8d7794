"""The stand-in for pkgsrc's tools does what their manuals say: pkg_add(1), pkg_delete(1), pkg_info(1), pkg_admin(1)."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildstep.events import Bus
from buildstep.rootfs import sandbox
from tests.integration import berkeley185, pkgsrc_root

PREFIX = "/opt/local"

FAILED = "pkg_add: 1 package addition failed\n= 1\n"

Shell = Callable[[str], str]


@pytest.fixture
def repository(require: Any, tmp_path: Path) -> pkgsrc_root.Repository:
    require("busybox")
    (tmp_path / "repository").mkdir()
    return pkgsrc_root.Repository(tmp_path / "repository", PREFIX)


@pytest.fixture
def root(require: Any, tmp_path: Path) -> Path:
    require("busybox")
    top = pkgsrc_root.make_root(tmp_path / "root", PREFIX)
    (top / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nwww:x:80:8::/:/bin/sh\n")
    (top / "etc/group").write_text("root:x:0:\nmail:x:8:\n")
    return top


@pytest.fixture
def shell(root: Path, repository: pkgsrc_root.Repository, private: Any) -> Shell:
    """Runs lines of sh(1) in the root; both outputs come back, and `= STATUS` for a line that fails."""

    def run(script: str) -> str:
        lines = [f"{line.strip()} || echo = $?" for line in script.strip().splitlines()]

        def job() -> str:
            with (
                sandbox.enter(root, bus=Bus(), environ={}) as inside,
                inside.share(repository.path, pkgsrc_root.SHOWN),
            ):
                env = {"PATH": f"{PREFIX}/sbin:{PREFIX}/bin:/bin"}
                return inside.run(["/bin/sh", "-c", "\n".join(["exec 2>&1", *lines])], env=env)

        text: str = private(job)
        return f"{text}\n" if text else ""

    return run


def database(root: Path) -> dict[str, str]:
    """What is in pkgdb.byfile.db, by the library that pkg_install reads it with."""
    with berkeley185.opened(root / "opt/local/pkg/pkgdb.byfile.db") as file:
        return file.rows()


# -- options of pkg_add ----------------------------------------------------------------------------------------


def test_u_updates_and_capital_u_replaces(
    root: Path, repository: pkgsrc_root.Repository, shell: Shell
) -> None:
    repository.add("lib", "1.0")
    repository.add("user", "1.0", depends=["lib>=1"])
    text = shell(f"""
        pkg_add user lib-1.0
        echo spoilt >{PREFIX}/bin/lib
        pkg_add lib-1.0
        pkg_add -u lib-1.0
        cat {PREFIX}/bin/lib
        pkg_add -U lib-1.0
        lib
        pkg_info -qR lib
    """)
    already = "pkg_add: package `lib-1.0' already recorded as installed\n"
    assert text == (
        # It came as a dependency; asked for by name, it is so no more.
        "pkg_add: package `lib-1.0' was already installed as dependency, now marked as installed manually\n"
        f"{already}{already}spoilt\nlib-1.0\nuser-1.0\n\n"
    )
    repository.add("lib", "1.1")
    assert shell("pkg_add lib-1.1") == (
        f"pkg_add: A different version of lib-1.1 is already installed: lib-1.0\n{FAILED}"
    )
    assert shell("pkg_add -u lib\npkg_info -qR lib\nlib") == "user-1.0\n\nlib-1.1\n"
    assert not (root / "opt/local/pkg/lib-1.0").exists()


def test_an_update_that_a_user_does_not_fit_is_refused(
    repository: pkgsrc_root.Repository, shell: Shell
) -> None:
    repository.add("lib", "1.0")
    repository.add("user", "1.0", depends=["lib<2"])
    shell("pkg_add user")
    repository.add("lib", "2.0")
    told = "pkg_add: Dependency of user-1.0 fulfilled by lib-1.0, but not by lib-2.0\n"
    assert shell("pkg_add -u lib-2.0\nlib") == f"{told}{FAILED}lib-1.0\n"
    assert shell("pkg_add -uD lib-2.0\nlib") == f"{told}lib-2.0\n"


def test_a_marks_a_package_as_automatic(repository: pkgsrc_root.Repository, shell: Shell) -> None:
    repository.add("a", "1")
    text = shell("""
        pkg_add -A a
        pkg_info -Q automatic a
        pkg_info -u
        pkg_admin unset automatic a
        pkg_info -Q automatic a
        pkg_admin set automatic=YES a
        pkg_info -Q automatic a
    """)
    assert text == "yes\nYES\n"


def test_f_goes_on_without_what_is_needed_and_after_a_failed_script(
    repository: pkgsrc_root.Repository, shell: Shell
) -> None:
    repository.add("needy", "1", depends=["none>=1"])
    repository.add("rough", "1", install="#!/bin/sh\necho $2\nexit 3\n")
    refused = "pkg_add: no pkg found for 'none>=1', sorry.\npkg_add: Can't install dependency none>=1"
    assert shell("pkg_add needy") == f"{refused}\n{FAILED}"
    assert shell("pkg_add -f needy\nneedy") == f"{refused}, continuing\nneedy-1\n"
    script = "pkg_add: install script returned error status\n"
    assert shell("pkg_add rough") == f"PRE-INSTALL\n{script}{FAILED}"
    assert shell("pkg_add -f rough\nrough") == f"PRE-INSTALL\n{script}POST-INSTALL\n{script}rough-1\n"


def test_i_runs_no_script_and_r_records_nothing(
    root: Path, repository: pkgsrc_root.Repository, shell: Shell
) -> None:
    repository.add("loud", "1", install="#!/bin/sh\necho $2 $PKG_PREFIX $PKG_METADATA_DIR $PWD\n")
    record = f"{PREFIX}/pkg/loud-1"
    told = "".join(f"{when} {PREFIX} {record} {record}\n" for when in ("PRE-INSTALL", "POST-INSTALL"))
    assert shell("pkg_add loud\npkg_delete loud\npkg_add -I loud\nloud\npkg_delete loud") == f"{told}loud-1\n"
    assert shell("pkg_add -R loud\nloud\npkg_info") == "loud-1\n"
    assert not (root / "opt/local/pkg/loud-1").exists()


def test_n_tells_what_would_be_done(root: Path, repository: pkgsrc_root.Repository, shell: Shell) -> None:
    before = pkgsrc_root.files_of(root)
    repository.add("a", "1", install="#!/bin/sh\ntouch /ran\n")
    repository.add("b", "1", depends=["a>=1"])
    assert shell("pkg_add -n a") == (
        "Running install with PRE-INSTALL for a-1.\nRunning install with POST-INSTALL for a-1.\n"
        f"Package a-1 registered in {PREFIX}/pkg/a-1\n"
    )
    assert "pkg_add: Missing dependency a>=1\n" in shell("pkg_add -n b")
    assert pkgsrc_root.files_of(root) == before


def test_other_places(root: Path, repository: pkgsrc_root.Repository, shell: Shell) -> None:
    """-p: the prefix; -K: the package database; -C: the configuration; -P: a directory above all paths."""
    repository.add(
        "a", "1", plist=["@exec echo %D", "@unexec echo %D"], install="#!/bin/sh\necho $PKG_DESTDIR\n"
    )
    assert shell("pkg_add -p /srv/tools a\n/srv/tools/bin/a\npkg_info -qp a") == (
        "\nExecuting 'echo /srv/tools'\n/srv/tools\n\na-1\n@cwd /srv/tools\n"
    )
    assert shell("pkg_info -F -e /srv/tools/bin/a\npkg_delete a") == (
        "a-1\nExecuting `echo /srv/tools'\n/srv/tools\n"
    )
    assert not (root / "srv").exists()
    shell("pkg_add -K /srv/db a\npkg_delete -K /srv/db a")
    assert not (root / "opt/local/pkg/a-1").exists()
    assert (root / "srv/db/pkgdb.byfile.db").exists()
    (root / "etc/other.conf").write_text("PKG_DBDIR=/srv/other\nPKG_PATH=/nowhere;file:///repository\n")
    shell("pkg_add -C /etc/other.conf a")
    assert (root / "srv/other/a-1/+CONTENTS").exists()
    assert (
        shell("pkg_add -P /srv/image a") == f"/srv/image\nExecuting 'echo {PREFIX}'\n{PREFIX}\n/srv/image\n"
    )
    assert (root / "srv/image/opt/local/pkg/a-1/+CONTENTS").exists()
    assert (root / "srv/image/opt/local/bin/a").exists()
    assert (
        shell("pkg_delete -P /srv/image a\nls /srv/image/opt/local")
        == f"Executing `echo {PREFIX}'\n{PREFIX}\npkg\n"
    )


# -- refusals --------------------------------------------------------------------------------------------------


def test_a_package_for_another_platform_is_refused(repository: pkgsrc_root.Repository, shell: Shell) -> None:
    repository.add("arch", "1", build={"MACHINE_ARCH": "aarch64"})
    repository.add("system", "1", build={"OPSYS": "NetBSD", "OS_VERSION": "10.0"})
    repository.add("release", "1", build={"OS_VERSION": "5.10"})
    host = "(pkg) vs. SunOS/x86_64 5.11 (this host)\n"
    told = {
        name: f"pkg_add: Warning: package `{name}-1' was built for a platform:\npkg_add: {there} {host}"
        for name, there in {
            "arch": "SunOS/aarch64 5.11",
            "system": "NetBSD/x86_64 10.0",
            "release": "SunOS/x86_64 5.10",
        }.items()
    }
    text = shell("""
        pkg_add arch
        pkg_add system
        pkg_add release
        pkg_add -f system
        pkg_add -m aarch64 arch
        pkg_info -E '{arch,release,system}-1'
        pkg_info -e '{arch,release,system}-1'
    """)
    assert text == (
        f"{told['arch']}{FAILED}{told['system']}{FAILED}{told['release']}{told['system']}"
        "arch-1\narch-1\nrelease-1\nsystem-1\n"
    )


# pkg_install.conf, LICENSE, and what pkg_add says.
CONFIGURED = [
    ("", "own", ""),
    ("CHECK_LICENSE=yes", "mit", ""),
    ("CHECK_LICENSE=yes", "", ""),
    ("CHECK_LICENSE=yes", "own", "License `own' of package `{name}' is not acceptable"),
    ("CHECK_LICENSE=yes\nACCEPTABLE_LICENSES=theirs\nACCEPTABLE_LICENSES=other own", "own", ""),
    (
        "CHECK_LICENSE=yes\nDEFAULT_ACCEPTABLE_LICENSES=isc",
        "mit",
        "License `mit' of package `{name}' is not acceptable",
    ),
    ("CHECK_LICENSE=yes", "own OR mit", ""),
    ("CHECK_LICENSE=yes", "own AND mit", "License `own AND mit' of package `{name}' is not acceptable"),
    ("CHECK_LICENSE=yes", "own AND OR", "Invalid LICENSE for package `{name}'"),
    ("CHECK_LICENSE=always", "", "No LICENSE set for package `{name}'"),
    ("VERIFIED_INSTALLATION=always", "mit", "No valid signature found, rejected"),
]


def test_what_the_configuration_refuses(root: Path, repository: pkgsrc_root.Repository, shell: Shell) -> None:
    script, told = [], ""
    for number, (settings, terms, refusal) in enumerate(CONFIGURED):
        name = f"a{number}-1"
        repository.add(f"a{number}", "1", build={"LICENSE": terms})
        (root / f"etc/{number}.conf").write_text(
            f"PKG_PATH={pkgsrc_root.SHOWN}\nPKG_DBDIR=/pkgdb\n{settings}\n"
        )
        script.append(f"pkg_add -C /etc/{number}.conf a{number}")
        told += f"pkg_add: {refusal.format(name=name)}\n{FAILED}" if refusal else ""
    assert shell("\n".join(script)) == told
    taken = {f"a{number}-1" for number, row in enumerate(CONFIGURED) if not row[2]}
    assert {path.name for path in (root / "pkgdb").iterdir()} == taken | {"pkgdb.byfile.db"}


def test_a_package_with_a_known_fault_is_refused(
    root: Path, repository: pkgsrc_root.Repository, shell: Shell
) -> None:
    repository.add("a", "1")
    repository.vulnerable("a<2", "remote-code-execution", "https://example.org/1")
    with (root / "opt/local/etc/pkg_install.conf").open("a") as stream:
        stream.write("CHECK_VULNERABILITIES=always\n")
    told = "Package a-1 has a remote-code-execution vulnerability, see https://example.org/1\n"
    assert shell("pkg_admin fetch-pkg-vulnerabilities\npkg_add a") == f"{told}{FAILED}"


def test_what_packages_say_of_each_other(repository: pkgsrc_root.Repository, shell: Shell) -> None:
    repository.add("a", "1", files={"bin/tool": "a"})
    repository.add("b", "1", plist=["@pkgcfl a-[0-9]*"])
    repository.add("c", "1", files={"bin/tool": "c"})
    repository.add("d", "1", build={"REQUIRES": "/lib/libnone.so.1"})
    repository.add("e", "1", build={"PKGTOOLS_VERSION": "20991231"})
    assert shell("pkg_add a b") == (
        f"pkg_add: Package `b-1' conflicts with `a-[0-9]*', and `a-1' is installed.\n{FAILED}"
    )
    assert shell("pkg_add c") == f"pkg_add: Conflicting PLIST with a-1: bin/tool\n{FAILED}"
    assert shell("pkg_add d") == f"pkg_add: Missing required library: /lib/libnone.so.1\n{FAILED}"
    assert shell("pkg_add e") == (
        f"pkg_add: Error: package `e-1' was built with a newer pkg_install version\n{FAILED}"
    )
    assert shell("pkg_delete a\npkg_add b a") == (
        f"pkg_add: Installed package `b-1' conflicts with `a-[0-9]*' when trying to install `a-1'.\n{FAILED}"
    )


def test_a_damaged_package_is_refused(repository: pkgsrc_root.Repository, shell: Shell) -> None:
    repository.add("a", "1").write_bytes(b"no archive")
    repository.add("b", "1", records={"+DESC": ""}, plist=["missing"])
    text = shell("pkg_add a\npkg_add b\npkg_info")
    assert text.startswith("pkg_add: Cannot read from archive: ")
    assert "pkg_add: PLIST entry and package don't match (missing vs bin/b)\n" in text
    assert text.endswith("= 1\n")  # nothing is installed


# -- packing lists ---------------------------------------------------------------------------------------------


def test_commands_get_the_last_file_and_its_parts(
    root: Path, repository: pkgsrc_root.Repository, shell: Shell
) -> None:
    plist = [
        "{share/a b/it's}",
        "@exec echo %D . %F . %B . %f . %x % >/exec",
        "@unexec echo %f >/unexec",
        "@exec false",
    ]
    repository.add("a", "1", files={"share/a b/it's": "x"}, plist=plist)
    shell("pkg_add a")
    assert (root / "exec").read_text() == (f"{PREFIX} . share/a b/it's . {PREFIX}/share/a b . it's . %x %\n")
    assert not (root / "unexec").exists()
    shell("pkg_delete a")
    assert (root / "unexec").read_text() == "it's\n"
    assert not (root / "opt/local/share").exists()


def test_a_command_before_the_first_file_has_none(repository: pkgsrc_root.Repository, shell: Shell) -> None:
    repository.add("a", "1", plist=["@exec touch %F"])
    assert "pkg_add: no last file available for 'touch ' command\n" in shell("pkg_add a")


def test_owner_group_and_mode_hold_until_they_are_taken_back(
    root: Path, repository: pkgsrc_root.Repository, shell: Shell
) -> None:
    plist = [
        "@owner www",
        "@group mail",
        "@mode 4750",
        "{bin/one}",
        "{bin/link}",
        "@owner",
        "@group",
        "@mode",
        "{bin/two}",
    ]
    repository.add("a", "1", files={"bin/one": "1", "bin/link": "-> one", "bin/two": "2"}, plist=plist)
    shell("pkg_add a")
    facts = {name: ((root / f"opt/local/bin/{name}").lstat()) for name in ("one", "link", "two")}
    assert [(facts[name].st_uid, facts[name].st_gid) for name in facts] == [(80, 8), (80, 8), (0, 0)]
    assert oct(facts["one"].st_mode & 0o7777) == "0o4750"
    assert oct(facts["two"].st_mode & 0o7777) == "0o755"


def test_option_preserve_keeps_what_was_there(
    root: Path, repository: pkgsrc_root.Repository, shell: Shell
) -> None:
    (root / "opt/local/bin/a").write_text("mine")
    repository.add("a", "1", plist=["@option preserve"])
    shell("pkg_add a")
    assert (root / "opt/local/bin/.a.a-1.backup").read_text() == "mine"
    shell("pkg_delete a")
    assert (root / "opt/local/bin/a").read_text() == "mine"
    assert not (root / "opt/local/bin/.a.a-1.backup").exists()


def test_directories_of_two_packages(root: Path, repository: pkgsrc_root.Repository, shell: Shell) -> None:
    for name in ("a", "b"):
        repository.add(name, "1", files={f"share/{name}": "x"}, plist=["@pkgdir var/spool"])
    spool = root / "opt/local/var/spool"
    shell("pkg_add a b\npkg_delete a")
    assert spool.is_dir()
    assert shell("pkg_admin dump") == (
        f"file: {PREFIX}/share/b pkg: b-1\nfile: {PREFIX}/var/spool pkg: @pkgdir b-1\n"
    )
    shell("pkg_delete b")
    assert not spool.parent.exists()


def test_what_is_ignored_is_not_laid_out(
    root: Path, repository: pkgsrc_root.Repository, shell: Shell
) -> None:
    repository.add("a", "1", plist=["@ignore", "+COMMENT", "@cd /elsewhere", "@nonsense x"])
    assert shell("pkg_add a") == "pkg_add: Unrecognised PLIST command `@nonsense x'\n"
    assert (root / "opt/local/bin/a").exists()


# -- records -----------------------------------------------------------------------------------------------------


def test_sizes_and_other_records(root: Path, repository: pkgsrc_root.Repository, shell: Shell) -> None:
    repository.add("lib", "1", files={"lib/l": "x" * 1000})
    repository.add("a", "1", files={"bin/a": "y" * 234}, depends=["lib>=1"], records={"+DISPLAY": "Hello.\n"})
    assert shell("pkg_add a\npkg_info -qs a\npkg_info -qS a\npkg_info -s a") == (
        "Hello.\n234\n\n1234\n\nInformation for a-1:\n\nSize of this package in bytes: 234\n\n\n"
    )
    record = root / "opt/local/pkg/a-1"
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in record.iterdir()}
    assert modes == {
        "+CONTENTS": "0o644", "+COMMENT": "0o444", "+DESC": "0o444", "+DISPLAY": "0o444", "+BUILD_INFO": "0o444",
        "+SIZE_PKG": "0o444", "+SIZE_ALL": "0o444",
    }  # fmt: skip
    summary = shell(f"pkg_info -X {pkgsrc_root.SHOWN}/a-1.tgz").splitlines()
    assert summary[:5] == [
        "PKGNAME=a-1",
        "DEPENDS=lib>=1",
        "COMMENT=The a of the tests",
        "SIZE_PKG=234",
        "PKGPATH=misc/a",
    ]


def test_the_file_database_is_one_that_the_library_reads(
    require: Any, root: Path, repository: pkgsrc_root.Repository, shell: Shell
) -> None:
    require(berkeley185.TOOL)
    long = "/".join(["long" * 60] * 4)  # few rows have room on a page: the tree has three levels
    files = {f"share/{long}/{number:03}": "x" for number in range(24)}
    repository.add("many", "1", files=files)
    repository.add(
        "few",
        "2",
        files={"bin/%s": "x", "bin/back\\slash": "y", "bin/\u00fc": "z"},
        plist=["@pkgdir etc/few"],
    )
    shell("pkg_add many few")
    expected = {f"{PREFIX}/{path}": "many-1" for path in files} | {
        f"{PREFIX}/bin/%s": "few-2", f"{PREFIX}/bin/back\\slash": "few-2", f"{PREFIX}/bin/\u00fc": "few-2",
        f"{PREFIX}/etc/few": "@pkgdir few-2",
    }  # fmt: skip
    path = root / "opt/local/pkg/pkgdb.byfile.db"
    with berkeley185.opened(path) as file:
        assert list(file.rows().items()) == sorted(expected.items())
        assert {key: file.get(key) for key in expected} == expected
        assert file.get(f"{PREFIX}/bin/none") is None
    with berkeley185.opened(path, write=True) as file:  # the library can go on with it
        for number in range(100):
            file.put(f"/new/{number * 37 % 101}", "new-1")
        for key in list(expected)[::2]:
            file.delete(key)
        rows = file.rows()
    assert shell("pkg_admin dump").splitlines() == [
        f"file: {key} pkg: {value}" for key, value in rows.items()
    ]
    shell("pkg_admin delete new-1 many-1")
    assert database(root) == {key: value for key, value in rows.items() if value not in ("new-1", "many-1")}
    assert "Stored 27 files and 1 explicit directory from 2 packages" in shell("pkg_admin rebuild")
    assert database(root) == expected
    shell("pkg_delete many few")
    assert database(root) == {}


def test_which_package_a_file_is_of(repository: pkgsrc_root.Repository, shell: Shell) -> None:
    repository.add("a", "1", files={"bin/a": "x", "bin/link": "-> a"})
    text = shell(f"""
        pkg_add a
        pkg_info -Fe {PREFIX}/bin/link
        pkg_info -Fe /etc/passwd
        echo more >>{PREFIX}/bin/a
        ln -sf nowhere {PREFIX}/bin/link
        pkg_admin -q check
        pkg_delete -F {PREFIX}/bin/a
        pkg_admin dump
    """)
    assert text == (
        "a-1\npkg_info: No matching pkg for /etc/passwd.\n= 1\n"
        f"{PREFIX}/bin/a fails MD5 checksum\n"
        f"symlink ({PREFIX}/bin/link) is not same as recorded value, Symlink:nowhere: Symlink:a\n"
        "\nChecked 2 files from 1 package.\n"
    )


def test_where_packages_are_looked_for(root: Path, repository: pkgsrc_root.Repository, shell: Shell) -> None:
    """Beside the package that was asked for, and in all of PKG_PATH: the newest counts."""
    for name, versions in {"one": ["1.9", "1.10"], "two": ["1.11nb2", "1.11"]}.items():
        place = root / "srv" / name
        place.mkdir(parents=True)
        for version in versions:
            pkgsrc_root.Repository(place, PREFIX).add("lib", version)
    pkgsrc_root.Repository(root / "srv/one", PREFIX).add("user", "1", depends=["lib>=1.1"])
    text = shell("""
        export PKG_PATH=/nowhere
        pkg_add /srv/one/user-1.tgz
        pkg_info -E lib
        pkg_delete -r lib
        export PKG_PATH='/nowhere;file:///srv/two'
        pkg_add /srv/one/user
        pkg_info -E lib
        pkg_delete -R user
        cd /srv/one
        pkg_add lib
        lib
    """)
    assert text == "lib-1.10\nlib-1.11nb2\nlib-1.10\n"


def test_what_others_need_stays(repository: pkgsrc_root.Repository, shell: Shell) -> None:
    repository.add("lib", "1")
    repository.add("mid", "1", depends=["lib>=1"])
    repository.add("top", "1", depends=["mid>=1"], records={"+DEINSTALL": "#!/bin/sh\necho $1 $2\n"})
    needed = "Package `lib-1' is still required by other packages:\n\tmid-1\n= 1\n"
    assert shell("pkg_add top\npkg_delete lib") == needed
    gone = "top-1 DEINSTALL\ntop-1 POST-DEINSTALL\n"
    assert shell("pkg_info -qr lib\npkg_delete -r lib\npkg_info") == f"top-1\nmid-1\n\n{gone}"
    assert shell("pkg_add top\npkg_delete -A top\npkg_info") == gone
    repository.add("kept", "1", records={"+PRESERVE": ""})
    assert shell("pkg_add kept\npkg_delete kept\npkg_delete -ff kept\npkg_info") == (
        "pkg_delete: The following packages are marked as not for deletion:\n\tkept-1\n= 1\n"
        "pkg_delete: The following packages are marked as not for deletion:\n\tkept-1\n"
        "...but will delete them anyway\n"
    )


def test_license_conditions(shell: Shell) -> None:
    wrong = "pkg_admin: invalid license condition\n= 1\n"
    answers = {
        "mit": "yes\n",
        "own": "no\n",
        "(own OR mit) AND isc": "yes\n",
        "own OR mit AND isc": wrong,
        "(mit": wrong,
        "mit mit": wrong,
    }
    script = "\n".join(f"pkg_admin check-license {shlex.quote(condition)}" for condition in answers)
    assert shell(script) == "".join(answers.values())
