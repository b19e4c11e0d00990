"""The endpoint of an application: its nodes, pairings, sessions, server and certificates."""
