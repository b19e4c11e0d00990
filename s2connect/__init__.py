"""S2 Connect 1.0.0 for devices, energy managers and the gateways between them."""
