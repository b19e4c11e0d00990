"""Objects on the wire of S2 Connect: ids, descriptions, requests, responses."""
