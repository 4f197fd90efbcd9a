"""The lab itself: is there a kernel with the family, and the project?"""

import platform
import subprocess

import handshaked

print(platform.release(), handshaked.__version__)
print(subprocess.run(["cat", "/proc/keys"], capture_output=True, text=True).stdout)
