"""Proves the rows of one commit: they are whole, agree with each other, and make up the episodes they say they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .content import content_hash
from .errors import CrowdPlayLakeError
from .findings import Finding, Progress, VerifyReport, first_line
from .layout import Part, open_parquet
from .parts import EpisodeRows
from .pixels import Screen, change_log, screens_of
from .reading import EpisodeReader, in_order
from .schema import ALL_AGENTS, EPISODES, FRAMES, STEPS, TABLES, Table
from .snapshot import Snapshot

__all__ = ["verify_rows"]

Row = Mapping[str, Any]
Found = Callable[[Finding], None]

_PLACES = ("agents", "steps_part", "steps_first_row", "frames_part", "frames_first_row", "content_hash")


def verify_rows(snapshot: Snapshot, damaged: Set[str], report: VerifyReport, progress: Progress) -> None:
    """Read every row of a commit. ``damaged``: files known to be so, which are left alone."""
    found = report.findings.append
    small = _small_tables(snapshot, damaged, found)
    if EPISODES.name not in small:
        return
    _check_references(small, found, report.notes)
    rows = [row for row in small[EPISODES.name].to_pylist() if _is_placed(row, found)]
    parts = {table: {part.path: part for part in snapshot.parts(table)} for table in (STEPS.name, FRAMES.name)}
    readable = _check_places(snapshot, rows, parts, damaged, found)
    report.episodes = len(small[EPISODES.name])
    report.steps = sum(row["n_steps"] for row in rows)
    reader = EpisodeReader(snapshot.paths)
    done = 0
    for row in sorted(readable, key=in_order):
        _verify_episode(reader, row, found)
        done += row["n_steps"]
        progress("steps", done, report.steps)


# Tables that are read whole


def _small_tables(snapshot: Snapshot, damaged: Set[str], found: Found) -> dict[str, pa.Table]:
    tables = {}
    for name, spec in TABLES.items():
        if name in (STEPS.name, FRAMES.name) or any(f"{name}/{p.path}" in damaged for p in snapshot.parts(name)):
            continue
        broken = [part for part in snapshot.parts(name) if not _is_readable(snapshot, part, found)]
        if broken:
            continue
        try:
            rows = snapshot.read(name)
        except (CrowdPlayLakeError, OSError, pa.ArrowException, LookupError) as error:
            found(Finding(f"cannot be read: {first_line(error)}", table=name))
            continue
        tables[name] = rows
        keys = rows.group_by(list(spec.sort)).aggregate([([], "count_all")])
        for row in keys.filter(pc.greater(keys["count_all"], 1)).select(list(spec.sort)).to_pylist():
            found(Finding(f"more than one row for {', '.join(map(str, row.values()))}", table=name))
    return tables


def _is_readable(snapshot: Snapshot, part: Part, found: Found) -> bool:
    """Whether a part is Parquet with the rows and columns that it should have."""
    name = f"{part.table}/{part.path}"
    try:
        file = open_parquet(snapshot.paths.part(part.table, part.path))
        rows, columns = file.metadata.num_rows, file.schema_arrow.names
    except (CrowdPlayLakeError, OSError, pa.ArrowException) as error:
        found(Finding(f"cannot be read: {first_line(error)}", name))
        return False
    if rows != part.rows:
        found(Finding(f"has {rows} rows, the log says {part.rows}", name))
    if missing := [column for column in TABLES[part.table].stored_schema.names if column not in columns]:
        found(Finding(f"has no column {missing[0]}", name))
    return rows == part.rows and not missing


def _check_references(tables: Mapping[str, pa.Table], found: Found, notes: list[str]) -> None:
    games = dict(zip(*(tables[EPISODES.name][name].to_pylist() for name in ("episode_id", "game")), strict=True))
    if "keyword_data" in tables:
        pairs = tables["keyword_data"].group_by(["episode_id", "game"]).aggregate([]).to_pylist()
        for pair in pairs:
            if pair["episode_id"] not in games:
                found(Finding("has rows of an episode that there is not", None, "keyword_data", pair["episode_id"]))
            elif games[pair["episode_id"]] != pair["game"]:
                problem = f"is filed under {pair['game']!r}, the episode under {games[pair['episode_id']]!r}"
                found(Finding(problem, None, "keyword_data", pair["episode_id"]))
    if "environments" in tables:
        known = set(tables["environments"]["environment_id"].to_pylist())
        for name in ("episodes", "users", "environment_keyword_data"):
            told = set(tables[name]["environment_id"].to_pylist()) if name in tables else set()
            # CrowdPlay's metadata may leave out an environment and have what refers to it.
            notes += [f"{name}: environment {one} is not in environments" for one in sorted(told - known - {None})]


# Where episodes lie


def _is_placed(row: Row, found: Found) -> bool:
    """Whether an episode has a trajectory; what `episodes` says of one must be complete."""
    told = [name for name in _PLACES if row[name] is not None]
    if row["n_steps"] is None:
        if told:
            found(Finding(f"has no steps, and yet {told[0]}", None, EPISODES.name, row["episode_id"]))
        return False
    lengths = {len(row[name] or ()) for name in ("agents", "first_done_step", "frame_limit_reached")}
    screens = row["screen_agents"] or []
    right = len(told) == len(_PLACES) and len(lengths) == 1 and row["agents"] and row["n_steps"] > 0
    right = right and screens in ([ALL_AGENTS], sorted(row["agents"])) and len(row["palettes"] or ()) == len(screens)
    if not right or not row["frame_shape"]:
        found(Finding("its row is incomplete", None, EPISODES.name, row["episode_id"]))
        return False
    return True


def _check_places(
    snapshot: Snapshot, rows: list[Row], parts: Mapping[str, Mapping[str, Part]], damaged: Set[str], found: Found
) -> list[Row]:
    """Parts are made up of whole episodes, one after the other. Returns the episodes that can be read."""
    unreadable: set[str] = set()
    for table, agents in ((STEPS.name, "agents"), (FRAMES.name, "screen_agents")):
        by_part: dict[str, list[Row]] = {}
        for row in rows:
            by_part.setdefault(row[f"{table}_part"], []).append(row)
        for path in sorted(by_part.keys() | parts[table].keys()):
            own = sorted(by_part.get(path, []), key=lambda row: int(row[f"{table}_first_row"]))
            part = parts[table].get(path)
            if part is None or f"{table}/{path}" in damaged or not _is_readable(snapshot, part, found):
                unreadable.update(row["episode_id"] for row in own)
            if part is None:
                problem = f"its part {path} is not in this commit"
                for row in own:
                    found(Finding(problem, None, table, row["episode_id"]))
                continue
            unreadable.update(_check_tiling(part, own, agents, found))
    return [row for row in rows if row["episode_id"] not in unreadable]


def _check_tiling(part: Part, rows: list[Row], agents: str, found: Found) -> Iterator[str]:
    """Episodes begin where the one before ends, the last one ends with the part. Yields those beyond its end."""
    at = 0
    for row in rows:
        first = row[f"{part.table}_first_row"]
        if row["game"] != part.partition:
            found(Finding(f"is of {row['game']!r} and lies in {part.path}", None, part.table, row["episode_id"]))
        if first != at:
            problem = f"begins at row {first:,} of {part.path}, {at:,} is expected"
            found(Finding(problem, None, part.table, row["episode_id"]))
        at = first + row["n_steps"] * len(row[agents])
        if first < 0 or at > part.rows:
            yield row["episode_id"]
    if at != part.rows:
        found(Finding(f"has {part.rows:,} rows, its episodes {at:,}", f"{part.table}/{part.path}"))


# The rows of an episode


def _verify_episode(reader: EpisodeReader, row: Row, found: Found) -> None:
    check = _EpisodeCheck(row)
    try:
        whole = reader.read(row)
        frames = [check.frames(pieces, index) for index, pieces in enumerate(whole.frames)]
        computed = content_hash(EpisodeRows(check.steps(whole.steps), frames), row)
    except (CrowdPlayLakeError, OSError, ValueError, pa.ArrowException) as error:
        found(Finding(f"cannot be read: {first_line(error)}", None, STEPS.name, row["episode_id"]))
        return
    check.compare_first_done()
    if computed != row["content_hash"]:
        check.add("the rows are not those that were ingested: another content hash", None)
    for finding in check.found.values():
        found(finding)


class _EpisodeCheck:
    """Looks at the rows of an episode as they pass; the first finding of each kind is kept."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.found: dict[tuple[str, str | None], Finding] = {}
        self.first_done: dict[str, int] = {}

    def add(self, problem: str, table: str | None, step: int | None = None) -> None:
        self.found.setdefault((problem, table), Finding(problem, None, table, self.row["episode_id"], step))

    def steps(self, pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
        agents, at = sorted(self.row["agents"]), 0
        for piece in pieces:
            for agent, start, rows in self._by_agent(piece, at, agents):
                self._check_keys(STEPS, rows, agent, start)
                done = np.flatnonzero(rows["done"].fill_null(False).to_numpy())
                if len(done):
                    self.first_done.setdefault(agent, start + int(done[0]))
            at += len(piece)
            yield piece

    def _by_agent(self, piece: pa.Table, at: int, agents: list[str]) -> Iterator[tuple[str, int, pa.Table]]:
        """(agent, its first step, its rows) within rows that begin ``at`` rows after the episode's first."""
        n, begin = self.row["n_steps"], 0
        while begin < len(piece):
            index, start = divmod(at + begin, n)
            count = min(n - start, len(piece) - begin)
            yield agents[index], start, piece.slice(begin, count)
            begin += count

    def _check_keys(self, table: Table, rows: pa.Table, agent: str, start: int) -> None:
        steps = rows["step"].fill_null(-1).to_numpy()
        wrong = np.flatnonzero(steps != np.arange(start, start + len(rows)))
        if len(wrong):
            self.add(f"the steps of {agent} do not follow each other", table.name, start + int(wrong[0]))
        for name, value in (("episode_id", self.row["episode_id"]), ("agent_id", agent)):
            same = pc.equal(rows[name], value).fill_null(False)
            if not pc.all(same).as_py():
                self.add(f"the rows of {agent} have another {name}", table.name, start + same.index(False).as_py())

    def frames(self, pieces: Iterable[pa.Table], index: int) -> Iterator[pa.Table]:
        agent, screen, at = self.row["screen_agents"][index], screens_of(self.row)[index], 0
        for piece in pieces:
            self._check_keys(FRAMES, piece, agent, at)
            self._check_log(piece, screen, at)
            at += len(piece)
            yield piece

    def _check_log(self, rows: pa.Table, screen: Screen, start: int) -> None:
        if not rows["keyframe"][0].as_py():
            self.add("a row group does not begin with a keyframe", FRAMES.name, start)
            return
        gaps, colors = (pc.binary_length(rows[name]).fill_null(-1).to_numpy() for name in ("gaps", "colors"))
        keyframe = rows["keyframe"].fill_null(False).to_numpy()
        right = np.where(keyframe, (gaps == 0) & (colors == screen.pixels), gaps == 2 * colors)
        if not right.all():
            self.add("a row is neither a keyframe nor a change", FRAMES.name, start + int(np.argmin(right)))
            return
        log = change_log(0, rows)
        if len(log.colors) and int(log.colors.max()) >= len(screen.palette):
            self.add("a pixel has a colour that the palette has not", FRAMES.name, start)
        try:
            log.decode([len(rows) - 1], screen.pixels)
        except CrowdPlayLakeError as error:
            self.add(str(error), FRAMES.name, start)

    def compare_first_done(self) -> None:
        for agent, told in zip(self.row["agents"], self.row["first_done_step"], strict=True):
            if told != (seen := self.first_done.get(agent)):
                self.add(f"{agent} is first done at step {seen}, `episodes` says {told}", STEPS.name)
