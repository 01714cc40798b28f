"""Engines: how a network is put into a precision, proven to be in it, and run."""
