"""``python -m handshaked.cli`` is ``handshakectl``."""

from handshaked.cli import main

main()
