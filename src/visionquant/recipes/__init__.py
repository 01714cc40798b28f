"""Experiments on what ``deploy`` offers, one a file, named as its command."""
