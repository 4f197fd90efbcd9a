"""``handshaked-demux`` as another user, whom the interpreter's own files may be closed to: ``UID OPTIONS ..``."""

import os
import shutil  # noqa: F401 - what argparse imports when it is too late
import sys

from handshaked.demux.main import main

if __name__ == "__main__":
    user = int(sys.argv.pop(1))
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    main()
