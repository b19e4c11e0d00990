"""The endpoint and the bridge as services: control socket, sidecar lines, systemd, signals, recording."""
