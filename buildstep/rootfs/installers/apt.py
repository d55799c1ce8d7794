"""Debian's apt inside an image, with its downloads and lists kept outside of it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from buildstep.errors import InstallError
from buildstep.rootfs.installers import (
    apt_audit,
    apt_faults,
    apt_incremental,
    apt_lists,
    apt_locked,
    apt_more,
    apt_outdated,
    apt_progress,
    apt_removal,
    apt_simulation,
    apt_sweep,
    apt_taken,
    apt_update,
    dpkg_database,
)
from buildstep.rootfs.installers.apt_archives import (
    KNOWN,
    Archive,
    ArchiveStore,
    copy_local,
    known_archives,
    remember_archives,
    wanted_files,
    with_stems,
)
from buildstep.rootfs.installers.apt_settings import CONFIG, CULPRITS, ENV, HELPER, OURS, POLICY, SETTINGS
from buildstep.rootfs.installers.apt_sources import Sources, lists_key
from buildstep.rootfs.installers.common import Cause, failures
from buildstep.rootfs.installers.private_area import private_area
from buildstep.rootfs.interface import Audit, InstallJob, Package, Resolution, Sandbox, Update
from buildstep.spec.lock import Lock, LockedPackage
from buildstep.system.locks import lock
from buildstep.system.remove import remove_tree
from buildstep.system.root import Root
from buildstep.tree.entry import FileList


class Apt:
    """An interface.Installer for Debian and what derives from it.

    One object serves one build. Lists are fetched and package files downloaded while the root is the clean
    base image. Once scripts of packages have run nothing has the network any more. What apt is shown of a
    cache is read-only; what it may write to is this build's own, and is checked before it is kept.
    """

    name: ClassVar[str] = "apt"

    def __init__(self) -> None:
        self._area: Path | None = None
        self._key = ""
        self._kept: apt_lists.KeptLists | None = None
        self._wanted: list[Archive] | None = None
        self._clean = True
        self._removal = apt_removal.Removal("")
        self._origins: Mapping[str, str] = {}
        self._local: Mapping[str, apt_more.LocalPackage] = {}
        self._explain: Callable[[str], Cause | None] = lambda _output: None

    @classmethod
    def detect(cls, root: Root) -> bool:
        return root.is_program("/usr/bin/apt-get") and root.is_program("/usr/bin/dpkg-query")

    @contextlib.contextmanager
    def prepare(self, job: InstallJob) -> Iterator[None]:
        """Make a private directory for this build, show our settings, and keep services from being started.

        The second time the root is another one, in which scripts have run. What was fetched the first time is
        used there.
        """
        sandbox = job.sandbox
        sources = Sources.of(sandbox.root)
        more = apt_more.sources(job, sources)
        used = more.through(job.mirror) if job.lock is None else apt_locked.sources(job.lock)
        apt_more.add_architectures(job)
        advice = apt_faults.image_advice(sandbox.root, used, network=job.download is not None)
        self._explain = partial(apt_faults.explain, advice=advice)
        self._clean = self._kept is None
        if self._clean:
            self._key = lists_key(job, used)
        with contextlib.ExitStack() as stack:
            if not job.fresh or job.lock is not None:
                stack.callback(apt_sweep.sweep, job.cache)
                stack.enter_context(lock(job.cache / "lock", shared=True))
            if self._kept is not None and not self._kept.lists.is_dir():
                raise InstallError("the package lists were removed from the cache meanwhile", retryable=True)
            self._area = stack.enter_context(private_area(job.cache))
            for name in ("downloads/partial", "shown/partial", "parsed", "scratch", "locked", "local"):
                (self._area / name).mkdir(parents=True)
            own, self._local = stack.enter_context(apt_more.shown(job, self._store(job), self._area))
            settings = SETTINGS + own
            if used != sources:
                settings += stack.enter_context(used.shown(sandbox))
            stack.enter_context(sandbox.temporary_file(CONFIG, settings.encode()))
            stack.enter_context(sandbox.temporary_file("/usr/sbin/policy-rc.d", POLICY, mode=0o755))
            stack.callback(sandbox.root.remove, f"{OURS}/pkgcache.bin")
            yield

    # -- lists

    def refresh(self, job: InstallJob, *, hurry: bool = False, max_age: float = 0.0) -> float:
        """Fetch the lists as they are now, unless those that are kept are young enough."""
        store = apt_lists.ListStore(self._place(job), self._key, job.bus)
        with lock(store.folder / "lock"):
            known = store.find()
            if job.lock is not None:
                self._kept = known if known is not None and known.usable else self._locked_lists(job, store)
                return time.time()  # whatever a repository has by now
            if known is not None and known.usable and 0 <= time.time() - known.fetched < max_age:
                self._kept = known
                return known.fetched
            try:
                self._kept = self._update(job, store, known, hurry=hurry)
            except apt_lists.ListMismatch as error:
                job.bus.note(f"{error.message}; all lists are fetched again", level="warning")
                self._kept = self._update(job, store, None, hurry=hurry)
        return self._kept.fetched

    def _locked_lists(self, job: InstallJob, store: apt_lists.ListStore) -> apt_lists.KeptLists:
        """Have the files of a lock, and lists that name these alone."""
        assert job.lock is not None
        self._have_locked(job)
        apt_locked.write_repository(self._work / "locked", job.lock.packages, self._work / "shown")
        return self._update(job, store, None, hurry=False)

    def _update(
        self, job: InstallJob, store: apt_lists.ListStore, known: apt_lists.KeptLists | None, *, hurry: bool
    ) -> apt_lists.KeptLists:
        """Run `apt-get update` on copies, and take over what it wrote if that is something else."""
        private = self._work / "lists"
        remove_tree(private)
        # What was made of lists that no longer count.
        (self._work / "parsed" / apt_lists.PARSED).unlink(missing_ok=True)
        job.sandbox.root.remove(f"{OURS}/pkgcache.bin")
        (private / "partial").mkdir(parents=True)
        if known is not None:
            apt_lists.copy_lists(known, private)
        # apt's own form of the lists is made by the first question about packages, if there is one.
        options = ["-opkgCacheFile::Generate=false"]
        if hurry:
            options += ["-oAcquire::Retries=0", "-oAcquire::http::Timeout=15"]
        with failures("apt-get update", (), explain=self._explain):
            self._apt(job, [*options, "update"], write={"lists": private}, network=True)
        if known is not None and apt_lists.same_lists(private, known.lists):
            known.touch()
            return known
        return store.keep(private, job.sandbox.root)

    def index(self, job: InstallJob) -> str:
        """Return the digest of the lists: a Release file has those of the lists that belong to it."""
        return apt_lists.index_digest(self._lists().lists)

    def repositories(self, job: InstallJob) -> list[tuple[str, ...]]:
        return self._sources(job).through(job.mirror).release_urls()

    def _sources(self, job: InstallJob) -> Sources:
        return apt_more.sources(job, Sources.of(job.sandbox.root))

    def resolve(self, job: InstallJob, *, upgrade: bool) -> Resolution:
        words = [
            "--simulate",
            *apt_more.install_words(job, self._local, "dist-upgrade" if upgrade else "install"),
        ]
        with failures("resolving packages", job.packages, *CULPRITS, explain=self._explain):
            text = self._ask(job, words)
        answer, self._origins = apt_simulation.parse(text)
        if job.lock is not None:
            apt_locked.check(job.lock, answer)
        apt_more.held(job, [*answer.versions, "dpkg"])
        return answer

    def updates(self, job: InstallJob) -> list[Update]:
        """See `interface.ListsUpdates`. What is held back in the image stays as it is."""
        with failures("asking for newer packages", (), *CULPRITS, explain=self._explain):
            cache = partial(self._apt, job, program="apt-cache", answer=True)
            return apt_outdated.ask(partial(self._ask, job), cache)

    # -- package files

    def fetch(self, job: InstallJob, versions: Mapping[str, str] | None) -> None:
        self._fetch(job, "install", versions)

    def _fetch(self, job: InstallJob, act: str, versions: Mapping[str, str] | None) -> None:
        """Have every package file that is needed, hashed, in the directory that apt is shown."""
        if job.lock is not None:
            self._have_locked(job)
            return
        if self._wanted is None:
            with failures("resolving packages", job.packages, *CULPRITS, explain=self._explain):
                self._wanted = self._archives(job, act, versions)
        self._have(job, act)

    def _have(self, job: InstallJob, act: str) -> None:
        """Download those of the wanted package files that are not kept."""
        store, missing = self._store(job), self._missing(job)
        for last in (False, True):
            if missing:
                try:
                    self._download(job, act, missing)
                except InstallError:
                    store.take_good(missing, self._work / "downloads", self._work / "shown")
                    raise
                missing = store.take_all(missing, self._work / "downloads", self._work / "shown", last=last)

    def _have_locked(self, job: InstallJob) -> None:
        assert job.lock is not None
        self._wanted = [apt_locked.archive_of(row) for row in job.lock.packages]
        apt_locked.have(job.lock.packages, self._supply(job, job.lock))

    def _supply(self, job: InstallJob, locked: Lock) -> apt_locked.Supply:
        """Return where package files of a lock may be; they are fetched by the clean base image's own apt."""

        def run(words: Sequence[str]) -> None:
            write = {"archives": self._work / "downloads"}
            self._apt(job, ["download-file", *words], write=write, network=True, program=HELPER)

        can = self._clean and job.download is not None and job.sandbox.root.is_program(HELPER)
        return apt_locked.supply_of(job, locked, self._work, run if can else None)

    def package_files(self, job: InstallJob, answer: Resolution, *, upgrade: bool) -> list[LockedPackage]:
        self._fetch(job, "dist-upgrade" if upgrade else "install", None)
        return self._rows(job, answer, self._origins)

    def taken(self, job: InstallJob) -> list[LockedPackage]:
        return apt_taken.rows(job, self._files(), self._work / "shown", self._sources(job))

    def _rows(self, job: InstallJob, answer: Resolution, origins: Mapping[str, str]) -> list[LockedPackage]:
        files, shown = self._files(), self._work / "shown"
        return apt_locked.rows_of(job, files, answer, origins, shown, self._sources(job))

    def _files(self) -> list[Archive]:
        # What is shown as a file, apt has no need to fetch. One may be given twice, by two names.
        given = (apt_locked.archive_of(package.row) for package in self._local.values())
        return list(dict.fromkeys([*(self._wanted or ()), *given]))

    def updated(self, job: InstallJob, lock: Lock, names: Sequence[str]) -> Lock:
        words = apt_update.words_for(job, lock, names, self._supply(job, lock))
        with failures("resolving packages", names, *CULPRITS, explain=self._explain):
            found = apt_simulation.parse(self._ask(job, ["--simulate", *words]))
            self._wanted = wanted_files(partial(self._ask, job), words)
        self._have(job, "install")
        new = {name: version for name, version in found.answer.versions.items() if version}
        rows = self._rows(job, replace(found.answer, versions=new), found.origins)
        return apt_update.merged(lock, found, rows)

    def _archives(self, job: InstallJob, act: str, versions: Mapping[str, str] | None) -> list[Archive]:
        """Return the package files that are needed, as the lists have them."""
        notes = self._lists().folder / KNOWN
        if versions and (known := known_archives(notes, versions)) is not None:
            return known
        found = wanted_files(partial(self._ask, job), apt_more.install_words(job, self._local, act))
        remember_archives(notes, found)
        return with_stems(found, versions) if versions else found

    def _missing(self, job: InstallJob) -> list[Archive]:
        return self._store(job).missing(self._wanted or (), self._work / "shown")

    def _store(self, job: InstallJob) -> ArchiveStore:
        return ArchiveStore(self._place(job), job.bus)

    def _download(self, job: InstallJob, act: str, missing: Sequence[Archive]) -> None:
        """Download package files into a private directory, by the clean base image's own apt."""
        root, folder = job.sandbox.root, self._work / "downloads"
        if not self._clean:
            names = ", ".join(archive.name for archive in missing)
            raise InstallError(
                f"{names} cannot be fetched any more: scripts of packages have run in the image",
                hint="build again: package files are fetched before anything is installed",
            )
        far = [archive for archive in missing if not copy_local(archive, root, folder)]
        if not far:
            return
        with (
            failures("downloading packages", job.packages, *CULPRITS, explain=self._explain),
            apt_progress.fetching(job.bus, folder, far),
        ):
            if root.is_program(HELPER):
                pairs = ((archive.uri, f"{OURS}/archives/{archive.name}") for archive in far)
                words = ["download-file", *(word for pair in pairs for word in pair)]
                self._apt(job, words, write={"archives": folder}, network=True, program=HELPER)
            else:
                words = ["--download-only", *apt_more.install_words(job, self._local, act)]
                self._apt(job, words, write={"archives": folder}, network=True)

    def blocker(self, job: InstallJob, added: Mapping[str, str], base: FileList) -> str:
        if missing := self._missing(job):
            return f"{missing[0].name} is not among the downloads"
        return apt_incremental.blocker(job.sandbox.root, base, self._work / "shown", added)

    def remove(self, job: InstallJob, names: Sequence[str], base: FileList, order: Sequence[str]) -> str:
        self._clean, self._removal = False, apt_removal.remove(job, names, base, order, self._store(job))
        return self._removal.problem

    def unexpected_changes(self, root: Root, added: Sequence[Package], changed: Sequence[str]) -> str:
        return apt_incremental.unexpected_changes(root, added, changed, self._removal.paths)

    def upgrade(self, job: InstallJob) -> None:
        """Upgrade all packages. What an install after it needs is fetched with the rest."""
        self._fetch(job, "dist-upgrade", None)
        with failures("the upgrade", (), *CULPRITS):
            self._change(job, "dist-upgrade", ["dist-upgrade"])

    def install(self, job: InstallJob, versions: Mapping[str, str] | None = None) -> None:
        self._fetch(job, "install", versions)
        with failures("installing packages", job.packages, *CULPRITS):
            self._change(job, "install", apt_more.install_words(job, self._local))

    def _change(self, job: InstallJob, act: str, words: Sequence[str]) -> None:
        """Run an apt that runs scripts of packages: with no network, now or later."""
        self._clean = False
        with apt_progress.changing(job.bus, f"apt-get {act}") as (option, fd):
            self._apt(job, [option, *words], fds=(fd,))
        if names := apt_more.held(job):
            self._apt(job, ["hold", *names], program="apt-mark")
        apt_incremental.sort_extended_states(job.sandbox.root)

    # -- commands

    @property
    def _work(self) -> Path:
        assert self._area is not None, "`prepare` comes first"
        return self._area

    def _place(self, job: InstallJob) -> Path:
        """Return where things are kept: for this build only, if it shall use nothing of an earlier one."""
        return self._work if job.fresh else job.cache

    def _lists(self) -> apt_lists.KeptLists:
        assert self._kept is not None, "`refresh` comes first"
        return self._kept

    def _ask(self, job: InstallJob, words: Sequence[str]) -> str:
        """Run an apt that changes nothing. What it made of the lists is kept, if no script could touch it."""
        text = self._apt(job, words, answer=True)
        if self._clean:
            store = apt_lists.ListStore(self._place(job), self._key, job.bus)
            store.keep_parsed(self._lists(), self._work / "parsed")
        return text

    def _apt(
        self,
        job: InstallJob,
        words: Sequence[str],
        *,
        write: Mapping[str, Path] = MappingProxyType({}),
        network: bool = False,
        program: str = "apt-get",
        answer: bool = False,
        fds: Sequence[int] = (),
    ) -> str:
        """Run apt. write: directories of this build that are shown writable, in place of what is kept;
        answer: whether what it prints is wanted; fds: descriptors that it gets."""
        area, kept = self._work, self._kept
        shown = {"archives": area / "shown", "locked": area / "locked", "local": area / "local"}
        if kept is not None:
            shown |= {"lists": kept.lists, "kept": kept.parsed}
            mine = area / "parsed" / apt_lists.PARSED
            if kept.has_parsed and not os.path.lexists(mine):
                # By a link: where apt finds that it is of no use it wants to put a new one in its place.
                mine.symlink_to(f"{OURS}/kept/{apt_lists.PARSED}")
        with contextlib.ExitStack() as stack:
            for name, folder in {**shown, "parsed": area / "parsed", **write}.items():
                writable = folder not in shown.values()
                stack.enter_context(job.sandbox.share(folder, f"{OURS}/{name}", writable=writable))
                # apt changes the modes of these, though it puts nothing there that anybody needs.
                for empty in apt_lists.EMPTY if not writable else ():
                    if (folder / empty).is_dir():
                        target = f"{OURS}/{name}/{empty}"
                        stack.enter_context(job.sandbox.share(area / "scratch", target, writable=True))
            argv = [program, f"--config-file={CONFIG}", "--quiet", *words]
            env, what = {**ENV, **job.env}, program.rpartition("/")[2]
            return job.sandbox.run(argv, network=network, env=env, answer=answer, what=what, fds=fds)

    def installed(self, sandbox: Sandbox) -> list[Package]:
        return dpkg_database.ask(sandbox)

    def audit(self, job: InstallJob) -> Audit | None:
        """Run debsecan, in images that have it."""
        return apt_audit.audit(job, self._work, self.installed(job.sandbox))

    def clean(self, sandbox: Sandbox) -> None:
        """Empty the cache that the image has of its own."""
        apt_sweep.clean(sandbox)
