"""One UDP port, many applications: connections go to whoever registered the server name and protocol they ask for."""
