"""The message format of both doors: generic netlink messages, also on the Unix socket (``netlink/handshaked.yaml``)."""
