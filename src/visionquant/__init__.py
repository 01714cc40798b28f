"""visionquant: what a precision does to a vision transformer, measured so that it can be checked."""

__version__ = "0.1.0"
