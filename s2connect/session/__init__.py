"""Sessions: initiation and token rotation on both sides, reconnection, and the session itself."""
