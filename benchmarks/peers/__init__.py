"""Ways to keep CrowdPlay's episodes: ours, CrowdPlay's, and what else one would take. A module a way.

Another way is a class like those here and a line in `PEERS`; `tests/test_benchmarks.py` compares what it reads.
"""

from __future__ import annotations

from importlib.util import find_spec

from .arrays import CompressedArrays, MappedArrays
from .film import Film
from .huggingface import HuggingFace
from .lake import CrowdPlayLake
from .minari_dataset import MinariDataset
from .peer import BATCH, Decision, Opened, Peer, Source
from .pickles import Pickles
from .zarr_groups import ZarrGroups

__all__ = ["BATCH", "OURS", "PEERS", "REFERENCE", "Decision", "Opened", "Peer", "Source", "missing"]

OURS = CrowdPlayLake()
# What the others are compared with: the files that CrowdPlay writes, read by its algorithm.
REFERENCE = Pickles("CrowdPlay's bz2", ".bz2", "the files as CrowdPlay writes them")

_MINARI_HDF5 = "an observation a step without JPEG; observations packed with gzip, which Minari does not do by itself"
_MINARI_PARQUET = "an observation a step without JPEG, as Minari writes it"

PEERS: tuple[Peer, ...] = (
    OURS,
    REFERENCE,
    Pickles("CrowdPlay's gzip", ".gz", "the same pickles in gzip, level 1, as its script packs them"),
    Pickles("CrowdPlay's plain pickles", "", "the same pickles, not compressed"),
    MinariDataset("Minari on HDF5", "hdf5", _MINARI_HDF5),
    MinariDataset("Minari on Parquet", "parquet", _MINARI_PARQUET),
    HuggingFace(),
    CompressedArrays(),
    MappedArrays(),
    ZarrGroups(),
    Film("FFV1 film", "ffv1", "bgr0", "FFV1 version 3, every frame a key frame", {"level": "3", "g": "1"}),
    Film(
        "H.264 film",
        "libx264rgb",
        "rgb24",
        "libx264rgb with `qp 0`, a key frame every 128 steps",
        {"qp": "0", "preset": "medium", "g": "128"},
    ),
)

_MODULE_OF = {"pillow": "PIL"}


def missing(peer: Peer) -> list[str]:
    """The libraries of a way that are not installed."""
    return [name for name in peer.libraries if find_spec(_MODULE_OF.get(name, name)) is None]
