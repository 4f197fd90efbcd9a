"""TLS 1.3 without I/O and without a clock: bytes with their encryption level in, ordered events out."""
