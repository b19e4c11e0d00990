"""What must survive a power cut: pairings, tokens, pins, unpairings, and the secrets that go with them."""
