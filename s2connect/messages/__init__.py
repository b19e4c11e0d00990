"""What is on the wire of S2 JSON."""
