"""The QUIC packets that the demultiplexer reads and sends: Initial, Retry and Version Negotiation."""
