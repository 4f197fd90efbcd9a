"""What of QUIC's packets the daemon and the demultiplexer must understand: Initials, and how to answer one."""
