"""Run ``handshaked-demux`` as another user, who may be unable to read the interpreter's files: ``UID OPTIONS ..``."""

import os
import shutil  # noqa: F401 - argparse imports it late, when the user cannot read it any more
import sys

from handshaked.demux.main import main

if __name__ == "__main__":
    user = int(sys.argv.pop(1))
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    main()
