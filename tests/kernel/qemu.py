"""Boot Debian 13's stock kernels under QEMU, for what User-Mode Linux lacks, such as NVMe/TCP.

QEMU and the kernel are installed on a layer of the lab's Debian. It emulates in software (TCG), which requires nothing
from the host; the kernel boots in three seconds.
"""

import shutil
import tempfile
from pathlib import Path

from tests.kernel.lab import HERE, Result, run_in
from tests.kernel.layers import base, digest_of, in_overlay, locked

_FILES = (HERE / "machine.sh", HERE / "initramfs.sh")
_PREPARATION_SECONDS = 600
_MACHINE = (
    "qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -nodefaults -no-user-config -display none -no-reboot"
    " -serial stdio -kernel /boot/vmlinuz -initrd /boot/initramfs"
    " -virtfs local,path=/,mount_tag=root,security_model=none,multidevs=remap"
)


def boot(program: str, *arguments: str, suite: str, memory: str = "2G") -> Result:
    """Run the Python module `program` of ``inside/`` in its own emulated machine with the kernel of `suite`."""
    root = base()
    append = f"console=ttyS0 quiet panic=-1 lab_program={program}"
    return run_in(root, (_machine_layer(root, suite),), f"{_MACHINE} -m {memory} -append '{append}'", arguments)


def _machine_layer(root: Path, suite: str) -> Path:
    """Return the layer with the kernel of `suite` and QEMU on top of `root`, which is made first if needed."""
    directory = root.parent / f"machine-{digest_of(suite, *(file.read_text() for file in _FILES))}"
    with locked(directory):
        if not directory.exists():
            with tempfile.TemporaryDirectory(dir=root.parent, prefix="new-") as name:
                layer = Path(name)
                lab = layer / "upper" / "lab"
                lab.mkdir(parents=True)
                for file in _FILES:
                    shutil.copy(file, lab)
                command = f"chroot {layer}/merged /lab/machine.sh {suite}"
                in_overlay(layer, (root,), command, timeout=_PREPARATION_SECONDS, check=True)
                directory.mkdir()
                (layer / "upper").rename(directory / "upper")
    return directory / "upper"
