"""The fields of an image manifest (imgmanifest v2), in one table.

FIELDS says for every field who sets it, what the IMGAPI guide allows (`emit`: what we write) and
what the validators in use let pass (`accept`: what we read). Validation, key order, the
published schema and the reference are all made from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from buildstep.spec.schema import BOOLEAN, HTTP, Rule, array, choice, integer, mapping, record, text

Limits = Literal["emit", "accept"]
Who = Literal["author", "buildstep", "server"]

V: Final = 2


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the manifest.

    emit, accept: the rule for what we write, and the wider one for what we read, if there is one.
    about: a sentence. who: who sets it. inherited: whether it comes from the base when not given.
    """

    name: str
    emit: Rule
    accept: Rule | None = None
    about: str = field(kw_only=True)
    who: Who = field(default="author", kw_only=True)
    inherited: bool = field(default=False, kw_only=True)

    def rule(self, limits: Limits) -> Rule:
        """Return the rule under these limits."""
        return self.emit if limits == "emit" or self.accept is None else self.accept


_UUID = text("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", say="a UUID in lower-case hex")
_LENIENT_BOOLEAN = choice([True, False, "true", "false"])
_STATES = ("active", "unactivated", "disabled", "creating", "failed")
_TYPES = ("zone-dataset", "zvol", "lx-dataset", "lxd", "docker", "other")
_OSES = ("smartos", "linux", "windows", "bsd", "illumos", "other")
_STRING = text(least=0)


def _named(characters: str, most: int, say: str) -> Rule:
    return text(f"[{characters}]*", say=say, most=most)


def _name(most: int) -> Rule:
    return _named("A-Za-z0-9._/ -", most, "made of A-Z a-z 0-9 . _ / - and space")


def _version(most: int) -> Rule:
    return _named("A-Za-z0-9._/+-", most, "made of A-Z a-z 0-9 . _ / + -")


def _url(most: int) -> Rule:
    return text(rf"{HTTP}://[^\s]+", say="an http or https URL", most=most)


_MONTH, _DAY = "(0[1-9]|1[0-2])", "(0[1-9]|[12][0-9]|3[01])"
_HOUR, _SIXTY = "([01][0-9]|2[0-3])", "[0-5][0-9]"
_PUBLISHED = text(
    rf"[0-9]{{4}}-{_MONTH}-{_DAY}T{_HOUR}:{_SIXTY}:{_SIXTY}(\.[0-9]{{3}})?Z",
    say="a date and time like 2024-02-29T23:59:59Z or 2024-02-29T23:59:59.000Z",
)
_PUBLISHED_LOOSE = text(
    r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}(\.[0-9]{3})?Z",
    say="of the form YYYY-MM-DDTHH:MM:SS[.mmm]Z",
)

_PLATFORMS = "(201[2-9]|20[2-9][0-9]|2[1-9][0-9]{2}|[3-9][0-9]{3})"  # there is none before 2012
_STAMP_WORDS = "a platform stamp YYYYMMDDTHHMMSSZ of 2012 or later"
_STAMP = text(f"{_PLATFORMS}{_MONTH}{_DAY}T{_HOUR}{_SIXTY}{_SIXTY}Z", say=_STAMP_WORDS)
# Validators compare month, day, hour, minute and second as numbers; what has letters is none, and passes.
_LOOSE = [rf"({part}|(?![0-9]{{2}})[^\n]{{2}})" for part in (_MONTH, _DAY, _HOUR, _SIXTY, _SIXTY)]
_STAMP_LOOSE = text(
    f"{_PLATFORMS}{''.join(_LOOSE[:2])}T{''.join(_LOOSE[2:])}Z", say=f"{_STAMP_WORDS}, each part in its range"
)
# A tool on a host without a version once wrote the key "undefined": nobody could install that image.
_SDC_VERSION = text(r"[0-9]+(\.[0-9]+)*", say="an SDC version such as 7.0")


def _requirements(least_ram: int | None, stamp: Rule) -> Rule:
    platforms = mapping(stamp, keys=_SDC_VERSION, least=1)
    network = record({"name": _STRING, "description": _STRING}, required=("name", "description"))
    return record(
        {
            "networks": array(network),
            "brand": text(),
            "ssh_key": BOOLEAN,
            "min_ram": integer(least_ram),
            "max_ram": integer(least_ram),
            "bootrom": choice(["bios", "uefi"]),
            "min_platform": platforms,
            "max_platform": platforms,
        }
    )


_COMPRESSIONS = choice(["gzip", "bzip2", "xz", "none"])
_DIGEST = text("sha256:[0-9a-f]{64}", say="sha256: and 64 hex digits")
_FILE = record(
    {
        "size": integer(1, 20 * 1024**3),
        "compression": _COMPRESSIONS,
        "sha1": text("[0-9a-f]{40}", say="40 hex digits"),
        "dataset_guid": text("[0-9]+", say="a ZFS guid in decimal"),
        "digest": _DIGEST,
        "uncompressedDigest": _DIGEST,
    },
    required=("size", "compression", "sha1"),
)
_FILE_LOOSE = record(
    {"size": {"type": "integer", "minimum": 1}, "compression": _COMPRESSIONS, "sha1": text()},
    required=("size", "compression", "sha1"),
    extra=True,
)

_ERROR = record({"message": text(), "code": _STRING, "stack": _STRING}, extra=True)
_LABELS = mapping({"type": ["string", "boolean", "array"]})

FIELDS: Final = (
    Field(
        "v",
        choice([V]),
        # Any number passes the validators, 1.5 and "2" included.
        accept={
            "type": ["number", "string"],
            "minimum": 0,
            "pattern": r"^[0-9]+(\.[0-9]+)?$(?!\n)",
            "$comment": "a number",
        },
        about="Version of the manifest format.",
    ),
    Field("uuid", _UUID, about="Identity; a random one unless given."),
    Field("owner", _UUID, about="Account that owns the image; the nil UUID unless given."),
    Field("name", _name(512), _name(1024), about="Name."),
    Field("version", _version(128), _version(512), about="Version."),
    Field("urn", _STRING, who="server", about="Dead since v2."),
    Field(
        "state",
        choice(_STATES),
        who="server",
        about="Where the image stands in a repository's life cycle.",
    ),
    Field(
        "activated",
        BOOLEAN,
        _LENIENT_BOOLEAN,
        who="server",
        about="Whether it can be installed; kept inside the repository.",
    ),
    Field("disabled", BOOLEAN, _LENIENT_BOOLEAN, who="server", about="Whether it is withdrawn from use."),
    Field("public", BOOLEAN, _LENIENT_BOOLEAN, about="Whether all accounts may use it."),
    Field(
        "published_at",
        _PUBLISHED,
        _PUBLISHED_LOOSE,
        about="When it was published, UTC; the start of the build unless given.",
    ),
    Field("type", choice(_TYPES), choice([*_TYPES, "null"]), inherited=True, about="What the file holds."),
    Field("os", choice(_OSES), choice([*_OSES, "null"]), inherited=True, about="Operating system."),
    Field("origin", _UUID, who="buildstep", about="The image an incremental one was taken from."),
    Field(
        "files",
        array(_FILE, most=2),
        array(_FILE_LOOSE, most=2),
        who="buildstep",
        about="The image file.",
    ),
    Field("description", text(most=512, least=0), text(most=10240, least=0), about="A sentence about it."),
    Field("homepage", _url(128), _url(1024), about="Where to read more."),
    Field("eula", _url(128), _url(1024), about="Licence terms."),
    Field("icon", BOOLEAN, _LENIENT_BOOLEAN, who="server", about="Whether it has an icon."),
    Field("error", _ERROR, who="server", about="Why its creation failed."),
    Field("acl", array(_UUID), about="Accounts that may use a private image."),
    Field(
        "requirements",
        _requirements(0, _STAMP),
        _requirements(None, _STAMP_LOOSE),
        inherited=True,
        about="What a host must offer; merged with the base image's.",
    ),
    Field(
        "users",
        array(record({"name": _STRING}, required=("name",))),
        inherited=True,
        about="Accounts to make passwords for.",
    ),
    Field(
        "generate_passwords",
        BOOLEAN,
        _LENIENT_BOOLEAN,
        inherited=True,
        about="Whether to make them; true unless given.",
    ),
    Field("billing_tags", array(text(most=128, least=0)), inherited=True, about="Labels for billing."),
    Field("traits", _LABELS, inherited=True, about="Labels for placement."),
    Field("tags", {"type": "object"}, about="Free labels; at most 102400 characters as JSON."),
    Field(
        "inherited_directories",
        array(_STRING),
        inherited=True,
        about="Directories shared with the host; for zone-dataset.",
    ),
    Field("nic_driver", _STRING, inherited=True, about="Network device; for zvol."),
    Field("disk_driver", _STRING, inherited=True, about="Disk device; for zvol."),
    Field("cpu_type", _STRING, inherited=True, about="Processor; for zvol."),
    Field("image_size", integer(0), inherited=True, about="Size of the disk in MiB; for zvol."),
    Field("channels", array(_STRING), who="server", about="Channels of the repository it is in."),
)
