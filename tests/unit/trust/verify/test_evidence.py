"""What there is about one artifact."""

from __future__ import annotations

from buildstep.trust.verify.evidence import Evidence, RawEnvelope


def test_a_statement_may_mean_an_artifact_by_each_of_its_digests() -> None:
    evidence = Evidence(
        name="hello-1.0.0.oci.tar",
        digests={"sha256": "a" * 64, "oci": "b" * 64},
        envelopes=(RawEnvelope(b"{}", "hello-1.0.0.intoto.jsonl line 1"),),
    )
    assert evidence.subjects == {"a" * 64, "b" * 64}
    assert (evidence.damage, evidence.source, evidence.path) == ("", "", None)
