#!/busybox sh
# shellcheck shell=dash
# The guest's first program, from the initramfs: find the root, unpack the input drive, go on there.
# Drives: vda root, vdb input (a tar), vdc results (a tar, written by init.sh).
fail() { echo "guest: $*"; echo o >/proc/sysrq-trigger; /busybox sleep 60; }

/busybox mount -t proc proc /proc
while read -r module; do /busybox insmod "/modules/$module" || fail "insmod $module failed"; done </modules/order
/busybox mount -t devtmpfs dev /dev || fail "no devtmpfs"
/busybox ifconfig lo 127.0.0.1 up
/busybox mount -t ext4 /dev/vda /root || fail "cannot mount the root drive"
/busybox tar -x -f /dev/vdb -C /root || fail "cannot unpack the input drive"
/busybox mount -o move /dev /root/dev
/busybox umount /proc
exec /busybox switch_root /root /bin/sh /guest/init.sh
