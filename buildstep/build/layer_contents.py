"""What each layer of an image that was built is, and what it brings, for the build record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from buildstep.build import layer_comments
from buildstep.build.context import BuildState
from buildstep.events import LayerWritten
from buildstep.images.record import ImageRecord
from buildstep.report.record import Layer
from buildstep.report.words import brings, title
from buildstep.rootfs.installers.package_database import named
from buildstep.spec.load import BuildSpec

NOTHING = (None, None, None)


def layers(spec: BuildSpec, state: BuildState) -> tuple[Layer, ...]:
    """Return all layers of the OCI image, base first; none where it is not among the files."""
    extra = next((artifact.extra for artifact in state.artifacts if "layers" in artifact.extra), {})
    names = ("layers", "diff_ids", "layer_sizes", "layer_comments", "layer_history", "layer_brought")
    rows = list(zip(*(extra.get(name, ()) for name in names), strict=True))
    packages = _packages(spec, state, [comment for _, _, _, comment, *_ in rows])
    found = []
    for number, (digest, diff_id, size, comment, (created_by, told), brought) in enumerate(rows):
        files, length, removed = brought or NOTHING
        found.append(
            Layer(
                digest=digest.removeprefix("sha256:"),
                diff_id=diff_id.removeprefix("sha256:"),
                size=size,
                comment=f"{comment}: {told}" if told and told != comment else comment,
                created_by=created_by,
                base=number < state.image.own_layers,
                files=files,
                bytes=length,
                removed=removed,
                packages=packages.get(number, ()),
            )
        )
    return tuple(found)


def events(found: Sequence[Layer]) -> Iterator[LayerWritten]:
    """Yield what the log is told of the layers."""
    for number, layer in enumerate(found, 1):
        text = ": ".join(filter(None, (title(layer), brings(layer))))
        yield LayerWritten(number=number, total=len(found), digest=layer.digest, size=layer.size, text=text)


def _packages(spec: BuildSpec, state: BuildState, comments: list[str]) -> dict[int, tuple[str, ...]]:
    """Return the packages that each layer brings, by its number, of those that bring any."""
    base: ImageRecord = state.image
    found = dict(enumerate(layer.packages for layer in base.layers))
    if not base.layers and base.own_layers:
        found[0] = named(base.packages)
    if state.installed is not None and comments:
        ours = layer_comments.packages(spec)
        # Packages that were not installed in a layer of their own are in the top one.
        number = next((at for at, text in enumerate(comments) if text == ours), len(comments) - 1)
        if number >= base.own_layers:
            found[number] = named(state.installed.packages, base.packages)
    return found
