#!/bin/bash
# PID 1 in the lab, or a service of systemd there: set up mounts, modules and loopback, run the program named on the
# kernel's command line, and write its exit status to /lab/rc.
export PATH=/opt/handshaked/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONPATH=/lab PYTHONUNBUFFERED=1
if [ $$ = 1 ]; then
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    for directory in /run /tmp /var/lib/nfs; do mount -t tmpfs tmpfs $directory; done
    mkdir -p /var/lib/nfs/{sm,sm.bak,v4recovery,nfsdcld} /run/rpcbind
    touch /var/lib/nfs/etab /var/lib/nfs/rmtab
fi
ip link set lo up
hostname lab
echo "127.0.0.1 localhost server.test one.test two.test unknown.test" >/etc/hosts
modprobe -a tls sunrpc nfsd nfs nfsv4
program=$(sed -n 's/.*lab_program=\([^ ]*\).*/\1/p' /proc/cmdline)
cd /tmp
keyctl session lab timeout --kill-after=5 "${LAB_SECONDS:-600}" python -X faulthandler -m "tests.kernel.inside.$program" $(cat /lab/arguments) >/lab/out 2>/lab/err
echo $? >/lab/rc
sync
[ $$ = 1 ] || exit 0
echo o >/proc/sysrq-trigger
sleep 5
