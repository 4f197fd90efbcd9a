"""What demonstrations, tests and benchmarks need and a fake may not replace: certificates, a daemon, real clients."""
