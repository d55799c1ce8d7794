"""The table of all settings of a build: each one's rule, flag, variable and meaning.

A setting is a field of `BuildSpec` with the same name, which has its type and its default. Loading, the JSON
Schema of the `build` key and the reference are made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from buildstep.spec.accounts import GROUPS, MODE, UNITS, USERS
from buildstep.spec.check_rules import ALLOW, CHECKS
from buildstep.spec.document import LAST_SECOND
from buildstep.spec.oci_rules import OCI
from buildstep.spec.repositories import REPOSITORY
from buildstep.spec.rules import (
    ABSOLUTE,
    BYTES,
    LIMITS,
    LINE,
    OUTPUT,
    OWNER,
    PACKAGE,
    PLAIN,
    PLATFORM,
    PREFIX,
    SECONDS,
    SIZE,
    SNAPSHOT,
    STORE,
    WORD,
)
from buildstep.spec.run_rules import ENV, NAME, RUN, SECRETS
from buildstep.spec.schema import BOOLEAN, array, choice, integer, mapping, record, text
from buildstep.spec.setting import Choices, Setting
from buildstep.spec.shared_cache import CACHE, TRUST, URL
from buildstep.spec.trust import SETTINGS as OF_TRUST

__all__ = ["SETTINGS", "Choices", "Setting"]

_TABLE: Final = (
    Setting(
        "image",
        WORD,
        "The base image: a uuid, name@version, or a locator such as mmdebstrap:bookworm.",
        flag="-i/--image",
        required=True,
    ),
    Setting(
        "proto",
        LINE,
        "The proto directory, copied over the base image; also an argument by itself. Default: proto, if it "
        "is there.",
        flag="-d/--dir",
        required=True,
    ),
    Setting(
        "platform",
        PLATFORM,
        "What the image is for, such as linux/arm64: a base of a registry, a layout or a suite is the one for"
        " it, and files are named PREFIX-VERSION-ARCH. Default: as the base image is.",
        flag="--platform",
    ),
    Setting(
        "packages",
        array(PACKAGE),
        "Packages to install, as their manager takes them (NAME, NAME=VERSION, NAME:ARCH, NAME/SUITE), or"
        " package files: /PATH, ./PATH or ../PATH, from where the m.json is.",
        flag="-p/--packages",
    ),
    Setting(
        "installer",
        text(),
        "What installs them; auto looks at the base image.",
        names=lambda choices: ("auto", *choices.installers),
        flag="--installer",
    ),
    Setting(
        "installer_options",
        record(
            {
                "recommends": BOOLEAN,
                "mirror": WORD,
                "snapshot": SNAPSHOT,
                "env": ENV,
                "secrets": array(NAME, unique=True),
                "repositories": array(REPOSITORY),
                "hold": array(WORD, unique=True),
            }
        ),
        "recommends: also what packages recommend (false); mirror: fetch from there; snapshot: a dated mirror"
        " for package files of a lock that are nowhere else; env: variables for the package manager; secrets:"
        " what it is shown of `secrets`; repositories: where packages come from besides, in the words of"
        " sources.list(5): signed_by is a key or its file, priority that of apt_preferences(5) for its"
        " host; hold: packages that stay as they are, now and in the image.",
    ),
    Setting(
        "run",
        RUN,
        "Commands to run in the image, as root, when the proto directory and the packages are in it: each a"
        " line or script for its shell, which ends at the first error, a list of arguments, or an object,"
        " whose result is kept for the next build: name; argv, script or file with its interpreter; workdir,"
        " user, env; inputs: all that it depends on in the proto directory; cache: directories that stay for"
        " the next build and never ship; network; secrets: by name; timeout: seconds.",
        commas=False,
    ),
    Setting(
        "run_options",
        record({"network": BOOLEAN, "env": ENV}),
        "network: whether these commands may use the network (false); env: variables for them.",
    ),
    Setting(
        "secrets",
        SECRETS,
        "What commands are shown by its name, and what stays nowhere. file, or env: the file or the variable"
        " of the CI host that has it; target: the file in the image (by the name: netrc, npmrc, pip.conf,"
        " apt-auth and others have their place, all else is in /run/secrets); variable: one of the command's,"
        " in place of a file; mode (0600), owner.",
    ),
    Setting(
        "users",
        USERS,
        "Accounts to make before anything else is put into the image. gid: of the first group, by default one"
        " of the user's own with the number of the user; group: an existing one by name instead; groups:"
        " further ones, which packages may bring; home, shell: by default as for a daemon up to 999"
        " (/nonexistent, nologin), and as for a person above (below the directory home, /bin/sh);"
        " create_home: make it with what is in /etc/skel (where system is false). The password is locked.",
        commas=False,
    ),
    Setting(
        "groups",
        GROUPS,
        "Groups to make before anything else. members: users that are in it, beside those with it among their"
        " groups.",
        commas=False,
    ),
    Setting(
        "order",
        text() | choice(["proto-first", "packages-first"]),
        "What goes in first. Packages first: they are reused when only the proto directory changed.",
        flag="--order",
    ),
    Setting(
        "owner",
        mapping(OWNER, keys=LINE, least=1) | OWNER | {"type": ["string", "object"]},
        "Who owns the files of the proto directory: one rule, or an object of globs, of which the"
        ' first that matches counts and "*" comes last. keep: the numbers they have on the agent.',
        flag="--owner",
    ),
    Setting(
        "modes",
        mapping(MODE, keys=LINE),
        "Modes of the files of the proto directory: an object of globs as in owner, of which the first that"
        " matches counts; the others keep their mode. As chmod takes them, D or F in front for directories or"
        " files only: 0640, u=rwX,go=rX, D0755,F0644.",
    ),
    Setting(
        "units",
        UNITS,
        "Units of systemd to enable, disable or mask when all is in the image, as systemctl --root does it.",
    ),
    Setting("exclude", array(LINE), "Patterns of rsync, for what stays out.", flag="--exclude", commas=False),
    Setting(
        "replace",
        array(LINE),
        "Paths of the image at which the proto directory may take the place of a directory with a file, or of"
        " a file with a directory: `*` and `?` in a name, `**` for any names. What was there is removed.",
        flag="--replace",
        commas=False,
    ),
    Setting(
        "clean",
        array(text(), unique=True),
        "The cleaners to run; or, all with a dash in front, those of the default set not to run.",
        names=lambda choices: (*choices.cleaners, *(f"-{name}" for name in choices.cleaners)),
        flag="--clean",
    ),
    Setting(
        "formats",
        array(text(), unique=True, least=1),
        "The formats to write.",
        names=lambda choices: choices.formats,
        flag="-f/--format",
    ),
    Setting(
        "compression",
        text(),
        "How they are compressed; each format has its own default.",
        names=lambda choices: choices.compressions,
        flag="-c/--compression",
    ),
    Setting(
        "sparse",
        BOOLEAN,
        "Write files with large holes as GNU sparse files in oci and tar images; not every reader takes"
        " them.",
        flag="--sparse",
    ),
    Setting(
        "times",
        text() | choice(["stable", "keep"]),
        "Which time a path of the proto directory has in the image. stable (default): the one that it had in"
        " the component's last image, where nothing but its time is another now; keep: always its own."
        " SOURCE_DATE_EPOCH, where it is set, decides instead.",
    ),
    Setting(
        "store",
        STORE,
        "The store of contents that the format files records the image in, and that files:REF is taken from:"
        " dir:PATH, s3://BUCKET[/PREFIX], ssh://HOST/PATH, or http(s)://HOST/PATH to read.",
        flag="--store",
    ),
    Setting(
        "ref",
        WORD,
        "Another name for the image. Container engines load it as [HOST/]NAME[:TAG]; default: NAME:VERSION,"
        " the name in lower case, and a dash for what no engine takes in it. The format files records the"
        " image by this name; default: NAME/VERSION.",
        flag="--ref",
    ),
    Setting(
        "outputs",
        array(OUTPUT),
        "What of the tree the format files records, with all below it: anchored patterns of rsync, and with !"
        " in front what stays out; default: all of it.",
        commas=False,
    ),
    Setting("strip", ABSOLUTE, "The path whose content the format files records as the top of its list."),
    Setting("motd", BOOLEAN, "Write etc/motd; needs source_repo.", flag="-M/--motd"),
    Setting("source_repo", WORD, "Where the source is, for the motd.", flag="-S/--source-repo"),
    Setting("upgrade_first", BOOLEAN, "Upgrade the base image's packages first.", flag="-u/--upgrade-first"),
    Setting("pkg_audit", BOOLEAN, "Report known vulnerabilities of packages.", flag="-a/--pkg-audit"),
    Setting(
        "image_prefix",
        PREFIX,
        "Files are named PREFIX-VERSION and an extension; default: the name.",
        flag="-P/--image-prefix",
    ),
    Setting("output_dir", LINE, "Where the files go; default: bits/NAME.", flag="-o/--output-dir"),
    Setting(
        "pool",
        text(rf"[a-z][a-z0-9]*:[^{PLAIN}]+", say="BACKEND:PLACE, such as dir:/var/tmp/pool"),
        "Where datasets live; default: the best this agent has.",
        flag="--pool",
    ),
    Setting(
        "cache",
        CACHE,
        "Reuse layers of earlier builds; or what is said of the cache that agents share, which they are"
        " reused from as well (how-to: share a cache).",
        flag="--cache/--no-cache",
    ),
    Setting(
        "shared_cache",
        URL,
        "The cache that agents share: dir:PATH, s3://BUCKET[/PREFIX], registry:HOST/NAME, ssh://HOST/PATH,"
        " or http(s)://HOST/PATH to read; `shared` of `cache` in the file.",
        flag="--shared-cache",
        in_file=False,
    ),
    Setting(
        "cache_required",
        BOOLEAN,
        "Fail with exit code 26 where the shared cache cannot be used; `required` of `cache` in the file.",
        flag="--cache-required",
        in_file=False,
    ),
    Setting(
        "cache_trust",
        {"type": "string", **TRUST},
        "Which records of the shared cache count: what the policy allows, or for a release only what a key"
        " has signed that it marks for releases; `trust` of `cache` in the file.",
        flag="--cache-trust",
        in_file=False,
    ),
    Setting(
        "paranoid",
        BOOLEAN,
        "Hash every stored layer again that the image is made of. By default one counts as it was written if"
        " nothing touched its file since, and a sample of it is what it was.",
        flag="--paranoid",
    ),
    Setting("keep_on_failure", BOOLEAN, "Leave the clone of a failed build.", flag="--keep-on-failure"),
    Setting(
        "shell_on_failure",
        BOOLEAN,
        "Open a shell where the failed command ran, before anything is undone; on a terminal.",
        flag="--shell-on-failure",
    ),
    Setting("full", BOOLEAN, "Write a zfs or btrfs image that does not need its base image.", flag="--full"),
    Setting(
        "max_size",
        SIZE,
        "How large the image's file may be, in bytes, or such as 500M; else the build ends with exit code 20"
        " and gives out nothing.",
        flag="--max-size",
    ),
    Setting(
        "max_growth",
        text(rf"[0-9]{{1,6}}(\.[0-9]{{1,6}})?%|{BYTES}", say="a number of bytes such as 10M, or such as 5%"),
        "By how much it may be larger than the component's last one in this pool: bytes, or per cent of it.",
        flag="--max-growth",
    ),
    Setting(
        "over_size",
        text() | choice(["fail", "warn"]),
        "Whether an image that is over one of these is a failure (default), or a warning.",
    ),
    Setting(
        "checks",
        CHECKS,
        "How the finished image is checked before it is given out; a check that fails ends the build with"
        " exit code 25: the rules for images, and tests in the schema of container-structure-test, with"
        " `listen` besides (how-to: check an image).",
    ),
    Setting(
        "allow",
        ALLOW,
        "For each of these rules, globs of the paths that it lets pass.",
    ),
    Setting(
        "timeouts",
        record({"command": SECONDS, "idle": SECONDS}),
        "In seconds. command: for one command in all (3600); idle: for its silence (900).",
    ),
    Setting(
        "limits",
        LIMITS,
        "What a command in the image may take; 0: no limit. pids: processes and threads (8192); memory: bytes"
        " (three quarters of what the build may use itself); output: bytes (104857600); open_files: of one"
        " process (16384); file_size: bytes of one file, holes included (17179869184). `[limits]` in"
        " buildstep.toml gives those that are not given here.",
    ),
    Setting("oci", OCI, "Configuration of an OCI image; what is not given stays as in the base image."),
    Setting(
        "source_date_epoch",
        integer(0, LAST_SECOND),
        "The time of the build, in seconds since 1970, for builds that repeat bit by bit.",
        variable="SOURCE_DATE_EPOCH",
        in_file=False,
    ),
    Setting(
        "index_max_age",
        integer(0, 366 * 24 * 3600),
        "For how many seconds the repository's answer to what packages resolve to is good; 0: ask"
        " every time.",
    ),
    Setting(
        "base_max_age",
        integer(0, 10 * 366 * 24 * 3600),
        "For how many seconds the answer is good whether there is a newer base: of a suite (mmdebstrap:) its"
        " Release file is asked for, of an image in a registry its tag. 0: ask in every build. Default: a tag"
        " is asked for in every build, a suite never.",
        flag="--base-max-age",
    ),
    Setting(
        "network",
        BOOLEAN,
        "Whether the steps that install packages may use the network.",
        flag="--network/--no-network",
    ),
    Setting(
        "locked",
        BOOLEAN,
        "Whether the build takes exactly what the lock beside its m.json has (`buildstep lock`). Default:"
        " where there is a lock that fits; one that does not fit is an error in CI, and is not used"
        " elsewhere.",
        flag="--locked/--no-lock",
    ),
    *OF_TRUST,
)

SETTINGS: Final[Mapping[str, Setting]] = {setting.name: setting for setting in _TABLE}
