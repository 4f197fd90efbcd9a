#!/bin/bash
# PID 1 in the lab before systemd: run the module named on the kernel's command line, then continue as systemd, which
# boots as usual. The module has installed a unit that runs init.sh.
export PATH=/opt/handshaked/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root PYTHONPATH=/lab PYTHONUNBUFFERED=1
mount -t proc proc /proc
program=$(sed -n 's/.*lab_prepare=\([^ ]*\).*/\1/p' /proc/cmdline)
python -X faulthandler -m "tests.kernel.inside.$program" >/lab/out 2>/lab/err || { sync; echo o >/proc/sysrq-trigger; sleep 5; }
exec /usr/lib/systemd/systemd
