"""How S2 messages travel: the contract in ``base``, WebSocket as the standard has it, and memory for one process."""
