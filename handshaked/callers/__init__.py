"""What the local users who ask may take: connections, time, messages, memory, threads, log lines; one account each."""
