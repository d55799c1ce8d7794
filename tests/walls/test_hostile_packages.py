"""A package script changes no package, list, base image or pool that another build or another user meets."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.integration.ordinary_user import UID
from tests.integration.support import sha256
from tests.rounds import chosen
from tests.walls import scene
from tests.walls.attack import filled
from tests.walls.canaries import Canaries
from tests.walls.scene import Scene


@pytest.fixture(scope="module")
def canaries() -> Iterator[Canaries]:
    with scene.quick_folder() as folder, Canaries(folder / "canary", ["failing"]) as made:
        yield made


@pytest.fixture(scope="module", params=chosen(scene.KINDS, 1))
def place(request: pytest.FixtureRequest, hostile_base: Path, canaries: Canaries) -> Iterator[Scene]:
    # All packages are there from the start: apt's lists are not fetched again within the hour.
    with scene.scene(request.param, hostile_base) as made:
        put = made.repository.put
        put("victim", "2", files={"usr/share/victim/genuine": "genuine\n"})
        put("poisoner", "1", depends="victim", postinst=POISON)
        put("overwriter", "1", postinst=OVERWRITER)
        put("setuid", "1", postinst=HELD)
        put("deep", "1", postinst=DEEP)
        put("failing", "1", postinst=filled(USURPER, canaries.words("failing")))
        for name in ("harmless", "another", "third", "fourth"):
            put(name, "1")
        yield made


# -- shared caches ------------------------------------------------------------------------------------------

POISON = r"""#!/usr/bin/perl
# What it does is written into the image. Replace every package and every list that is in reach by one of our own.
open(STDOUT, '>', '/var/lib/poisoned');
my @places = grep { -d } glob('/var/cache/apt /var/cache/apt/archives /var/lib/apt/lists /run/* /run/*/* /run/*/*/* /run/*/*/*/*');
for my $folder (@places) {
    opendir(my $dir, $folder) or next;
    for my $name (readdir $dir) {
        my $path = "$folder/$name";
        next unless -f $path && $name =~ /\.deb$|Packages|Release|\.bin$|fetched/;
        if (open(my $file, '+<', $path)) { print $file "poison\n"; print STDOUT "won: wrote $path\n"; }
        if (open(my $file, '>', "$path.new")) { print $file "poison\n"; close $file; rename "$path.new", $path and print STDOUT "won: replaced $path\n"; }
        if (unlink $path) { print STDOUT "won: removed $path\n"; }
    }
    if ($folder =~ /archives/ && open(my $file, '>', "$folder/poisoned_1_all.deb")) { print $file "poison\n"; print STDOUT "won: added to $folder\n"; }
}
"""


def shared_files(pool: Path) -> dict[str, str]:
    """The digests of what is kept of packages and lists in the pool."""
    kept = pool / "state/packages"
    return {
        os.path.relpath(path, kept): sha256(path)
        for path in sorted(kept.rglob("*"))
        if path.is_file() and not path.is_symlink() and ".deb" in path.suffixes
    }


def test_no_script_changes_what_another_build_installs(place: Scene) -> None:
    place.built("victim")
    before = shared_files(place.lab.pool)
    told = place.built("victim", "poisoner").members("var/lib/poisoned")["var/lib/poisoned"][1].decode()
    # A private copy it may spoil; but what it did must be gone.
    after = shared_files(place.lab.pool)
    assert {name: after.get(name) for name in before} == before, told
    assert [name for name in after if name.startswith("poisoned")] == [], told
    image = place.built("victim", "harmless")
    assert image.members("usr/share/victim/")["usr/share/victim/genuine"][1] == b"genuine\n"


OVERWRITER = r"""#!/usr/bin/perl
for my $path ('/etc/debian_version', '/etc/issue', '/etc/shells') {
    open(my $file, '+<', $path) or next; print $file "hostile"; close $file;
    chmod 06777, $path; chown 5, 5, $path; utime 1, 1, $path;
}
"""


@pytest.mark.full
def test_a_base_image_is_not_written_through(place: Scene) -> None:
    """Files of the base are changed in place, content and all else: the next build has them as they were."""
    paths = ["etc/debian_version", "etc/issue", "etc/shells"]
    before = place.built("harmless").members("etc/")
    changed = place.built("overwriter").members("etc/")
    after = place.built("harmless", "another").members("etc/")
    assert all(changed[path][1].startswith(b"hostile") for path in paths)
    for path in paths:
        assert after[path][1] == before[path][1]
        assert after[path][0].mode == before[path][0].mode
    assert place.lab.command("image", "verify", "--pool", place.lab.uri, "base@0").status == 0


# -- a failed package manager -----------------------------------------------------------------------------------


USURPER = r"""#!/bin/sh
cat >/usr/share/usurper <<'END'
#!/usr/bin/perl
use Socket;
for my $host ('127.0.0.1', '@ADDRESS@') {
    socket(my $socket, AF_INET, SOCK_STREAM, 0);
    local $SIG{ALRM} = sub { die };
    eval { alarm 2; if (connect($socket, pack_sockaddr_in(@PORT@, inet_aton($host)))) { syswrite($socket, "failing: connected\n") } };
    alarm 0;
}
my ($host, $port) = (($ENV{http_proxy} // '') =~ m{//(?:[^@/]*@)?([^:/]+):(\d+)});
for my $target ('127.0.0.1:@PORT@', '@ADDRESS@:@PORT@', 'localhost:@PORT@', '[::1]:@PORT@', '169.254.169.254:80') {
    last unless $host;
    socket(my $socket, AF_INET, SOCK_STREAM, 0);
    local $SIG{ALRM} = sub { die };
    eval {
        alarm 3;
        connect($socket, pack_sockaddr_in($port, inet_aton($host))) or die;
        syswrite($socket, "CONNECT $target HTTP/1.1\r\nHost: $target\r\n\r\n");
        sysread($socket, my $answer, 500);
        syswrite($socket, "failing: by the proxy\n");
    };
    alarm 0;
}
END
chmod 755 /usr/share/usurper
for program in /usr/bin/apt-get /usr/bin/apt-cache /usr/bin/apt-config /usr/bin/dpkg /usr/bin/dpkg-query; do
  [ -e $program.genuine ] || mv $program $program.genuine
  printf '#!/bin/sh\n/usr/share/usurper\nexec %s "$@"\n' $program.genuine >$program
  chmod 755 $program
done
echo 'E: Failed to fetch http://deb.example.org/x.deb' >&2  # apt's word for what is worth another try
exit 1
"""


def test_a_replaced_package_manager_gets_no_network(place: Scene, canaries: Canaries) -> None:
    """What is asked of apt after a failed install runs in a root that a script has changed."""
    done = place.build("failing")
    assert done.status == 12, done.stderr
    assert canaries.reached == []
    assert place.lab.leftovers() == []


# -- other users of the host --------------------------------------------------------------------------------------

HELD = """#!/bin/sh
cp /usr/bin/id /usr/bin/become-root && chmod 4755 /usr/bin/become-root
mkdir -p /usr/share/for-all && chmod 777 /usr/share/for-all && echo key >/usr/share/for-all/key
sleep 2
"""


class Watcher:
    """Another user who looks into a pool again and again, as long as a block lasts. seen: what that user could read."""

    def __init__(self, pool: Path) -> None:
        self.pool = pool
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.2):
            self.seen |= listed_by_another(self.pool)


def listed_by_another(pool: Path) -> set[str]:
    """Return what a user with no rights finds in a pool: names of setuid files and whatever it can read."""
    argv = [
        "find",
        os.fspath(pool),
        "-mindepth",
        "1",
        "(",
        "-perm",
        "/6000",
        "-o",
        "-readable",
        ")",
        "-print",
        "-quit",
    ]
    done = subprocess.run(
        argv, user=UID, group=UID, extra_groups=[], capture_output=True, text=True, check=False
    )
    return set(done.stdout.splitlines())


def test_another_user_reads_and_runs_nothing_of_a_pool(place: Scene) -> None:
    with Watcher(place.lab.pool) as watcher:
        place.built("setuid")
    assert watcher.seen | listed_by_another(place.lab.pool) == set()


@pytest.mark.full
def test_an_older_pool_is_closed_on_first_use(place: Scene) -> None:
    """Pools of earlier versions were open to all; the next build mends that."""
    place.built("third")
    for folder in (place.lab.pool, *place.lab.pool.glob("*")):
        folder.chmod(0o755)
    place.built("fourth")
    assert stat.S_IMODE(place.lab.pool.stat().st_mode) & 0o077 == 0
    assert listed_by_another(place.lab.pool) == set()


# -- what cannot be removed ------------------------------------------------------------------------------------------

DEEP = r"""#!/usr/bin/perl
# Deeper than any path can be, wider than a directory is read at once, and links that never end.
mkdir '/var/lib/deep'; chdir '/var/lib/deep';
for (1 .. 3000) { mkdir 'd' or last; chdir 'd' or last; }
open(my $file, '>', 'file'); print $file "at the bottom\n";
symlink '.', '/var/lib/self'; symlink 'b', '/var/lib/a'; symlink 'a', '/var/lib/b';
"""


def test_a_deep_directory_ends_one_build_at_most(place: Scene) -> None:
    done = place.build("deep")
    assert "Traceback" not in done.stderr
    assert "RecursionError" not in done.stderr
    assert place.lab.leftovers() == []
    assert place.lab.heal() == []
    place.built("harmless", "third")
