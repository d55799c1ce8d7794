"""Which texts of a secret file are hidden, and in which forms."""

from __future__ import annotations

import base64
import json
import random
import string
from urllib.parse import quote

import pytest

from buildstep.events import Bus, Checked, Event, Note, Output
from buildstep.system import masking


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("machine a login b password s3cr3t-word\n", "s3cr3t-word"),
        ("//host/:_authToken=abcd1234\n", "abcd1234"),
        ("//host/:_password=cGFzcw==\n", "cGFzcw=="),
        ("[global]\nindex-url = https://me:p4ssw0rd@host/simple\n", "p4ssw0rd"),
        ("https://token-alone@host/simple\n", "token-alone"),
        ('{"auth": {"password": "in json"}}', "in"),
        ('[registry]\ntoken = "cargo-token"\n', "cargo-token"),
        ("one word alone\n", "one word alone"),
        ("short", "short"),
    ],
)
def test_what_is_secret_in_a_file(text: str, word: str) -> None:
    found = masking.words(text.encode())
    assert word in found or len(word) < masking.LEAST
    assert text.strip() in found


def test_common_words_of_a_file_are_not_hidden() -> None:
    found = masking.words(b"machine example.org login me password s3cr3t-word\n")
    assert not {"machine", "example.org", "login", "password"} & set(found)
    assert masking.words(b"abc\n") == ()


def encodings(word: str) -> list[str]:
    raw = word.encode()
    found = [word, quote(word, safe=""), quote(word), raw.hex(), json.dumps(word)[1:-1]]
    for before in ("", "u", "us", "use"):
        for after in ("", "x", "xy"):
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                found.append(encode((before + word + after).encode()).decode())
    return found


def test_every_form_is_found_wherever_it_is() -> None:
    drawn = random.Random(7)
    for _ in range(300):
        word = "".join(
            drawn.choices(string.ascii_letters + string.digits + "-_/+=:@ \"'é", k=drawn.randint(6, 30))
        )
        finder = masking.pattern([word])
        for text in encodings(word):
            left = finder.sub("", f"Authorization: {text} end")
            assert len(left) <= len("Authorization:  end") + 12, (word, text, left)
            assert word not in left
            assert masking.finder([word]).search(f"x{text}y".encode()), (word, text)


def test_a_bus_shows_no_hidden_text_in_any_event() -> None:
    events: list[Event] = []
    bus = Bus(events.append)
    bus.note("before s3cr3t-word")
    bus.hide(masking.pattern(["s3cr3t-word"]))
    bus.hide(masking.pattern(["another-one"]))
    bus.output("tool", "the s3cr3t-word, another-one and " + base64.b64encode(b"s3cr3t-word").decode())
    bus.note("note s3cr3t-word")
    bus.emit(Checked(check="a", group="rule", result="failed", seconds=0.0, lines=("x s3cr3t-word",)))
    texts = [event.text for event in events if isinstance(event, Output | Note)]
    assert texts[0] == "before s3cr3t-word"
    assert "s3cr3t" not in "".join(texts[1:])
    assert texts[1].count("***") == 3
    (checked,) = [event for event in events if isinstance(event, Checked)]
    assert checked.lines == ("x ***",)
