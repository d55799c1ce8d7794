"""Options of a build, by subject: the cache that agents share, and what proves an image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from buildstep.cli import values

_SHARED_CACHE = (
    click.option(
        "--shared-cache",
        metavar="URL",
        shell_complete=values.STORES,
        help="The cache that agents share: dir:PATH, s3://BUCKET, registry:HOST/NAME, http(s)://...",
    ),
    click.option(
        "--cache-required", is_flag=True, default=None, help="Fail where the shared cache cannot be used."
    ),
    click.option(
        "--cache-trust",
        metavar="T",
        shell_complete=values.OF_SETTING,
        help="Which of its records count: policy (default), release.",
    ),
)
_TRUST = (
    click.option(
        "--sbom/--no-sbom", default=None, help="Write bills of materials beside the image: SPDX, CycloneDX."
    ),
    click.option(
        "--provenance",
        metavar="P",
        shell_complete=values.OF_SETTING,
        help="Write provenance beside the image: min, or max with times and options.",
    ),
    click.option(
        "--sign-key",
        multiple=True,
        metavar="KEY",
        shell_complete=values.FILES,
        help="Sign with it: a file, agent, agent:FINGERPRINT or pkcs11:URI; repeat for more.",
    ),
    click.option(
        "--base-policy",
        metavar="FILE",
        shell_complete=values.FILES,
        help="The policy that the base image has to keep before anything is built on it.",
    ),
)


def shared_cache(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of the shared cache."""
    return functools.reduce(lambda made, option: option(made), reversed(_SHARED_CACHE), command)


def trust(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of what proves an image."""
    return functools.reduce(lambda made, option: option(made), reversed(_TRUST), command)
