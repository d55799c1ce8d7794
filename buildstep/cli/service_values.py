"""What completion offers for the values of `buildstep service`: verbs, actions with logs, what was saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from buildstep.cli.values import callback


def _service_verbs(_context: click.Context, _param: click.Parameter, _begun: str) -> Iterable[str]:
    from buildstep.services.flow import VERBS

    return VERBS


SERVICE_VERBS = callback(_service_verbs)
"""Of what is done with services."""

SPANS = callback(lambda *_: ("30s", "1m", "5m", "1h"))
"""Of a span of time."""


def _service_logs(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    from buildstep.cli.service_options import open_repository
    from buildstep.services.records import Book, action_of

    service = open_repository(context.params.get("root"), strict=False).one(context.params["key"])
    rows = Book(lambda _key: service.folder).logs(service.key)
    yield from sorted({action_of(path).removeprefix("node.") for _, path in rows})


SERVICE_LOGS = callback(_service_logs)
"""Of an action of a service that has logs."""


def _service_exports(context: click.Context, _param: click.Parameter, _begun: str) -> Iterator[str]:
    from buildstep.cli.service_options import open_repository
    from buildstep.services.records import Book

    service = open_repository(context.params.get("root"), strict=False).one(context.params["key"])
    record = Book(lambda _key: service.folder).load(service.key)
    for name, ran in record.actions.items():
        if name.endswith(".data_export") and ran.result:
            yield str(ran.result)


SERVICE_EXPORTS = callback(_service_exports)
"""Of what a service has saved last."""
