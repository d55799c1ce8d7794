"""What AYS's stores did wrong and no other test holds; the numbers are those of docs/explanation/ays-defects.md."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from buildstep import cli
from buildstep.cli.lazy_group import LazyGroup
from buildstep.errors import StoreError
from buildstep.files import layout, open_storage, refs
from buildstep.files.ays_store import AysStore
from buildstep.files.content import LINKABLE, ContentStore, Settings
from buildstep.files.export_list import export_list
from buildstep.files.import_list import Order, import_list
from buildstep.files.interface import Damaged
from buildstep.files.lists.interface import Reading
from buildstep.files.lookup import find
from buildstep.files.refs import Ref
from buildstep.files.session import Session
from tests.unit.files.ays import FIXTURES, fixture, md5
from tests.unit.files.memory import Memory
from tests.unit.files.stored import file, listed, made, new_store, put_contents

PACKAGE = Path(cli.__file__).parents[1]
CONTENTS = {b"f%d" % number: b"content %d" % number for number in range(20)}


def stored(path: Path, settings: Settings | None = None) -> ContentStore:
    """A store with a list of twenty files, `hello`."""
    store = new_store(path, settings)
    put_contents(store, CONTENTS)
    with Session(store, "test") as session:
        found = session.put_list(listed(*(file(name, data) for name, data in CONTENTS.items())))
        session.set_ref(Ref(name="hello", list=found.digest, tree=found.tree), None)
    return store


# -- 8: one by one, nothing asked before, everything again -------------------------------------------------


def test_ays_d08_what_is_there_is_asked_for_all_together() -> None:
    calls: Counter[str] = Counter()
    memory = Memory(lambda call: calls.update([call]))
    store = ContentStore(memory)
    store.create()
    digests = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(5000)]
    with Session(store, "test") as session:
        calls.clear()
        assert session.has(digests) == set()
        assert AysStore(memory).missing(map(md5, CONTENTS.values())) == set(map(md5, CONTENTS.values()))
    assert calls["list"] + calls["exists"] <= 5


class Crowded(Memory):
    """A storage whose writes go on only while four of them are under way."""

    at_once = 4

    def __init__(self) -> None:
        super().__init__()
        self._four = threading.Barrier(4, timeout=10)

    def write(self, name: str, data: bytes | Path) -> bool:
        self._four.wait()
        return super().write(name, data)


def test_ays_d08_several_contents_are_under_way_at_once(tmp_path: Path) -> None:
    store, target = stored(tmp_path / "store"), Crowded()
    done = export_list(store, find(store, "hello"), target, form="ays3")
    assert done.new_objects == len(CONTENTS) == 20


def test_ays_d08_what_came_over_before_a_failure_is_not_sent_again(tmp_path: Path) -> None:
    store = stored(tmp_path / "store")
    failing = True
    writes: list[str] = []

    class Line(Memory):
        def write(self, name: str, data: bytes | Path) -> bool:
            if failing and len(writes) == 7:
                raise StoreError("the line is cut")
            writes.append(name)
            return super().write(name, data)

    target = Line()
    ContentStore(target).create(Settings(pack_below=0, compress=False))
    with pytest.raises(StoreError, match="the line is cut"):
        export_list(store, find(store, "hello"), target, form="buildstep")
    assert refs.read(target, "hello") is None
    failing = False
    done = export_list(store, find(store, "hello"), target, form="buildstep")
    assert done.new_objects == 13
    assert len(writes) == len(set(writes)) == 21
    assert writes[-1].startswith("lists/"), "the list comes last"


# -- 11: what another store sends is stored unread -----------------------------------------------------------


def test_ays_d11_what_another_store_sends_is_compared_before_it_is_stored(tmp_path: Path) -> None:
    store, target = stored(tmp_path / "store", LINKABLE), Memory()
    digest = hashlib.sha256(CONTENTS[b"f3"]).hexdigest()
    path = tmp_path / "store" / layout.object_name(digest)
    path.chmod(0o644)
    path.write_bytes(b"CONTENT 3")
    with pytest.raises(Damaged, match=f"{digest[2:]} is damaged"):
        export_list(store, find(store, "hello"), target, form="buildstep")
    assert not [name for name in target.blobs if digest[2:] in name or name.startswith(("lists/", "refs/"))]
    order = Order(reading=Reading(), ref="hello")
    data = store.read_list(refs.get(store.storage, "hello").list)
    with pytest.raises(Damaged):
        import_list(ContentStore(target), data, store.storage, order)
    assert refs.read(target, "hello") is None


# -- 12: passwords in clear ----------------------------------------------------------------------------------


def test_ays_d12_no_password_is_in_what_is_stored(tmp_path: Path) -> None:
    objects = open_storage("https://me:hunter2@store.example/x", environ={})
    assert "hunter2" not in objects.url

    class Theirs(Memory):
        """Contents of AYS, at an address that has a password."""

        def __init__(self) -> None:
            super().__init__()
            self.url = objects.url
            for path in FIXTURES.rglob("files/*/*/*"):
                self.put(os.fspath(path.relative_to(FIXTURES)), path.read_bytes())

    ours = Memory()
    store = ContentStore(ours)
    order = Order(reading=Reading(source="kv"), ref="kv")
    import_list(store, fixture("acme__kvstore"), Theirs(), order)
    assert refs.get(ours, "kv").notes["objects"] == objects.url
    assert not [name for name, blob in ours.blobs.items() if b"hunter2" in blob.data]


# -- 15: data that is run ------------------------------------------------------------------------------------

ODD = (b"{{1/0}}", b"$(touch run)", b"`touch run`", b"%s{0}", b"@ASK", b"!!python", b"__import__('os')")


def test_ays_d15_what_looks_like_a_program_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    entries = listed(*(made(name.replace(b"/", b"-"), "l", target=name) for name in ODD), file(b"f", b"x"))
    store = new_store(tmp_path / "store")
    put_contents(store, {b"f": b"x"})
    with Session(store, "test") as session:
        found = session.put_list(entries)
        session.set_ref(Ref(name="odd", list=found.digest, tree=found.tree), None)
    export_list(store, find(store, "odd"), open_storage("dir:out", environ={}), form="ays3")
    order = Order(reading=Reading(), ref="back")
    import_list(store, Path("out/md/odd.flist").read_bytes(), open_storage("dir:out", environ={}), order)
    assert [entry.target for entry in find(store, "back").entries.values() if entry.kind == "l"] == [
        entries[name].target for name in sorted(entries) if entries[name].kind == "l"
    ]
    assert not Path("run").exists()


@pytest.fixture(scope="module")
def nodes() -> dict[str, list[ast.Call | ast.Import | ast.ImportFrom]]:
    """The calls and imports of each module."""
    return {
        os.fspath(path.relative_to(PACKAGE)): [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call | ast.Import | ast.ImportFrom)
        ]
        for path in sorted(PACKAGE.rglob("*.py"))
    }


Nodes = dict[str, list[ast.Call | ast.Import | ast.ImportFrom]]


def called(nodes: Nodes) -> Iterator[tuple[str, str, ast.Call]]:
    """Yield the place, the name and the node of each call whose function is named there."""
    for path, found in nodes.items():
        for node in found:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                yield f"{path}:{node.lineno}", ast.unparse(node.func), node


def test_ays_d15_nothing_makes_a_program_of_data(nodes: Nodes) -> None:
    """No text is evaluated, no shell is given a text, and nothing is unpacked that can say what to call."""
    banned = {"eval", "exec", "compile", "__import__", "os.system"}
    found = [
        where
        for where, name, call in called(nodes)
        if name in banned or any(word.arg == "shell" for word in call.keywords)
    ]
    assert found == []
    unpacking = {"pickle", "shelve", "dill", "yaml"}
    importing = {
        file
        for file, there in nodes.items()
        for node in there
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [it.name for it in node.names]
        )
        if name.partition(".")[0] in unpacking
    }
    # One reads what a fork of the same process sends, the other reads YAML as plain data.
    assert importing == {"system/workers.py", "components/settings.py"}
    loading = [name for where, name, _ in called(nodes) if where.startswith("components/settings.py")]
    assert [name for name in loading if name.startswith("yaml.")] == ["yaml.safe_load"]


# -- 20: a large file is one content -------------------------------------------------------------------------


def test_ays_d20_of_a_large_file_with_one_byte_changed_little_is_new() -> None:
    data = bytearray(random.Random(20).randbytes(24 << 20))
    memory = Memory()
    store = ContentStore(memory)
    store.create()
    for _ in range(2):
        with Session(store, "test") as session:
            digest = session.put_stream(io.BytesIO(data), len(data))
            session.flush()
        assert ContentStore(memory).get(digest, 12 << 20, 100) == data[12 << 20 : (12 << 20) + 100]
        data[13 << 20] ^= 1
    assert 0 < session.new_bytes < len(data) // 8


# -- 22: text for people, and questions ----------------------------------------------------------------------


def commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in group.rows if isinstance(group, LazyGroup) else group.commands:
        found = group.get_command(click.Context(group), name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, f"{before}{name} ")
        else:
            yield f"{before}{name}", found


def test_ays_d22_each_command_has_its_answer_as_json() -> None:
    rows = [(name, found) for name, found in commands(cli.root) if name.startswith("files ")]
    assert len(rows) > 10
    without = [name for name, found in rows if not any("--json" in param.opts for param in found.params)]
    assert without == []


def test_ays_d22_no_command_asks(nodes: Nodes) -> None:
    asking = [
        name
        for name, found in commands(cli.root)
        for param in found.params
        if isinstance(param, click.Option) and param.prompt
    ]
    assert asking == []
    banned = {"input", "click.prompt", "click.confirm", "click.getchar", "click.pause", "getpass.getpass"}
    # An edit of mappings is a person's, and so are the questions of a template and the password of a key:
    # they are asked at a terminal only, not with --yes or --non-interactive, and not in CI.
    places = {where.partition(":")[0] for where, name, _ in called(nodes) if name in banned}
    assert places <= {"cli/map_edit.py", "cli/service_options.py", "trust/keys/passwords.py"}
