"""Certificates, daemons, servers, clients and fakes for demonstrations, tests and benchmarks."""
