"""The debugging shell has a terminal of its own: the image's shell types nothing into the host's."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.rounds import chosen
from tests.walls import scene
from tests.walls.attack import filled
from tests.walls.canaries import Canaries

SECONDS = 90

BROKEN = r"""#!/bin/sh
cat >/bin/hostile-shell <<'END'
#!/usr/bin/perl
# In the place of /bin/sh: type into the terminal that it was given, and tell which one that is.
use POSIX;
my @terminals = (0, 1, 2);
if (open(my $own, '+<', '/dev/tty')) { push @terminals, fileno($own); }
for my $number (@terminals) {
    my @status = POSIX::fstat($number);
    print "\r\nTERMINAL $status[0]:$status[1]\r\n";
    for my $letter (split //, "touch @DIR@/typed; exit\n") { syscall(16, $number + 0, 0x5412, my $copy = $letter); }
}
# The session of another is out of reach as well: no signal to its group, no other terminal is taken.
kill 'HUP', 0; kill 'KILL', getppid;
sleep 1;
END
chmod 755 /bin/hostile-shell
rm -f /bin/sh && cp /bin/hostile-shell /bin/sh
exit 1
"""


def on_a_terminal(argv: list[str], env: dict[str, str], cwd: Path) -> tuple[str, str]:
    """Run a command from an interactive shell on a terminal of its own; return what was shown, and which terminal.

    The shell reads its next command from the terminal: what is typed into it while the build runs is obeyed.
    """
    master, slave = pty.openpty()
    status = os.fstat(slave)
    terminal = f"{status.st_dev}:{status.st_ino}"

    with subprocess.Popen(
        ["setsid", "--ctty", "/bin/bash", "--norc", "-i"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=env,
        cwd=cwd,
    ) as shell:
        os.close(slave)
        command = " ".join(f"'{word}'" for word in argv)
        os.write(master, f"{command}; echo BUILD-WAS-$?\n".encode())
        shown = _until(master, b"BUILD-WAS-1")  # 1x: the exit code of a failed install
        shown += _until(master, b"nothing", seconds=2.0)
        os.write(master, b"exit\n")
        try:
            shell.wait(10)
        except subprocess.TimeoutExpired:
            shell.kill()
    os.close(master)
    return shown.decode(errors="replace"), terminal


def _until(master: int, word: bytes, seconds: float = SECONDS) -> bytes:
    data = b""
    end = time.monotonic() + seconds
    while word not in data and (left := end - time.monotonic()) > 0:
        if not select.select([master], [], [], left)[0]:
            break
        try:
            data += os.read(master, 65536)
        except OSError:
            break
    return data


@pytest.mark.parametrize("kind", chosen(("overlay", "user"), 1))
def test_the_images_shell_types_nothing_on_the_hosts_terminal(kind: str, hostile_base: Path) -> None:
    if kind == "user":
        pytest.skip("a terminal of root is not a user's to open")
    with scene.scene(kind, hostile_base) as place:
        canaries = Canaries(place.top / "canary-shell", ["shell"], uid=place.uid)
        with canaries:
            place.repository.put("broken", "1", postinst=filled(BROKEN, canaries.words("shell")))
            argv = place.lab.argv("-f", "tar", "-p", "broken", "--shell-on-failure")
            shown, terminal = on_a_terminal(argv, place.lab.env(), place.top)
        assert canaries.found("shell") == [], shown
        assert "TERMINAL" in shown, f"the shell did not open: {shown}"
        assert f"TERMINAL {terminal}" not in shown, "the image's shell has the host's terminal itself"
        assert place.lab.leftovers() == []


def test_typing_can_work_here() -> None:
    """Where the kernel refuses it to everybody, the test above would prove less."""
    try:
        allowed = Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip()
    except FileNotFoundError:
        allowed = "1"
    if allowed != "1":
        pytest.skip("the kernel lets nobody type into a terminal (dev.tty.legacy_tiocsti)")
    assert sys.platform == "linux"
