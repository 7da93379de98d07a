"""Where what can be made again is kept: the user's cache folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "cache_root"]

CACHE_VARIABLE = "CROWDPLAY_LAKE_CACHE"


def cache_root() -> Path:
    """$CROWDPLAY_LAKE_CACHE, or else a folder of ours in the one that the system has for caches."""
    if explicit := os.environ.get(CACHE_VARIABLE):
        return Path(explicit).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "crowdplay-lake"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "crowdplay-lake"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crowdplay-lake"
