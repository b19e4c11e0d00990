"""Finding endpoints in the local network: advertise, browse and resolve with mDNS and DNS-SD (DISC)."""
