"""Forms in which advisories come. A new one is one row here and one file beside it."""

from __future__ import annotations

from buildstep.system.registry import Registry, importing
from buildstep.trust.vulnerabilities.feeds.interface import Form

FORMS: Registry[Form] = Registry(
    "advisories",
    "form of advisories",
    {
        "debian-tracker": importing("buildstep.trust.vulnerabilities.feeds.debian_tracker:FORM"),
        "debsecan": importing("buildstep.trust.vulnerabilities.feeds.debsecan:FORM"),
        "osv": importing("buildstep.trust.vulnerabilities.feeds.osv:FORM"),
        "pkgsrc": importing("buildstep.trust.vulnerabilities.feeds.pkgsrc:FORM"),
    },
)
"""In the order in which they are believed where several tell of one system."""
