"""`buildstep image copy`: an image with all that is said of it, between registries, layouts and archives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from buildstep.cli import values
from buildstep.cli.options import JSON, POLICY, REQUIRE, show, with_session

if TYPE_CHECKING:
    from buildstep.cli.session import Session


@click.command("copy")
@click.argument("source", metavar="SOURCE", shell_complete=values.IMPORTABLE)
@click.argument("target", metavar="TARGET", shell_complete=values.TARGETS)
@REQUIRE
@POLICY
@click.option("--replace", is_flag=True, help="The target's tag may be moved to this image.")
@click.option("--insecure", is_flag=True, help="Do not check certificates; plain http to a registry.")
@with_session(healing=False, enclosed=False)
@JSON
@click.option("-v", "--verbose", count=True, help="Show more.")
def command(session: Session, source: str, target: str, as_json: bool, **flags: Any) -> None:
    """Copy an image with its platforms, signatures, attestations and bills of materials.

    SOURCE: docker://HOST/NAME[:TAG|@DIGEST], or oci:PATH[:TAG], a layout or an archive of one; the files
    beside an archive go along. TARGET: docker://HOST/NAME[:TAG], oci:DIRECTORY[:TAG], or an archive,
    oci-archive:FILE[:TAG] or FILE.oci.tar[:TAG]; the tag is the source's by default. What is there already is
    not sent again; an archive has one image, and is written anew. What is judged is what is copied, by its
    digest.
    """
    from buildstep.images.copying import copy_image
    from buildstep.images.publish import options_for
    from buildstep.spec.config import TargetConfig

    options = options_for(
        TargetConfig(target=target),
        environ=session.environ,
        http=session.config.http,
        bus=session.bus,
        **flags,
    )
    done = copy_image(source, target, options, session.bus, session.backend.state / "downloads")
    line = f"{done.digest}  {target}  {done.manifests} manifests, {done.attestations} attestations"
    show(done.to_json(), [line], as_json=as_json, done=line)
