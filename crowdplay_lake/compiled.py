"""Compiled kernels, cached on disk where only this user can write.

numba's cache holds executable code, and by default it lies beside the module: not writable in a shared installation,
and whoever can write there can make others run what he likes. So the cache is a directory of the user's own
(mode 0700), and where there is none to be had the kernels are compiled anew in each process.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .cache_folder import cache_root

__all__ = ["compiled", "inlined"]


def _private_directory() -> Path | None:
    """The cache directory, made if need be; None where it cannot be had or is not ours alone."""
    try:
        directory = cache_root() / "kernels"
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        status = directory.stat()
    except (OSError, RuntimeError):
        return None
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077):
        return None
    return directory if os.access(directory, os.W_OK) else None


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` with numba on its first call: no GIL, no fast-math (float sums keep their order)."""
    import numba

    directory = _private_directory()
    if directory is not None:
        numba.config.CACHE_DIR = str(directory)
    kernel: Callable[..., Any] = numba.njit(nogil=True, cache=directory is not None)(function)
    return kernel


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` as a part of those that call it: a call of its own counts references to every array."""
    import numba

    kernel: Callable[..., Any] = numba.njit(nogil=True, inline="always")(function)
    return kernel
