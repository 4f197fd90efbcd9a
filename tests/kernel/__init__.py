"""A real kernel at work with the daemon: User-Mode Linux from Debian packages, no virtualisation needed."""
