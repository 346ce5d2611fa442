"""Leukoray's core: the model and the data. Knows no Ray, no HTTP and no command line."""

__version__ = "0.1.0"
