"""What runs in the laboratory: ``scene`` and ``rpc`` are what the programs share."""
