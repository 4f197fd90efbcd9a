#!/bin/bash
# In the laboratory's root, on a layer of its own: Debian's ordinary kernel, the emulator that runs it, and an initramfs
# that mounts the root that the emulator shares.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
apt-get update -qq
apt-get install -y -qq --no-install-recommends qemu-system-x86 busybox-static
package=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)$/\1/p')
cd /tmp
apt-get download -qq "$package"  # not installed: nobody here boots as it would prepare for
dpkg --extract "$package"_*.deb /
rm "$package"_*.deb
apt-get clean
version=${package#linux-image-}
depmod "$version"
ln -s "vmlinuz-$version" /boot/vmlinuz

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
(cd "$tree" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >/boot/initramfs
rm -r "$tree"
