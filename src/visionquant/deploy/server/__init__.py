"""The HTTP server of one model in one precision."""
