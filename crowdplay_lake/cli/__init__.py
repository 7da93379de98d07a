"""The command `crowdplay-lake`: thin wrappers over the library. A command is one function in a module here."""

from .app import main

__all__ = ["main"]
