"""A TLS 1.3 engine without I/O or clock: it takes bytes with their encryption level and returns ordered events."""
