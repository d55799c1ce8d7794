"""Hostile scripts: how one is written, and the package whose postinst runs many of them in one build.

Each runs by itself with a time limit, and what it prints is kept in the image. A script says `won WHAT` when it
got something it must not have, and its last word is always TRIED: one that breaks off proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

OUT = "var/lib/attack"
"""Where the image keeps what they printed."""

_SECONDS = 12
"""For each attack; one that only waits is stopped."""

_PERL = r"""#!/usr/bin/perl
use Socket;
$| = 1;
my ($name, $dir) = ('@NAME@', '@DIR@');
my %sys = (
    mount => 165, umount2 => 166, pivot_root => 155, unshare => 272, setns => 308, ptrace => 101, keyctl => 250,
    add_key => 248, request_key => 249, bpf => 321, userfaultfd => 323, open_by_handle_at => 304,
    name_to_handle_at => 303, init_module => 175, finit_module => 313, delete_module => 176, kexec_load => 246,
    kexec_file_load => 320, perf_event_open => 298, move_mount => 429, open_tree => 428, fsopen => 430,
    swapon => 167, swapoff => 168, reboot => 169, acct => 163, iopl => 172, ioperm => 173, syslog => 103,
    clock_settime => 227, mknod => 133, ioctl => 16, sethostname => 170, process_vm_readv => 310, openat => 257,
    quotactl => 179, adjtimex => 159, fanotify_init => 300, linkat => 265,
);
sub won { print "won @_\n" }
# Texts are copied, as the kernel could write to them; a reference is a buffer that it shall write to.
sub call {
    my $name = shift;
    my @given = map { ref $_ ? unpack('Q', pack('p', $$_)) : $_ } @_;
    syscall($sys{$name}, @given);
}
# Read, write and connect to this attack's canaries below a path that may be the host's root.
sub grab {
    my $at = shift;
    if (open(my $file, '<', "$at$dir/secret")) { local $/; print 'won the host file: ', <$file>, "\n"; }
    if (open(my $file, '>>', "$at$dir/secret")) { print $file 'x'; won('a write'); }
    if (open(my $file, '>', "$at$dir/made")) { won('a new file'); }
    reach(AF_UNIX, pack_sockaddr_un("$at$dir/socket")) if length("$at$dir/socket") < 107;
}
sub reach {
    my ($family, $address) = @_;
    socket(my $socket, $family, SOCK_STREAM, 0) or return;
    local $SIG{ALRM} = sub { die };
    eval {
        alarm 2;
        if (connect($socket, $address)) { syswrite($socket, "$name: connected\n"); won('a connection'); }
    };
    alarm 0;
}
END { print "TRIED\n" }
"""

_SHELL = """#!/bin/sh
name=@NAME@ dir=@DIR@
won() { echo "won $*"; }
trap 'echo TRIED' EXIT
"""

_RUN = f"""#!/bin/sh
mkdir -p /{OUT}
exec 3>&1 # an attack may want to be heard by the build
cd /usr/share/attack || exit 1
for attack in *; do
  timeout --kill-after=1 {_SECONDS} ./"$attack" >/{OUT}/"$attack" 2>&1 </dev/null
done
exit 0
"""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attempt. script: perl (or sh) that a prelude of helpers goes before; about: what is tried.

    bare: whether it wins where there is no wall but a chroot, which is how it is known that it can win.
    """

    name: str
    about: str
    script: str
    shell: bool = False
    bare: bool = True

    def text(self, words: Mapping[str, str]) -> str:
        """Return the whole script, its canaries named."""
        return filled((_SHELL if self.shell else _PERL) + self.script, words)


def filled(text: str, words: Mapping[str, str]) -> str:
    """Return a script with its canaries named."""
    for word, value in words.items():
        text = text.replace(word, value)
    return text


class Words(Protocol):
    def words(self, name: str) -> dict[str, str]: ...


def files(attacks: Iterable[Attack], canaries: Words) -> dict[str, str]:
    """Return the files of the package that carries these attacks, by path."""
    return {f"usr/share/attack/{one.name}": one.text(canaries.words(one.name)) for one in attacks}


POSTINST = _RUN


def verdict(printed: str, secrets: Iterable[str]) -> list[str]:
    """Return what is wrong with what an attack printed: it broke off, claims to have won, or knows a secret."""
    lines = printed.splitlines()
    wrong = [line for line in lines if line.startswith("won ")]
    if "TRIED" not in lines:
        wrong.append(f"it did not run to its end: {printed!r}")
    wrong += [f"it knows {secret}" for secret in secrets if secret in printed]
    return wrong
