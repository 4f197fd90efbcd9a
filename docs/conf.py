"""Sphinx configuration; scripts/docs builds the documentation."""

project = "handshaked"
author = "the handshaked maintainers"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {
    "description": "A TLS 1.3 handshake daemon that keeps private keys out of your applications",
    "fixed_sidebar": True,
}
exclude_patterns = ["_build"]
suppress_warnings: list[str] = []
