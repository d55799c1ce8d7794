"""References to images in registries. What needs a registry is in tests/integration/test_registry.py."""

from __future__ import annotations

import pytest

from buildstep.errors import UsageError
from buildstep.net.registry import Reference, is_loopback

D = "sha256:" + "a" * 64


class TestReferences:
    @pytest.mark.parametrize(
        ("text", "host", "repository", "wanted"),
        [
            ("docker://127.0.0.1:5000/ns/img:v1", "127.0.0.1:5000", "ns/img", "v1"),
            ("//registry.example.com/img", "registry.example.com", "img", "latest"),
            ("docker://debian:12", "docker.io", "library/debian", "12"),
            ("docker://grafana/grafana", "docker.io", "grafana/grafana", "latest"),
            (f"docker://localhost/x@{D}", "localhost", "x", D),
            (f"docker://h:1/x:t@{D}", "h:1", "x", D),
            ("docker://[::1]:5000/x", "[::1]:5000", "x", "latest"),
        ],
    )
    def test_good(self, text: str, host: str, repository: str, wanted: str) -> None:
        ref = Reference.parse(text)
        assert (ref.host, ref.repository, ref.wanted) == (host, repository, wanted)
        assert Reference.parse(str(ref)) == ref

    @pytest.mark.parametrize(
        "text", ["docker://h.x/UPPER", "docker://h.x/", "docker://h.x/a:b c", "docker://h.x/a@sha256:1", "docker://",
                 "docker://h.x/../b", "docker://u:p@h.x/a", "docker://h.x/a:"]
    )  # fmt: skip
    def test_bad(self, text: str) -> None:
        with pytest.raises(UsageError):
            Reference.parse(text)

    def test_where_http_will_do(self) -> None:
        assert all(map(is_loopback, ("127.0.0.1:5000", "localhost", "[::1]:80", "x.localhost:1")))
        assert not any(map(is_loopback, ("10.0.0.1", "example.com:5000", "localhost.example.com")))
