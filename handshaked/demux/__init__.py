"""Share UDP ports among applications: each connection goes to the one that registered its server name and ALPN."""
