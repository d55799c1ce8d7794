"""`buildstep assets` with a directory as store: what is pushed, refused, told, and with which exit code."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from buildstep.errors import ExitCode
from tests.servers.archives import details, tar, tar_gz, tarball
from tests.servers.layouts import layer, make_layout, make_saved, pack
from tests.unit.cli.conftest import Run
from tests.unit.trust.keys.pairs import pem_pair

STORE = ("--store", "store")
OK = ExitCode.OK


def test_push_list_show_verify_delete(run: Run) -> None:
    data = tarball(Path("web.tar.gz"))
    assert run("assets", "push", "web", "1.2+b1", "web.tar.gz", *STORE)[0] == OK
    assert Path("store/web-1.2+b1.tar.gz").read_bytes() == data.read_bytes()
    tarball(Path("next.tgz"))
    assert run("assets", "push", "web", "1.10", "next.tgz", *STORE, "-q")[0] == OK
    status, out, _ = run("assets", "list", *STORE, "--json")
    assert [row["file"] for row in json.loads(out)["assets"]] == ["web-1.2+b1.tar.gz", "web-1.10.tar.gz"]
    status, out, _ = run("assets", "show", "web", "1.2+b1", *STORE, "--json")
    assert (status, json.loads(out)["sha256"]) == (OK, details(data).sha256)
    assert (
        run("assets", "show", "web", "1.2+b1", *STORE)[1].splitlines()[2].split()[1] == details(data).sha256
    )
    status, out, _ = run("assets", "verify", *STORE)
    assert (status, out) == (OK, "2 assets read: none bad\n")
    status, out, _ = run("assets", "delete", "web", "1.10", *STORE, "--dry-run")
    assert Path("store/web-1.10.tar.gz").exists()
    assert run("assets", "delete", "web", "1.10", "1.2+b1", *STORE)[0] == OK
    assert not list(Path("store").glob("*.tar.gz"))
    status, _, err = run("assets", "delete", "web", "1.10", *STORE)
    assert status == ExitCode.STORE
    assert "assets list" in err


def test_d05_the_store_is_a_setting(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tarball(Path("web.tar.gz"))
    Path("buildstep.toml").write_text('[assets]\nstore = "dir:of-file"\n')
    assert run("assets", "push", "web", "1", "web.tar.gz")[0] == OK
    assert Path("of-file/web-1.tar.gz").exists()
    monkeypatch.setenv("BUILDSTEP_ASSETS", "s3://bucket/prefix")
    assert run("assets", "push", "web", "1", "web.tar.gz", *STORE)[0] == OK
    assert "web-1.tar.gz" in run("assets", "list", *STORE)[1]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "too few arguments: 0, and SERVICE VERSION PATH are three"),
        (["web"], "too few arguments: 1"),
        (["web", "1"], "too few arguments: 2"),
        (["web", "1", "web.tar.gz", "more"], "too many arguments: 4"),
        (["we b", "1", "web.tar.gz"], "'we b' is no name of a service"),
        (["we-b", "1", "web.tar.gz"], "'we-b' is no name of a service"),
        (["../web", "1", "web.tar.gz"], "'../web' is no name of a service"),
        (["web", "..", "web.tar.gz"], "'..' is no version"),
        (["web", "1/2", "web.tar.gz"], "'1/2' is no version"),
        (["web", "1-rc1", "web.tar.gz"], "'1-rc1' is no version"),
        (["web", "1", "nothing.tar.gz"], "there is no nothing.tar.gz"),
        (["web", "1", "script"], "script is no tarball"),
    ],
)
def test_d14_wrong_arguments_are_told_and_store_nothing(run: Run, words: list[str], why: str) -> None:
    tarball(Path("web.tar.gz"))
    Path("script").write_text("#!/bin/sh\n" * 100)
    status, out, err = run("assets", "push", *words, *STORE)
    assert (status, out) == (ExitCode.USAGE, "")
    assert why in err
    assert "hint:" in err or "there is no" in err
    assert not Path("store").exists()


def test_d14_what_is_in_it_is_looked_at_before_it_is_stored(run: Run) -> None:
    Path("web.tar.gz").write_bytes(tar_gz(("good", b"x"), ("../../evil", b"x")))
    status, _, err = run("assets", "push", "web", "1", "web.tar.gz", *STORE)
    assert status == ExitCode.IMAGE
    assert "../../evil" in err
    assert not list(Path(".").rglob("web-1.tar.gz"))
    Path("web.tar.gz").write_bytes(b"no tarball at all, whatever its name says")
    assert run("assets", "push", "web", "1", "web.tar.gz", *STORE)[0] == ExitCode.IMAGE


def test_d02_hyphens_are_for_who_asks_for_them(run: Run) -> None:
    tarball(Path("web.tar.gz"))
    assert run("assets", "push", "web", "1-rc1", "web.tar.gz", *STORE, "--hyphens")[0] == OK
    assert "1-rc1" not in run("assets", "list", *STORE)[1]
    assert "web-1-rc1.tar.gz" in run("assets", "list", *STORE, "--hyphens")[1]
    assert run("assets", "verify", "web", "1-rc1", *STORE)[1] == "1 asset read: none bad\n"
    Path("buildstep.toml").write_text("[assets]\nhyphens = true\n")
    assert "web-1-rc1.tar.gz" in run("assets", "list", *STORE)[1]


def test_d04_a_version_is_replaced_only_by_who_says_so(run: Run) -> None:
    tarball(Path("web.tar.gz"))
    tarball(Path("other.tar.gz"))
    assert run("assets", "push", "web", "1", "web.tar.gz", *STORE)[0] == OK
    status, out, _ = run("assets", "push", "web", "1", "web.tar.gz", *STORE)
    assert status == OK
    assert "there already, the same" in out
    status, _, err = run("assets", "push", "web", "1", "other.tar.gz", *STORE)
    assert status == ExitCode.STORE
    assert "--replace" in err
    assert run("assets", "push", "web", "1", "other.tar.gz", *STORE, "--replace")[0] == OK
    assert Path("store/web-1.tar.gz").read_bytes() == Path("other.tar.gz").read_bytes()


class TestSignatures:
    def test_a_key_signs_and_its_other_half_verifies(self, run: Run, tmp_path: Path) -> None:
        private, public = map(os.fspath, pem_pair(tmp_path))
        tarball(Path("web.tar.gz"))
        status, out, _ = run("assets", "push", "web", "1", "web.tar.gz", *STORE, "--key", private, "--json")
        assert json.loads(out)["assets"][0]["signed"] is True
        status, out, _ = run("assets", "verify", *STORE, "--key", public, "--json")
        assert status == OK
        assert json.loads(out)["assets"][0]["key"].startswith("SHA256:")
        Path("buildstep.toml").write_text(
            f"[assets]\nkey = {json.dumps(private)}\ntrusted = [{json.dumps(public)}]\n"
        )
        assert run("assets", "push", "db", "1", "web.tar.gz", *STORE)[0] == OK
        assert run("assets", "verify", *STORE)[:2] == (OK, "2 assets read: none bad\n")

    def test_none_and_another(self, run: Run, tmp_path: Path) -> None:
        public = os.fspath(pem_pair(tmp_path)[1])
        other, _ = map(os.fspath, pem_pair(tmp_path, "other"))
        tarball(Path("web.tar.gz"))
        assert run("assets", "push", "web", "1", "web.tar.gz", *STORE)[0] == OK
        assert run("assets", "push", "web", "2", "web.tar.gz", *STORE, "--key", other)[0] == OK
        status, out, _ = run("assets", "verify", *STORE, "--key", public)
        assert status == ExitCode.STORE
        assert "web-1.tar.gz: web-1.tar.gz is not signed" in out
        assert "web-2.tar.gz: web-2.tar.gz is not signed by a key that is trusted" in out
        assert run("assets", "push", "web", "3", "web.tar.gz", *STORE, "--key", public)[0] == ExitCode.SIGNING

    def test_the_name_is_signed_too(self, run: Run, tmp_path: Path) -> None:
        """An old version cannot pass for a new one."""
        private, public = map(os.fspath, pem_pair(tmp_path))
        tarball(Path("web.tar.gz"))
        assert run("assets", "push", "web", "1", "web.tar.gz", *STORE, "--key", private)[0] == OK
        for path in list(Path("store").rglob("web-1.*")):
            path.rename(path.with_name(path.name.replace("web-1", "web-2")))
        status, out, _ = run("assets", "verify", *STORE, "--key", public)
        assert status == ExitCode.STORE
        assert "web-2.tar.gz is not signed by a key that is trusted" in out


def test_verify_finds_what_is_altered_cut_or_lost(run: Run) -> None:
    for name in ("a", "b", "c"):
        tarball(Path(f"{name}.tar.gz"))
        assert run("assets", "push", name, "1", f"{name}.tar.gz", *STORE)[0] == OK
    for name, data in (("a", b"altered" * 30), ("b", Path("b.tar.gz").read_bytes()[:-1])):
        Path(f"store/{name}-1.tar.gz").unlink()
        Path(f"store/{name}-1.tar.gz").write_bytes(data)
    Path("store/c-1.tar.gz").unlink()
    Path("store/d-1.tar.gz").write_bytes(b"by daybook")
    status, out, _ = run("assets", "verify", *STORE)
    assert status == ExitCode.STORE
    assert "a-1.tar.gz: 210 bytes, and" in out
    assert "b-1.tar.gz:" in out
    assert "d-1.tar.gz: no sha256 is recorded" in out
    assert out.splitlines()[-1] == "3 assets read: 2 bad"
    status, out, _ = run("assets", "verify", "b", "1", *STORE, "--json")
    assert json.loads(out)["bad"] == 1


class TestPacking:
    def tree(self, path: Path, second: int) -> Path:
        (path / "bin").mkdir(parents=True)
        (path / "bin/run").write_bytes(b"#!/bin/sh\n")
        (path / "bin/run").chmod(0o755)
        (path / "current").symlink_to("bin/run")
        for below in (path / "bin/run", path / "bin", path):
            os.utime(below, (second, second))
        os.utime(path / "current", (second, second), follow_symlinks=False)
        return path

    def test_a_directory_gives_the_same_bytes_each_time(self, run: Run) -> None:
        self.tree(Path("a"), 1_700_000_000)
        self.tree(Path("b"), 1_700_000_000)
        assert run("assets", "push", "web", "1", "a", *STORE)[0] == OK
        assert run("assets", "push", "web", "1", "b", *STORE)[0] == OK, "else it were another one"
        with tarfile.open("store/web-1.tar.gz") as archive:
            rows = {info.name: info for info in archive}
        assert {info.uid for info in rows.values()} == {0}
        assert rows["bin/run"].mode == 0o755
        assert rows["current"].linkname == "bin/run"

    def test_owner_times_and_compression(self, run: Run) -> None:
        self.tree(Path("a"), 1_700_000_000)
        options = ["--owner", "12:13", "--clamp-mtime", "1000", "--compress", "zstd"]
        assert run("assets", "push", "web", "1", "a", *STORE, *options)[0] == OK
        import zstandard

        data = zstandard.ZstdDecompressor().stream_reader(
            io.BytesIO(Path("store/web-1.tar.zst").read_bytes()), read_across_frames=True
        )
        with tarfile.open(fileobj=io.BytesIO(data.read())) as archive:
            for info in archive:
                assert (info.uid, info.gid, info.mtime) == (12, 13, 1000)

    def test_a_plain_tar(self, run: Run) -> None:
        Path("a.tar").write_bytes(tar([("x", b"y")]))
        assert run("assets", "push", "web", "1", "a.tar", *STORE)[0] == OK
        assert gzip.decompress(Path("store/web-1.tar.gz").read_bytes()) == Path("a.tar").read_bytes()

    def test_a_directory_with_a_pipe_or_a_link_out_is_refused(self, run: Run) -> None:
        tree = self.tree(Path("a"), 1000)
        (tree / "out").symlink_to("/etc/passwd")
        status, _, err = run("assets", "push", "web", "1", "a", *STORE)
        assert status == ExitCode.IMAGE
        assert "out of the asset" in err
        assert run("assets", "push", "web", "1", "a", *STORE, "--links-out")[0] == OK
        os.mkfifo(tree / "pipe")
        assert run("assets", "push", "web", "2", "a", *STORE, "--links-out")[0] == ExitCode.IMAGE

    @pytest.mark.parametrize("image", ["image.tar", "image.tar.gz", "layout", "layout.tar"])
    def test_an_image(self, run: Run, image: str) -> None:
        """Its layers become one tree."""
        layers = [layer({"bin/run": b"old", "gone": b"x"}), layer({"bin/run": b"new", ".wh.gone": b""})]
        if image.startswith("layout"):
            Path("folder").mkdir()
            make_layout(Path("folder"), layers)
            Path("folder").rename("layout")
            pack(Path("layout"), Path("layout.tar"))
        else:
            make_saved(Path("image.tar"), {"web:1": layers})
            Path("image.tar.gz").write_bytes(gzip.compress(Path("image.tar").read_bytes()))
        status, _, err = run("assets", "push", "web", "1", image, *STORE)
        assert (status, "is an image" in err) == (OK, True)
        with tarfile.open("store/web-1.tar.gz") as archive:
            assert sorted(info.name for info in archive if info.isfile()) == ["bin/run"]
            stream = archive.extractfile("bin/run")
            assert stream is not None
            assert stream.read() == b"new"


class TestMany:
    def test_a_directory_of_assets(self, run: Run) -> None:
        Path("out").mkdir()
        for number in range(7):
            tarball(Path(f"out/s{number}-1.tar.gz"))
        for other in ("README", "web.tar.gz", "s0-1.tar.gz.sha256", "s-1-rc1.tar.gz"):
            Path("out", other).write_bytes(b"x")
        status, out, _ = run("assets", "push", "--dir", "out", *STORE)
        assert status == OK
        assert out.splitlines()[-1].startswith("7 assets of ")
        assert len(list(Path("store").glob("*.tar.gz"))) == 7
        status, out, _ = run("assets", "push", "--dir", "out", *STORE, "--json")
        assert [row["stored"] for row in json.loads(out)["assets"]] == [False] * 7

    def test_bad_ones_do_not_keep_the_others(self, run: Run) -> None:
        Path("out").mkdir()
        for number in range(6):
            tarball(Path(f"out/s{number}-1.tar.gz"))
        Path("out/s2-1.tar.gz").write_bytes(tar_gz(("../evil", b"x")))
        Path("out/s4-1.tar.gz").write_bytes(b"")
        status, out, err = run("assets", "push", "--dir", "out", *STORE)
        assert status == ExitCode.INCOMPLETE
        assert "2 of 6 assets not pushed" in err
        assert "../evil" in err
        assert "s4-1.tar.gz: the file is empty" in err
        assert sorted(path.name for path in Path("store").glob("*.tar.gz")) == [
            f"s{number}-1.tar.gz" for number in (0, 1, 3, 5)
        ]
        assert len(out.splitlines()) == 5

    def test_a_store_that_may_not_be_written_to(self, run: Run) -> None:
        Path("out").mkdir()
        for number in range(3):
            tarball(Path(f"out/s{number}-1.tar.gz"))
        Path("store").mkdir(mode=0o777)
        Path("store").chmod(0o777)
        status, _, err = run("assets", "push", "--dir", "out", *STORE)
        assert status == ExitCode.INCOMPLETE
        assert "3 of 3 assets not pushed" in err
        assert "others may write to it" in err
        assert "hint: use a store of your own" in err

    def test_names_and_a_directory_are_not_both_given(self, run: Run) -> None:
        Path("out").mkdir()
        assert run("assets", "push", "web", "1", "x", "--dir", "out", *STORE)[0] == ExitCode.USAGE
        status, _, err = run("assets", "push", "--dir", "out", *STORE)
        assert status == ExitCode.USAGE
        assert "has no assets" in err
        tarball(Path("out/web-1.tar.gz"))
        Path("out/web-1.tar.zst").write_bytes(b"x")
        status, _, err = run("assets", "push", "--dir", "out", *STORE)
        assert status == ExitCode.USAGE
        assert "has web-1.tar.gz and web-1.tar.zst" in err
        assert run("assets", "push", "--dir", "nothing", *STORE)[0] == ExitCode.USAGE


def test_index(run: Run) -> None:
    tarball(Path("web.tar.gz"))
    run("assets", "push", "web", "1", "web.tar.gz", *STORE)
    status, out, _ = run("assets", "index", *STORE)
    assert (status, out.split()[1:]) == (OK, ["an", "index", "of", "1", "asset"])
    assert set(json.loads(Path("store/~assets/index.json").read_bytes())["assets"]) == {"web-1.tar.gz"}
    Path("store/~assets/index.json").chmod(0o644)
    Path("store/~assets/index.json").write_text('{"format": 2}')
    tarball(Path("db.tar.gz"))
    status, _, err = run("assets", "push", "db", "1", "db.tar.gz", *STORE)
    assert status == ExitCode.STORE
    assert "assets index" in err


def test_a_sidecar_that_somebody_broke_is_told(run: Run) -> None:
    tarball(Path("web.tar.gz"))
    run("assets", "push", "web", "1", "web.tar.gz", *STORE)
    sidecar = Path("store/~assets/web-1.tar.gz.json")
    sidecar.chmod(0o644)
    sidecar.write_text("{")
    status, _, err = run("assets", "show", "web", "1", *STORE)
    assert status == ExitCode.STORE
    assert "~assets/web-1.tar.gz.json cannot be read" in err
