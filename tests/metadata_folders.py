"""Folders with a `dataset.sqlite` and no pickles, of values that tests choose: keyword data is all they are about."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crowdplay_ingest.recording_metadata import METADATA_FILE, put_rows

P0, P1 = "game_0>player_0", "game_0>player_1"

Keywords = Mapping[str, Mapping[str, Any]]  # agent → key → value


@dataclass(frozen=True)
class Sitting:
    """An environment: its task, its own keyword data, that of each of its episodes by id, and who took part."""

    environment_id: str
    task_id: str
    keywords: Keywords
    episodes: Mapping[str, Keywords]
    users: Mapping[str, str] = field(default_factory=lambda: {P0: "ada"})  # agent → participant


def write_metadata(folder: Path, sittings: Sequence[Sitting], protocol: int = 4) -> Path:
    """Writes `dataset.sqlite` into ``folder`` (made if missing), its values pickled with ``protocol``."""
    folder.mkdir(parents=True, exist_ok=True)

    def pickled(owner: str, keywords: Keywords) -> list[tuple[str | bytes, ...]]:
        return [
            (owner, agent, key, pickle.dumps(value, protocol))
            for agent, values in keywords.items()
            for key, value in values.items()
        ]

    put_rows(
        folder / METADATA_FILE,
        {
            "environments": [(one.environment_id, one.task_id) for one in sittings],
            "environmentkeyworddata": [row for one in sittings for row in pickled(one.environment_id, one.keywords)],
            "episodes": [(episode, one.environment_id) for one in sittings for episode in one.episodes],
            "episodekeyworddata": [
                row for one in sittings for episode, data in one.episodes.items() for row in pickled(episode, data)
            ],
            "users": [
                (f"{one.environment_id}-{agent}", who, one.task_id, one.environment_id, agent)
                for one in sittings
                for agent, who in one.users.items()
            ],
        },
    )
    return folder
