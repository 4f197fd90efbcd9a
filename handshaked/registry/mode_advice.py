"""Advice on the mode and the owner of a file: a command for whoever can run it, only where it has an effect."""

import os
import shlex
import stat
from pathlib import Path

_WITHOUT_MODES = ("vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuseblk", "cifs", "smb3", "iso9660")
"""File systems where mode and owner are options of the mount, or are on another computer."""
_MOUNTS = Path("/proc/self/mountinfo")


def advise(command: str, path: str, at: int | str) -> str:
    """Return advice to run `command`, of chmod or chown, on the file `path`; `at` is its path or a descriptor of it.

    Only a file's owner can change its mode, and only root its owner. Nobody can on a read-only file system, as a volume
    in a container often is, or where files have no modes.
    """
    status = os.stat(at)
    if os.statvfs(at).f_flag & os.ST_RDONLY:
        return (
            "its file system is read-only: change it where the file comes from (defaultMode of a volume in Kubernetes)"
        )
    kind = file_system_type(_mounts(), status.st_dev)
    if kind in _WITHOUT_MODES:
        return f"files on {kind} have no modes: mount it with other options, or copy the file to another file system"
    by_root = status.st_uid == 0 or command.startswith("chown")
    return f"run as {'root' if by_root else f'uid {status.st_uid}'}: {command} {shlex.quote(path)}"


def shown_mode(status: os.stat_result) -> str:
    """Return the mode of a file as chmod takes it."""
    return f"{stat.S_IMODE(status.st_mode):04o}"


def file_system_type(mounts: str, device: int) -> str:
    """Return the type of the file system on `device` by the content of proc_pid_mountinfo(5); empty if unknown."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [number]:
            return after.partition(" ")[0]
    return ""


def _mounts() -> str:
    try:
        return _MOUNTS.read_text(errors="replace")
    except OSError:
        return ""
