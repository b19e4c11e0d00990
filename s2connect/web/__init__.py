"""Status page, metrics and health of the services over HTTP."""
