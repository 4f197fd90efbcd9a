"""Programs that run in the lab; ``scene`` and ``rpc`` are shared by them."""
