"""Message formats: generic netlink, on the kernel's sockets and on the Unix socket, and JSON for control."""
