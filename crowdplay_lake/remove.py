"""Takes episodes and people out of a lake, and what only they needed; one commit.

Earlier commits keep what was removed until `vacuum` drops them. What was removed is remembered by a hash in `rejected`
(see `removal`), so that the next ingest does not bring it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from os import PathLike
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from .commit import Change, Writer, writing
from .errors import InvalidArgument, UnknownEpisode, UnknownParticipant
from .findings import Progress, silent
from .layout import Part
from .removal import REMOVED, Kind, removal_mark
from .rewrite import Pair, pairs_of, replace_pairs, rewritten
from .schema import EPISODES, FRAMES, STEPS
from .snapshot import Snapshot, open_snapshot
from .storage import remove as remove_file

if TYPE_CHECKING:
    from upath import UPath

__all__ = ["Removal", "planned_removal", "remove"]


@dataclass(frozen=True)
class Removal:
    """What goes, by id. ``steps``: rows of `steps`. ``commit``: the lake's last one, before or after."""

    episodes: tuple[str, ...]
    environments: tuple[str, ...]
    users: tuple[str, ...]
    participants: tuple[str, ...]
    played: tuple[str, ...]  # of the environments, those that the participants had a part in
    steps: int
    commit: int


def planned_removal(
    lake: str | PathLike[str] | UPath, episodes: Iterable[str] = (), participants: Iterable[str] = ()
) -> Removal:
    """What `remove` would take out."""
    return _plan(open_snapshot(lake), tuple(episodes), tuple(participants))


def remove(
    lake: str | PathLike[str] | UPath,
    episodes: Iterable[str] = (),
    participants: Iterable[str] = (),
    progress: Progress | None = None,
    lock_wait: float = 10.0,
) -> Removal:
    """Take out ``episodes`` by id, and everything that ``participants`` (permanent user ids) had a part in.

    A participant's environments go with all their episodes, also those of whom they played with. Environments and
    users that no episode needs any more go, too. Raises UnknownEpisode and UnknownParticipant with the nearest ids.
    """
    with writing(lake, lock_wait) as writer:
        plan = _plan(writer.snapshot, tuple(episodes), tuple(participants))
        changes = _small_changes(writer, plan)
        _rewrite(writer, plan, changes, progress or silent)
        counts = {name: len(getattr(plan, name)) for name in ("episodes", "environments", "users")}
        after = writer.commit("remove", changes, {**counts, "steps": plan.steps})
    return replace(plan, commit=after.number)


def _plan(snapshot: Snapshot, episodes: Sequence[str], participants: Sequence[str]) -> Removal:
    if isinstance(episodes, str) or not (episodes or participants):
        raise InvalidArgument("name at least one episode or participant to remove")
    rows = {row["episode_id"]: row for row in snapshot.read(EPISODES.name).to_pylist()}
    users = snapshot.read("users").to_pylist()
    known = {user["permanent_user_id"] for user in users} - {None}
    for episode_id in episodes:
        if episode_id not in rows:
            raise UnknownEpisode(episode_id, rows, str(snapshot.paths.root))
    for participant in participants:
        if participant not in known:
            raise UnknownParticipant(participant, known, str(snapshot.paths.root))
    played = {user["environment_id"] for user in users if user["permanent_user_id"] in participants} - {None}
    gone = {*episodes, *(name for name, row in rows.items() if row["environment_id"] in played)}
    needed = {row["environment_id"] for name, row in rows.items() if name not in gone}
    environments = played | ({rows[name]["environment_id"] for name in gone} - needed - {None})
    left = [
        u["user_id"] for u in users if u["environment_id"] in environments or u["permanent_user_id"] in participants
    ]
    steps = sum((rows[name]["n_steps"] or 0) * len(rows[name]["agents"] or ()) for name in gone)
    return Removal(
        tuple(sorted(gone)),
        tuple(sorted(environments)),
        tuple(sorted(left)),
        tuple(participants),
        tuple(sorted(played)),
        steps,
        snapshot.number,
    )


def _small_changes(writer: Writer, plan: Removal) -> dict[str, Change]:
    """The rows of every table but `episodes`, `steps` and `frames`."""
    changes = {}
    for table, column, gone in (
        ("keyword_data", "episode_id", plan.episodes),
        ("environments", "environment_id", plan.environments),
        ("environment_keyword_data", "environment_id", plan.environments),
        ("users", "user_id", plan.users),
    ):
        rows = writer.snapshot.read(table)
        changes[table] = writer.replacement(table, rows.filter(pc.invert(_is_in(rows[column], gone))))
    rejected = writer.snapshot.read("rejected")
    ids = (*plan.episodes, *plan.environments, *plan.users, *plan.participants)
    # The name of a raw file, or of a value in the metadata, holds the ids.
    others = [row for row in rejected.to_pylist() if not row["source"] or not _is_of(row["name"], set(ids))]
    kept = {(row["source"], row["name"]): row for row in [*_marks(plan), *others]}
    changes["rejected"] = writer.replacement("rejected", pa.Table.from_pylist(list(kept.values()), rejected.schema))
    return changes


def _is_of(name: str, ids: set[str]) -> bool:
    """Whether a rejected file, or value of the metadata, is of one of these: its name is made of ids."""
    return any(part in ids or part.partition(".")[0] in ids for part in name.split("/"))


def _is_in(column: pa.ChunkedArray, values: Sequence[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(values, pa.string()))


def _marks(plan: Removal) -> list[dict[str, Any]]:
    kinds: Mapping[Kind, Sequence[str]] = {
        "episode": plan.episodes,
        # Of an environment that only lost its episodes there may be others to come.
        "environment": plan.played,
        "participant": plan.participants,
    }
    now = datetime.now(UTC)
    names = [removal_mark(kind, one) for kind, ids in kinds.items() for one in ids]
    return [{"source": "", "name": name, "bytes": None, "reason": REMOVED, "time": now} for name in names]


def _rewrite(writer: Writer, plan: Removal, changes: dict[str, Change], progress: Progress) -> None:
    """`episodes` without those that go, and their parts without their rows."""
    snapshot = writer.snapshot
    gone = set(plan.episodes)
    episodes = snapshot.read(EPISODES.name)
    games = sorted(set(episodes.filter(_is_in(episodes["episode_id"], plan.episodes))["game"].to_pylist()))
    rows = episodes.filter(_is_in(episodes["game"], games)).to_pylist()
    pairs = [pair for pair in pairs_of(snapshot, rows) if any(row["episode_id"] in gone for row in pair.rows)]
    added: dict[str, list[Part]] = {STEPS.name: [], FRAMES.name: []}
    try:
        for index, pair in enumerate(pairs):
            _write_rest(snapshot, pair, gone, added)
            progress("remove", index + 1, len(pairs))
    except BaseException:
        for part in (part for parts in added.values() for part in parts):
            remove_file(snapshot.paths.part(part.table, part.path))
        raise
    changes |= replace_pairs(pairs, added)
    rest = [row for row in rows if row["episode_id"] not in gone]
    changes[EPISODES.name] = writer.replacement(EPISODES.name, pa.Table.from_pylist(rest, EPISODES.schema), games)


def _write_rest(snapshot: Snapshot, pair: Pair, gone: set[str], added: dict[str, list[Part]]) -> None:
    rest = [row for row in pair.rows if row["episode_id"] not in gone]
    for table, parts in rewritten(snapshot.paths, pair.rows[0]["game"], rest).items():
        added[table] += parts
