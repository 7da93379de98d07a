"""Where what can be made again is kept: the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["CACHE_VARIABLE", "cache_root"]

CACHE_VARIABLE = "CROWDPLAY_LAKE_CACHE"


def cache_root() -> Path:
    """$CROWDPLAY_LAKE_CACHE, or else a folder of ours in the one that the system has for caches."""
    explicit = os.environ.get(CACHE_VARIABLE)
    return Path(explicit).expanduser() if explicit else user_cache_path("crowdplay-lake", appauthor=False)
