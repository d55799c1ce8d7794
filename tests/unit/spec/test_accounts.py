"""Accounts and units of a spec: what contradicts itself is told with all else."""

from __future__ import annotations

from tests.unit.specdata import Load, faults, with_build


def test_what_is_given_twice_is_told(build: Load) -> None:
    users = [{"name": "a", "uid": 990}, {"name": "a", "uid": 991}, {"name": "b", "uid": 990}]
    groups = [{"name": "g", "gid": 5}, {"name": "h", "gid": 5}]
    found = faults(build, with_build(users=users, groups=groups))
    assert found.keys() == {
        *("$.build.users[1].name", "$.build.users[2].uid", "$.build.groups[1].gid"),
    }
    assert "990 is given twice, and is a's already" in found["$.build.users[2].uid"]


def test_a_users_own_group_must_be_free(build: Load) -> None:
    users = [{"name": "a", "uid": 990}, {"name": "b", "uid": 991, "gid": 990}, {"name": "c", "uid": 992}]
    groups = [{"name": "other", "gid": 990}, {"name": "c", "gid": 77}]
    found = faults(build, with_build(users=users, groups=groups))
    assert found.keys() == {"$.build.users[0].uid"}, "c's own group is given, b names the number of one"
    assert "which other has" in found["$.build.users[0].uid"]


def test_gid_and_group_are_one_too_many(build: Load) -> None:
    found = faults(build, with_build(users=[{"name": "a", "uid": 990, "gid": 5, "group": "g"}]))
    assert found.keys() == {"$.build.users[0].gid"}


def test_a_unit_is_enabled_or_masked(build: Load) -> None:
    units = {
        "enable": ["a.service", "b.service"],
        "mask": ["b.service"],
        "disable": ["c.service", "a.service"],
    }
    found = faults(build, with_build(units=units))
    assert found.keys() == {"$.build.units.mask[0]", "$.build.units.disable[1]"}


def test_who_is_the_systems(build: Load) -> None:
    users = [
        {"name": "a", "uid": 999},
        {"name": "b", "uid": 1000},
        {"name": "c", "uid": 1001, "system": True},
    ]
    assert [user.is_system for user in build(with_build(users=users)).users] == [True, False, True]
