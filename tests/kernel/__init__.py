"""Tests with a real kernel: User-Mode Linux from Debian packages, without hardware virtualization."""
