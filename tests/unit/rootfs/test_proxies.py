"""Proxies of the CI host made usable in an image (D8)."""

from __future__ import annotations

import pytest

from buildstep.errors import SandboxError
from buildstep.rootfs.proxies import hide_password, proxies_from


def refused(host: str) -> str:
    raise OSError(-2, "Name or service not known")


@pytest.mark.parametrize(
    ("given", "address", "expected"),
    [
        ("http://proxy:3128", "192.0.2.7", "http://192.0.2.7:3128"),
        ("http://proxy:3128/", "192.0.2.7", "http://192.0.2.7:3128/"),
        ("http://proxy", "192.0.2.7", "http://192.0.2.7"),
        ("proxy:3128", "192.0.2.7", "http://192.0.2.7:3128"),
        ("http://proxy:3128", "2001:db8::7", "http://[2001:db8::7]:3128"),
        # D8: the host's name as user or password stays as it is.
        ("http://proxy:proxy@proxy:3128", "192.0.2.7", "http://proxy:proxy@192.0.2.7:3128"),
        ("http://u:p%40ss@proxy:1", "192.0.2.7", "http://u:p%40ss@192.0.2.7:1"),
        ("socks5h://proxy:1080", "192.0.2.7", "socks5h://192.0.2.7:1080"),
    ],
)
def test_d8_the_proxys_host_becomes_its_address(given: str, address: str, expected: str) -> None:
    env = proxies_from({"http_proxy": given}, resolve=lambda _host: address).env
    assert env["http_proxy"] == expected


@pytest.mark.parametrize(
    "given", ["http://192.0.2.1:3128", "http://[2001:db8::1]:3128/", "http://u:p@[::1]:1"]
)
def test_a_literal_address_is_kept(given: str) -> None:
    assert proxies_from({"http_proxy": given}, resolve=refused).env["http_proxy"] == given


def test_a_proxy_over_tls_keeps_its_name_and_is_noted() -> None:
    proxies = proxies_from({"https_proxy": "https://proxy.example:443"}, resolve=refused)
    assert proxies.env["https_proxy"] == "https://proxy.example:443"
    assert any("proxy.example" in note for note in proxies.notes)


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy"])
def test_every_variable_is_given_in_both_cases(name: str) -> None:
    for spelled in (name, name.upper()):
        env = proxies_from({spelled: "http://p:1"}, resolve=lambda _host: "192.0.2.7").env
        assert env == {name: "http://192.0.2.7:1", name.upper(): "http://192.0.2.7:1"}


def test_no_proxy_is_passed_unchanged() -> None:
    assert proxies_from({"NO_PROXY": "a,b"}).env == {"no_proxy": "a,b", "NO_PROXY": "a,b"}


def test_d8_a_name_without_an_address_is_an_error_that_names_the_variable() -> None:
    with pytest.raises(SandboxError, match=r"http_proxy.*nowhere\.invalid has no address") as caught:
        proxies_from({"http_proxy": "http://u:sesame@nowhere.invalid:1"}, resolve=refused)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "bad", ["http://:3128", "http://u:sesame@host:port", "http://u:sesame@[::1:3128", "http://"]
)
def test_what_is_no_proxy_address_is_refused_without_its_password(bad: str) -> None:
    with pytest.raises(SandboxError) as caught:
        proxies_from({"http_proxy": bad}, resolve=refused)
    assert "http_proxy" in caught.value.message
    assert "sesame" not in caught.value.message


def test_passwords_are_masked() -> None:
    proxies = proxies_from({"http_proxy": "http://u:p%40ssword@h:1"}, resolve=lambda _host: "192.0.2.7")
    for text in ("u:p%40ssword@192.0.2.7", "p@ssword", "p%40ssword"):
        assert "ssword" not in proxies.mask(f"cannot reach {text} today")
    assert "ssword" not in hide_password("http://u:p%40ssword@h:1")
