"""How Sphinx builds this directory: scripts/docs."""

project = "handshaked"
author = "the handshaked maintainers"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {"description": "TLS 1.3 handshakes, keys kept apart", "fixed_sidebar": True}
exclude_patterns = ["_build"]
suppress_warnings: list[str] = []
