"""What of QUIC's packets the daemon and the demultiplexer must understand: the client's Initials, nothing else."""
