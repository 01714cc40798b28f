"""The supplement's implementation guide as working code."""
