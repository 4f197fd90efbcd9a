#!/bin/bash
# machine.sh SUITE: install on a layer of the lab's root the stock kernel of the Debian suite SUITE, QEMU, and an
# initramfs that mounts the root shared by QEMU.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
suite=$1
sed -n "s/^\(deb [^ ]*\) [^ ]*/\1 $suite/p" /etc/apt/sources.list >/etc/apt/sources.list.d/kernel.list
apt-get update -qq
apt-get install -y -qq --no-install-recommends qemu-system-x86 busybox-static
version=$(apt-cache show "linux-image-amd64/$suite" | sed -n 's/.*\<linux-image-\([0-9][^ ]*\) .*/\1/p')
# One package or several, depending on the suite.
packages=$(apt-cache pkgnames linux- | grep -Fx "$(printf "linux-%s-$version\n" base binary image modules)")
cd /tmp
apt-get download -qq $packages  # extracted, not installed: the boot preparations of the packages are not needed
for package in *.deb; do
    dpkg --extract "$package" /
    rm "$package"
done
apt-get clean
depmod "$version"
mv "$(find /boot "/usr/lib/modules/$version" -name 'vmlinuz*')" /boot/vmlinuz

tree=$(mktemp -d)
mkdir -p "$tree"/{bin,proc,sys,dev,root,"lib/modules/$version"}
install /bin/busybox "$tree/bin/"
install /lab/initramfs.sh "$tree/init"
for module in 9pnet_virtio 9p; do
    modprobe --show-depends --set-version "$version" "$module"
done | sed -n 's/^insmod //p' | sort -u | while read -r file; do
    install -D "$file" "$tree/lib/modules/${file#*/modules/}"
done
depmod --basedir "$tree" "$version"
(cd "$tree" && find . | busybox cpio -o -H newc | gzip -1) >/boot/initramfs
rm -r "$tree"
