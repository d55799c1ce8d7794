"""`buildstep assets index`: make the index for readers behind a web server."""

from __future__ import annotations

import click

from buildstep.cli.assets_options import Work, with_assets
from buildstep.cli.options import JSON, show
from buildstep.system.text import plural


@click.command("index")
@with_assets
@JSON
def command(work: Work, as_json: bool) -> None:
    """Make the index of a store, which readers need that see it through a plain web server.

    It is `~assets/index.json`, and once it is there, each push and delete keeps it up to date.
    """
    store = work.store()
    count = store.make_index()
    line = f"{store.url}: an index of {plural(count, 'asset')}"
    show({"store": store.url, "assets": count}, [line], as_json=as_json, done=line)
