#!/bin/sh
# The guest's second program, from the input drive: make the pool, run the command, hand the results over, power off.
# The status is written last, so that a results drive without one means "did not finish".
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 PYTHONPATH=/src BUILDSTEP_GUEST=1
trap 'sync; echo o >/proc/sysrq-trigger; sleep 60' EXIT
set -e

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=0755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
ln -sf /proc/self/fd /dev/fd
echo guest >/proc/sys/kernel/hostname
printf '127.0.0.1\tlocalhost guest\n' >/etc/hosts

modprobe zfs
truncate -s "$(cat /guest/pool-size)" /var/lib/zones.img
zpool create -m /zones zones /var/lib/zones.img
# Stands for the dataset that a zone's administrator is given: a parent of our own, with nothing of ours beside it.
zfs create -p zones/agent/data

out=/guest/out
mkdir -p /results "$out"
: >"$out/stdout"
: >"$out/stderr"
echo "guest: set up after $(cut -d' ' -f1 /proc/uptime) s"
# Plain files and not pipes: a process that outlives the command cannot keep us waiting.
tail -q -n +1 -s 0.2 -f "$out/stdout" "$out/stderr" >/dev/console &
tail=$!
cd /src
set +e
sh /guest/command.sh >"$out/stdout" 2>"$out/stderr" </dev/null
status=$?
set -e
sleep 0.3
kill "$tail"
echo "guest: command ended with status $status after $(cut -d' ' -f1 /proc/uptime) s"

echo "$status" >"$out/status"
tar -c --hard-dereference -f /dev/vdc -C "$out" stdout stderr -C / results -C "$out" status
sync /dev/vdc
