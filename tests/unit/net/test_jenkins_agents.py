"""Which Jenkins nodes can build an image, and why the others cannot."""

from __future__ import annotations

from buildstep.net.jenkins_agents import JenkinsNode, Needs, judge, list_nodes, needs_of
from tests.servers.jenkins import FakeJenkins, node
from tests.unit.net.test_jenkins import client, jenkins

__all__ = ["jenkins"]

CONFIG = """<?xml version='1.1' encoding='UTF-8'?>
<slave><name>zfs1</name><nodeProperties><hudson.slaves.EnvironmentVariablesNodeProperty>
<envVars serialization="custom"><unserializable-parents/><tree-map><default>
<comparator class="java.lang.String$CaseInsensitiveComparator"/></default><int>2</int>
<string>BUILDSTEP_POOL</string><string>zfs:zones/one/data</string><string>SECRET</string><string>x</string>
</tree-map></envVars></hudson.slaves.EnvironmentVariablesNodeProperty></nodeProperties></slave>"""


def test_agents_say_what_they_are_in_four_places(jenkins: FakeJenkins) -> None:
    jenkins.nodes = [
        node("linux1", labels=("pool-overlay",)),
        node("arm1", description="our arm box\nbuildstep: arch=aarch64 pkgsrc=2021Q4", monitorData={}),
        node(
            "zfs1",
            labels=("pkgsrc-2022Q4",),
            monitorData={"hudson.node_monitors.ArchitectureMonitor": "SunOS (amd64)"},
        ),
        node("gone", offline=True, offlineCauseReason="Disconnected by ann\nmore", monitorData=None),
    ]
    jenkins.configs["zfs1"] = CONFIG
    facts = {node.name: node.facts for node in list_nodes(client(jenkins))}
    assert facts == {
        "linux1": {"arch": "amd64", "os": "linux", "pool": "overlay"},
        "arm1": {"arch": "arm64", "pkgsrc": "2021Q4"},
        "zfs1": {"arch": "amd64", "os": "sunos", "pkgsrc": "2022Q4", "pool": "zfs:zones/one/data"},
        "gone": {},
    }


def test_d43_an_agent_of_another_pkgsrc_release_or_architecture_is_told_why_not() -> None:
    document = {"os": "smartos", "build": {"image": "base-64-lts@21.4.0", "formats": ["zfs"]}}
    needs = needs_of(document, arch="x86_64")
    assert needs == Needs(os="sunos", arch="amd64", pkgsrc="2021Q4", pool="zfs")
    good = JenkinsNode(
        name="good", labels=("os-smartos", "arch-amd64", "pkgsrc-2021Q4", "pool-zfs:zones/a"), idle=1
    )
    old = JenkinsNode(name="old", labels=("os-sunos", "pkgsrc-2018Q4", "pool-zfs"), monitor="SunOS (amd64)")
    linux = JenkinsNode(name="linux", monitor="Linux (aarch64)", offline="by ann")
    verdicts = {it.node.name: it.reasons for it in judge([linux, old, good], needs)}
    assert next(iter(verdicts)) == "good"
    assert verdicts["good"] == ()
    assert verdicts["old"] == ("its pkgsrc release is 2018Q4, and 2021Q4 is needed",)
    assert verdicts["linux"] == (
        "is offline: by ann",
        "its operating system is linux, and sunos is needed",
        "its architecture is arm64, and amd64 is needed",
        "does not say its pkgsrc release, and 2021Q4 is needed (label pkgsrc-2021Q4)",
        "does not say its pool, and zfs is needed (label pool-zfs)",
    )


def test_pools_fit_by_backend_where_one_side_names_no_more() -> None:
    def able(want: str, have: str) -> bool:
        return judge([JenkinsNode(name="a", labels=(f"pool-{have}",))], Needs(pool=want))[0].able

    assert able("zfs", "zfs:zones/a")
    assert able("zfs:zones/a", "zfs")
    assert able("zfs:zones/a", "zfs:zones/a")
    assert not able("zfs:zones/a", "zfs:zones/b")
    assert not able("zfs", "btrfs")
