"""Updates: what follows a changed template, what stays, and what a kill leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildstep.errors import SpecError
from buildstep.services.repository import Repository
from buildstep.services.update import apply, plan_updates
from tests.unit.services.repositories import create, template

BEFORE = "param.asked = @ASK default:1\nparam.fixed = a\nparam.mine = a\nparam.gone = a\nparam.kept = a\n"
AFTER = "param.asked = @ASK default:2\nparam.fixed = new\nparam.mine = new\nparam.new = n\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A service whose template has changed since, and of which a person changed two values."""
    folder = template(
        tmp_path, "web", {"instance.hrd": BEFORE, "actions_node.py": "class Actions:\n    pass\n"}
    )
    service = create(tmp_path, "web")
    service.set({"param.mine": "c", "param.kept": "c", "param.own": 5})
    (folder / "instance.hrd").write_text(AFTER)
    (folder / "actions_node.py").unlink()
    (folder / "service.hrd").write_text("packages = jq\n")
    return tmp_path


VALUES = {
    "param.asked": "1", "param.fixed": "new", "param.mine": "c", "param.kept": "c", "param.own": "5", "param.new": "n",
}  # fmt: skip


def changes(root: Path) -> list[str]:
    repository = Repository.open(root)
    return [
        str(row)
        for update in plan_updates(repository, list(repository.services.values()))
        for row in update.changes
    ]


def test_what_the_template_gave_follows_it_and_what_a_person_set_stays(root: Path) -> None:
    assert changes(root) == [
        "N template packages = jq",
        "M instance param.fixed: a -> new",
        "N instance param.new = n",
        "D instance param.gone",
        "D file actions_node.py",
    ]
    repository = Repository.open(root)
    apply(plan_updates(repository, list(repository.services.values())))
    service = Repository.open(root).one("web")
    assert service.instance.values == VALUES
    assert service.template.get("packages") == "jq"
    assert dict(service.actions) == {}
    assert changes(root) == []


@pytest.mark.parametrize("last", range(3))
def test_an_update_that_is_killed_is_finished_by_the_next(
    root: Path, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.replace
    child = os.fork()
    if child == 0:
        left = [last]

        def dying(self: Path, target: Path) -> Path:
            if not left[0]:
                os._exit(9)
            left[0] -= 1
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", dying)
        repository = Repository.open(root)
        apply(plan_updates(repository, list(repository.services.values())))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    repository = Repository.open(root)
    apply(plan_updates(repository, list(repository.services.values())))
    assert Repository.open(root).one("web").instance.values == VALUES
    assert changes(root) == []


def test_a_template_that_is_gone_is_told(root: Path) -> None:
    (root / "servicetemplates/web").rename(root / "web")
    with pytest.raises(SpecError) as caught:
        changes(root)
    assert "web!main: its template is gone" in caught.value.detail
