#!/bin/busybox sh
# PID 1 of the emulated machine: mount the root, which QEMU shares by 9p, and continue with init.sh.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
modprobe 9pnet_virtio
modprobe 9p
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,rw root /root
mount -t devtmpfs dev /root/dev
umount /proc /sys
exec switch_root /root /lab/init.sh
