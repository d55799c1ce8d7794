"""Which hosts commands in an image may reach, and which way."""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from buildstep.errors import SandboxError
from buildstep.rootfs.network_policy import (
    Endpoint,
    Policy,
    RefusedError,
    allowed_by,
    endpoint_of,
    own_addresses,
    upstream,
)

OWN = frozenset(map(ipaddress.ip_address, ("192.0.2.7", "2001:db8::7")))
WEB = Endpoint("deb.example.org", 80)


def policy(*addresses: str, allowed: frozenset[Endpoint] = frozenset()) -> Policy:
    return Policy(allowed=allowed, resolve=lambda _host, _port: list(addresses), own=lambda: OWN)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "::1", "0.0.0.0", "0.1.2.3", "::", "169.254.169.254", "169.254.1.1", "fe80::1",
        "fe80::1%eth0", "192.0.2.7", "2001:db8::7", "::ffff:127.0.0.1", "::ffff:192.0.2.7", "::127.0.0.1",
        "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::c000:207", "fd00:ec2::254", "168.63.129.16",
        "100.100.100.200", "224.0.0.1", "ff02::1",
    ],
)  # fmt: skip
def test_what_leads_to_the_host_is_refused(address: str) -> None:
    with pytest.raises(RefusedError, match=r"deb\.example\.org:80 is the CI host itself.*network\.allow"):
        policy(address).addresses(WEB)


@pytest.mark.parametrize("address", ["198.51.100.1", "10.1.2.3", "192.168.1.1", "2001:db8::8", "192.0.2.8"])
def test_others_are_reached(address: str) -> None:
    assert policy(address).addresses(WEB) == [address]


def test_of_several_addresses_those_of_the_host_are_left_out() -> None:
    assert policy("127.0.0.1", "198.51.100.1").addresses(WEB) == ["198.51.100.1"]


def test_only_what_is_named_is_reached_though_it_is_the_host() -> None:
    local = policy("127.0.0.1", allowed=frozenset({Endpoint("127.0.0.1", 8080)}))
    assert local.addresses(Endpoint("127.0.0.1", 8080)) == ["127.0.0.1"]
    for other in (Endpoint("127.0.0.1", 8081), Endpoint("localhost", 8080), Endpoint("127.0.0.2", 8080)):
        with pytest.raises(RefusedError):
            local.addresses(other)


def test_a_name_that_only_another_proxy_knows_is_left_to_it() -> None:
    def unknown(_host: str, _port: int) -> list[str]:
        raise OSError("no such name")

    Policy(resolve=unknown, own=lambda: OWN).check_name(WEB)
    with pytest.raises(RefusedError):
        policy("127.0.0.1").check_name(WEB)


def test_what_the_users_configuration_names() -> None:
    environ = {"BUILDSTEP_NETWORK_ALLOW": "127.0.0.1:8080, Cache.example.org:3142,[::1]:80"}
    mirrors = ["http://localhost/debian", "https://mirror.example.org/debian", "file:/srv/debian", ""]
    assert allowed_by(environ, mirrors) == {
        Endpoint("127.0.0.1", 8080), Endpoint("cache.example.org", 3142), Endpoint("::1", 80),
        Endpoint("localhost", 80), Endpoint("mirror.example.org", 443),
    }  # fmt: skip
    assert allowed_by({}) == frozenset()
    with pytest.raises(SandboxError, match="BUILDSTEP_NETWORK_ALLOW"):
        allowed_by({"BUILDSTEP_NETWORK_ALLOW": "127.0.0.1:many"})


@pytest.mark.parametrize("text", ["", ":80", "http://", "x:99999", "ftp://x/"])
def test_what_is_no_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        endpoint_of(text)


def test_the_hosts_own_addresses_by_the_kernels_tables(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n"
        "     |-- 192.0.2.0\n        /24 link UNICAST\n     |-- 192.0.2.7\n        /32 link BROADCAST\n"
        "        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n"
    )
    (tmp_path / "if_inet6").write_text("20010db8000000000000000000000007 02 40 00 82     eth0\n")
    assert own_addresses(tmp_path) == OWN
    assert own_addresses(tmp_path / "none") == frozenset()


PROXY = {
    "http_proxy": "http://user:p%40ss@proxy:3128/",
    "HTTPS_PROXY": "https://secure",
    "no_proxy": "near,.lan",
}


def test_the_hosts_own_proxy_is_gone_through() -> None:
    plain = upstream(PROXY, "http", WEB)
    assert plain is not None
    assert (plain.at, plain.tls, plain.auth) == (Endpoint("proxy", 3128), False, "Basic dXNlcjpwQHNz")
    secure = upstream(PROXY, "https", WEB)
    assert secure is not None
    assert (secure.at, secure.tls, secure.auth) == (Endpoint("secure", 443), True, "")
    assert upstream({}, "http", WEB) is None
    assert upstream({"ALL_PROXY": "proxy:1"}, "http", WEB) is not None


@pytest.mark.parametrize("user", ["us%E4r:p%F6ss", os.fsdecode(b"us\xe4r:p\xf6ss")])
def test_a_proxys_password_need_not_be_utf_8(user: str) -> None:
    found = upstream({"http_proxy": f"http://{user}@proxy:3128/"}, "http", WEB)
    assert found is not None
    assert found.auth == "Basic " + base64.b64encode(b"us\xe4r:p\xf6ss").decode()


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("near", "near", True), ("near", "far.near", True), (".lan", "x.lan", True), ("*.lan", "x.lan", True),
        (".lan", "xlan", False), ("*", "any", True), ("a,b c", "c", True), ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False), ("near:80", "near", True), ("near:81", "near", False), ("", "near", False),
    ],
)  # fmt: skip
def test_what_the_hosts_proxy_is_not_for(no_proxy: str, host: str, direct: bool) -> None:
    environ: Mapping[str, str] = {"http_proxy": "http://proxy:1", "no_proxy": no_proxy}
    assert (upstream(environ, "http", Endpoint(host, 80)) is None) is direct


@pytest.mark.parametrize("value", ["socks5://u:sesame@proxy:1", "http://u:sesame@:1"])
def test_a_proxy_that_is_none_is_refused_without_its_password(value: str) -> None:
    with pytest.raises(SandboxError) as caught:
        upstream({"http_proxy": value}, "http", WEB)
    assert "sesame" not in str(caught.value)
