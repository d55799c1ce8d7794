"""User and password for a registry."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from buildstep.errors import UsageError
from buildstep.net.credentials import credentials_for


class TestCredentials:
    def test_of_the_environment(self) -> None:
        environ = {"BUILDSTEP_REGISTRY_USER": "u", "BUILDSTEP_REGISTRY_PASSWORD": "secret"}
        found = credentials_for("h", environ)
        assert found is not None
        assert found.password == "secret"
        assert "secret" not in repr(found)
        assert credentials_for("h", {**environ, "BUILDSTEP_REGISTRY_HOST": "other"}) is None

    def test_of_docker_login(self, tmp_path: Path) -> None:
        auth = base64.b64encode(b"ci:a:b").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {"h:1": {"auth": auth}}}))
        environ = {"DOCKER_CONFIG": str(tmp_path)}
        found = credentials_for("h:1", environ)
        assert found is not None
        assert (found.user, found.password) == ("ci", "a:b")
        assert credentials_for("h:2", environ) is None
        (tmp_path / "config.json").write_text("not json")
        with pytest.raises(UsageError):
            credentials_for("h:1", environ)
