from __future__ import annotations

import base64
import functools
import io
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from buildstep.checks.secrets import Looking
from buildstep.spec.trust import AllowedSecret
from buildstep.tree.entry import Entry
from buildstep.trust.secrets.own_words import of_contents, of_environment
from buildstep.trust.secrets.search import Search, shown
from buildstep.trust.secrets.verdicts import has_checksum
from tests.unit.trust.secrets.planted import HARMLESS, PASSWORD, PLANTED, letters, with_checksum

FIXTURES = Path(__file__).parents[4] / "fixtures"


def raw(content: object) -> bytes:
    return content if isinstance(content, bytes) else str(content).encode()


def told(path: str, content: object, looking: Looking | None = None) -> list[str]:
    rows = (looking or Looking(search=Search())).in_file(path.encode(), raw(content))
    return [text for _, text, _ in rows]


def test_there_are_forty_at_least() -> None:
    assert len(PLANTED) >= 40


@pytest.mark.parametrize("path", PLANTED)
def test_each_planted_secret_is_found_once(path: str) -> None:
    content, rule = PLANTED[path]
    (text,) = told(path, content)
    assert text.endswith(f"({rule})")


def test_no_value_is_told() -> None:
    """At most four characters of it."""
    for path, (content, _) in PLANTED.items():
        for text in told(path, content):
            assert len(text.partition(": ")[2].partition("...")[0]) <= 4
            assert PASSWORD not in text
            words = [word for word in raw(content).decode(errors="replace").split() if len(word) > 12]
            assert all(word not in text for word in words)


@pytest.mark.parametrize("path", HARMLESS)
def test_what_only_looks_like_a_secret_is_none(path: str) -> None:
    assert told(path, HARMLESS[path]) == []


def test_nothing_is_found_in_the_fixtures() -> None:
    files = [path for path in FIXTURES.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 50
    assert [path for path in files if told(str(path), path.read_bytes())] == []


def test_a_token_has_a_checksum() -> None:
    token = with_checksum("gh" + "p_")
    assert has_checksum(token.encode())
    wrong = token[:-1] + ("a" if token[-1] != "a" else "b")
    (row,) = Looking(search=Search()).in_file(b"a", f"x {wrong}".encode())
    assert not row[2], "it is worth a warning at most"
    assert "whose checksum is wrong" in row[1]
    assert told("a", "gh" + "p_" + "a" * 36) == []


def test_the_line_is_told_and_several_secrets_are() -> None:
    one, other = f"gl{'pat-'}{letters(20)}", f"dckr{'_pat_'}{letters(27)}"
    texts = told("a", f"\n\nx={one}\n{'z ' * 9000}\ny={other}\n{one}\n")
    assert [text.partition(":")[0] for text in texts] == [
        "has a token of GitLab in line 3",
        "has a token of Docker in line 5",
        "has a token of GitLab in line 6",
    ]


OWN = "Tr0ub4dor&3-horse/staple+xyz"


@pytest.mark.parametrize("word", [OWN, "s3cr3t-w0rd", "Zx9-q", letters(40)])
def test_a_secret_of_the_build_is_found_in_every_form(word: str) -> None:
    looking = Looking(search=Search([word]))
    data = word.encode()
    forms = [word, quote(word, safe=""), data.hex(), data.hex().upper(), json.dumps(word)]
    forms += [base64.b64encode(b"k" * before + data + b"==").decode() for before in range(3)]
    forms += [base64.urlsafe_b64encode(b"k" * before + data).decode() for before in range(3)]
    for form in forms:
        for content in (f"x {form} y", f"a={form}\n" + "b " * 5000, "\0" * 100 + form):
            assert told("a", content, looking), (form, content[:60])
            assert word not in str(told("a", content, looking))
    assert told("a", "b " * 5000 + letters(60), looking) == []


def test_the_version_changes_with_what_is_sought_and_tells_no_secret() -> None:
    plain, one, other = Search().version, Search([OWN]).version, Search(["another-1"]).version
    assert len({plain, one, other}) == 3
    assert one == Search([OWN]).version
    assert OWN not in one


def test_variables_of_the_ci_host_are_secrets_by_their_names() -> None:
    environ = {
        "GITLAB_TOKEN": "abcdef0123456789",
        "DEPLOY_API_KEY": "k3y-0123456789",
        "TOKEN_FILE": "/run/token/file1",
        "MY_SECRET": "words-without-a-number",
        "HTTPS_PROXY": "http://me:pr0xy-pass@proxy:3128",
        "PATH": "/usr/bin:/bin0",
    }
    assert of_environment(environ) == ("abcdef0123456789", "k3y-0123456789", "pr0xy-pass")


def test_a_secret_of_many_lines_is_its_longest_ones() -> None:
    words = of_contents([b"\n".join(b"line %02d %s" % (at, b"x" * at) for at in range(60))])
    assert 0 < len(words) <= 24


def test_short_secrets_are_shown_by_their_length() -> None:
    assert shown(b"abc") == "... (3 characters)"
    assert shown(b"abcdefgh") == "ab... (8 characters)"
    assert shown(b"\x00\xffabcdefghijklmnop") == "..ab... (18 characters)"


@pytest.mark.parametrize("before", [0, (4 << 20) - 10, (4 << 20) + 5, 9 << 20])
def test_large_files_are_read_in_pieces(before: int) -> None:
    token = f"gl{'pat-'}{letters(20)}"
    text = ("word\n" * (before // 5)).encode() + token.encode() + b"\nrest\n"
    entry = Entry(b"a", "f", 0o644, 0, 0, len(text), sha256="00" * 32)
    (row,) = Looking(search=Search()).in_large(b"a", entry, lambda _entry: io.BytesIO(text))
    assert f"in line {before // 5 + 1}:" in row[1]


def test_large_files_that_are_no_text_are_left_out() -> None:
    data = bytes(100) + f"gl{'pat-'}{letters(20)}".encode()
    entry = Entry(b"a", "f", 0o644, 0, 0, len(data))
    assert Looking(search=Search()).in_large(b"a", entry, lambda _entry: io.BytesIO(data)) == []


def test_a_key_is_one_whatever_its_letters_are() -> None:
    body = b"MC4CAQAwBQYDK2VwBCIEIGtF4yJs7/2vX7SdslJhKWwN11QxK6t8R++uLJk+++Ow"
    kind = b"PRIVATE" + b" KEY"
    text = b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (kind, body, kind)
    for data in (text, text.replace(b"\n", b"\\n"), text.replace(b"\n", b"\\n' +\n '")):
        assert [hit.rule for hit in Search().find(data)] == ["private-key"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("before", [0, 9 << 20])
def test_texts_in_utf_16_are_read(encoding: str, before: int) -> None:
    """As Windows writes them: with a mark of the order of their bytes in front."""
    for secret in (f"gl{'pat-'}{letters(20)}", "a word of the build 1"):
        text = "\ufeff" + "word\r\n" * (before // 12) + secret + "\r\nrest\r\n"
        data, search = text.encode(encoding), Search(["a word of the build 1"])
        entry = Entry(b"a", "f", 0o644, 0, 0, len(data), sha256="00" * 32)
        opened = functools.partial(_stream, data)
        (row,) = Looking(search=search).in_large(b"a", entry, opened)
        assert f"in line {before // 12 + 1}:" in row[1]
        assert not search.clean(data)
        assert [hit.line for hit in search.find(data)] == [before // 12 + 1]


def _stream(data: bytes, _entry: Entry) -> io.BytesIO:
    return io.BytesIO(data)


def test_names_links_and_attributes_are_read_and_never_told() -> None:
    token = f"gl{'pat-'}{letters(20)}"
    raw = token.encode()
    entries = [
        Entry(b"srv/plain", "f", 0o644, 0, 0),
        Entry(b"srv/" + raw, "d", 0o755, 0, 0),
        Entry(b"srv/" + raw + b"/file", "f", 0o644, 0, 0),
        Entry(b"srv/link", "l", 0o777, 0, 0, target=b"/x/" + raw),
        Entry(b"srv/marked", "f", 0o644, 0, 0, xattrs=((b"user.key", raw),)),
    ]
    rows = Looking(search=Search()).in_names((entry.path, entry) for entry in entries)
    assert [(path, what.partition(" has ")[0]) for path, what, _ in rows] == [
        (b"srv", "a name in it"), (b"srv/link", "its target"),
        (b"srv/marked", "an extended attribute of it"),
    ]  # fmt: skip
    assert not any(token in what for _, what, _ in rows)
    allowed = AllowedSecret(path="/srv/link", reason="opens nothing")
    assert len(Looking(search=Search(), allow=[allowed]).in_names([(b"srv/link", entries[3])])) == 0
    assert Looking(search=Search()).in_names([(b"srv/plain", entries[0])]) == []
