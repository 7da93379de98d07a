"""A lake, opened at one commit: tables, SQL, episodes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Executor
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .environment import Environment, User
from .episode import Episode
from .errors import InvalidArgument, UnknownEnvironment, UnknownEpisode, UnknownTable
from .observations import ObservationParameters
from .owners import Columns, KeywordsByGame, KeywordsByOwner, Row
from .query import Database, Parameters, Stop
from .query_result import QueryResult
from .schema import ALL_AGENTS, EPISODES, TABLES, UNKNOWN
from .snapshot import Snapshot, open_snapshot
from .storage import AnyPath, as_path
from .views import VIEWS, define_views, store_wide
from .wide import WIDE

if TYPE_CHECKING:
    import polars as pl
    from upath import UPath

    from .statistics.base import Statistic
    from .statistics.compute import Work

__all__ = ["Episodes", "Lake"]

# Columns of `episodes` that a list of episodes is made from and its keyword data asks for, and where the others of a
# row are found.
_LISTED = ("episode_id", "environment_id", "task_id", "game", "agents", "n_steps")
_PLACE = "place"


class Episodes(Sequence[Episode]):
    """Episodes ordered by id: length, indexing, slicing, iteration."""

    def __init__(self, lake: Lake, rows: pa.Table) -> None:
        self._lake = lake
        self._rows = rows

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> Episodes: ...
    def __getitem__(self, index: int | slice) -> Episode | Episodes:
        if isinstance(index, slice):
            return Episodes(self._lake, self._rows.take(np.arange(*index.indices(len(self)))))
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"episode {index} of {len(self)}")
        return Episode(self._lake, Row(self._columns(self._rows.slice(at, 1)), 0))

    def __iter__(self) -> Iterator[Episode]:
        for batch in self._rows.to_batches(max_chunksize=4096):
            for row in self._columns(batch).rows():
                yield Episode(self._lake, row)

    def _columns(self, rows: pa.Table | pa.RecordBatch) -> Columns:
        return Columns(rows, self._lake._unlisted, EPISODES.schema.names)

    @property
    def ids(self) -> list[str]:
        """The episode ids, in order."""
        return self._rows["episode_id"].to_pylist()  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"Episodes({len(self)} of {self._lake})"


class Lake:
    """A lake at its last commit, or at ``commit``. It keeps this snapshot while others write; open it again for more.

    ``path``: a folder, or an address on object storage such as ``s3://bucket/lake`` (extra `remote`); credentials are
    taken from the environment.

    >>> lake = Lake("lake")                                                          # doctest: +SKIP
    >>> lake.sql("SELECT game, count(*) AS episodes FROM episodes GROUP BY game")     # doctest: +SKIP
    >>> lake.episodes("game = 'space_invaders' AND score >= 50")[0].observations()    # doctest: +SKIP

    Raises InvalidLake where there is none, or one of a format that is not read here.
    """

    def __init__(self, path: str | PathLike[str] | UPath, commit: int | None = None) -> None:
        self.path: AnyPath = as_path(path)
        self.snapshot: Snapshot = open_snapshot(self.path, commit)
        self._wide_lock = threading.Lock()
        self._wide_asked = 0

    @property
    def commit(self) -> int:
        """The number of the commit: cite it, or open the lake at it again."""
        return self.snapshot.number

    def __repr__(self) -> str:
        return f"Lake({str(self.path)!r}, commit={self.commit})"

    def __reduce__(self) -> tuple[type[Lake], tuple[str, int]]:
        # Workers open the same snapshot; a database connection cannot travel.
        return Lake, (str(self.path), self.commit)

    # SQL and frames

    @cached_property
    def _database(self) -> Database:
        database = Database(self.path)
        define_views(database, self.snapshot)
        database.lock()
        return database

    def sql(
        self,
        query: str,
        params: Parameters = None,
        tables: Mapping[str, Any] | None = None,
        max_rows: int | None = None,
        stop: Stop | None = None,
    ) -> QueryResult:
        """Run one reading SQL statement.

        It sees the tables of the lake and three views. `episode_agents`: one row per episode and agent, with everything
        known of the episode, its environment and its user as typed columns (`score`, `time_played` in seconds, `game`,
        …); `environment_agents`: the same per sitting; `episode_steps`: steps with their episode. See `schema`.
        ``params``: values for ``?`` or ``$name``. ``tables``: frames of your own to join in, by name.
        ``max_rows``: at most so many rows are computed. ``stop``: a `query.Stop`, to end it from another thread.

        Raises UnknownColumn and UnknownTable with the nearest names, QueryNotAllowed for what would write or leave the
        lake, QueryError for the rest.
        """
        if WIDE in query.lower():
            self._keep_wide()
        return self._database.query(query, params, tables, max_rows, stop)

    def _keep_wide(self) -> None:
        with self._wide_lock:
            self._wide_asked += 1
            if self._wide_asked == 2:
                store_wide(self._database)

    def tables(self) -> dict[str, list[str]]:
        """The tables and views that `sql` sees, with their columns."""
        return self._database.names()

    def schema(self, table: str | None = None) -> QueryResult:
        """What `sql` sees, documented: a row (table, column, type, meaning) a column, of ``table`` or of all.

        A table's own row comes first, with an empty column name. Raises UnknownTable with the nearest names.
        """
        if table is not None and table not in (known := self.tables()):
            raise UnknownTable(table, known)
        return self.sql(
            """
            SELECT "table", "column", type, meaning FROM (
                SELECT view_name AS "table", '' AS "column", '' AS type, comment AS meaning, 0 AS place
                FROM duckdb_views() WHERE NOT internal AND NOT starts_with(view_name, '_')
                UNION ALL
                SELECT table_name, column_name, data_type, coalesce(comment, ''), column_index
                FROM duckdb_columns() WHERE NOT internal AND NOT starts_with(table_name, '_')
            ) WHERE $table IS NULL OR "table" = $table ORDER BY "table", place
            """,
            {"table": table},
        )

    def scan(self, table: str) -> pl.LazyFrame:
        """A table as a Polars LazyFrame: partitions and columns that a query does not need are not read.

        Raises UnknownTable.
        """
        import polars as pl

        if table in VIEWS:
            raise InvalidArgument(f"{table} is a view of SQL: lake.sql('SELECT … FROM {table}').pl()")
        if table not in TABLES:
            raise UnknownTable(table, TABLES)
        spec = TABLES[table]
        files = [str(file) for file in self.snapshot.files(table)]
        if not files:
            return pl.LazyFrame(pl.from_arrow(spec.schema.empty_table()))
        if spec.partition is None:
            return pl.scan_parquet(files, hive_partitioning=False, glob=False)
        if "=" in str(self.path):
            # A folder above the lake looks like a partition: don't let Polars take it for one.
            key = spec.partition
            pieces = [
                pl.scan_parquet([str(file) for file in group], hive_partitioning=False, glob=False).with_columns(
                    pl.lit(value).alias(key)
                )
                for value, group in self.snapshot.files_by_partition(table).items()
            ]
            return pl.concat(pieces).select(spec.schema.names)
        # The partition's type is said: "007" is a text here.
        frame = pl.scan_parquet(files, glob=False, hive_partitioning=True, hive_schema={spec.partition: pl.String})
        return frame.select(spec.schema.names)

    def scan_observations(
        self,
        where: str | None = None,
        params: Parameters = None,
        downsample_frequency: int = 1,
        downsample_offset: int = 0,
        final_step: bool = True,
        parameters: ObservationParameters | None = None,
    ) -> pl.LazyFrame:
        """Emitted steps with their observations as a Polars LazyFrame; what a query does not need is not made.

        A row for every emitted step of every agent of the episodes that satisfy ``where`` (as in `episodes`) and have
        a trajectory: the columns of `steps`, where ``reward`` is the sum since the last emitted step, and
        ``observation``, Array(UInt8, (84, 84, 4)) by default; ``parameters`` as `Episode.observations` takes them.

        >>> from crowdplay_lake.observations import ObservationParameters       # doctest: +SKIP
        >>> frame = lake.scan_observations("score >= 50", downsample_frequency=4)   # doctest: +SKIP
        >>> frame.filter(pl.col("user_type") == 1).select("observation", "action").head(32).collect()  # doctest: +SKIP

        Raises InvalidArgument where the observations would not all have one shape.
        """
        from .scan import Emission, scan_observations

        episodes = [episode for episode in self.episodes(where, params) if episode.has_trajectory]
        emission = Emission(downsample_frequency, downsample_offset, final_step)
        return scan_observations(episodes, emission, parameters or ObservationParameters())

    # Episodes

    @cached_property
    def _episode_rows(self) -> pa.Table:
        """The columns that are asked of many episodes, by id; `_unlisted` gives the others."""
        rows = self.snapshot.read(EPISODES.name, columns=_LISTED)
        order = pc.sort_indices(rows["episode_id"])
        return rows.take(order).append_column(_PLACE, order)

    @cached_property
    def _unlisted_columns(self) -> pa.Table:
        names = [name for name in EPISODES.schema.names if name not in _LISTED]
        return self.snapshot.read(EPISODES.name, columns=names)

    def _unlisted(self, rows: pa.Table | pa.RecordBatch, name: str) -> pa.ChunkedArray:
        """Another column of some of `_episode_rows`."""
        return self._unlisted_columns[name].take(rows[_PLACE])

    def _whole_rows(self, rows: pa.Table) -> list[dict[str, Any]]:
        """Rows of `_episode_rows` with all columns."""
        whole = {name: rows[name] if name in _LISTED else self._unlisted(rows, name) for name in EPISODES.schema.names}
        return pa.table(whole).to_pylist()  # type: ignore[no-any-return]

    def episodes(self, where: str | None = None, params: Parameters = None) -> Episodes:
        """The episodes of which any agent satisfies ``where``, an SQL condition over `episode_agents`; all by default.

        >>> lake.episodes("score >= ? AND agent_id = 'game_0>player_0'", [50])   # doctest: +SKIP
        """
        if where is None:
            return Episodes(self, self._episode_rows)
        # The line breaks end a comment in `where`.
        found = self.sql(f"SELECT DISTINCT episode_id FROM episode_agents WHERE (\n{where}\n)", params)
        ids = found.arrow()["episode_id"]
        chosen = pc.is_in(self._episode_rows["episode_id"], value_set=ids.combine_chunks())
        return Episodes(self, self._episode_rows.filter(chosen))

    def episode(self, episode_id: str) -> Episode:
        """The episode with that id. Raises UnknownEpisode with the nearest ids."""
        found = self._episode_rows.filter(pc.equal(self._episode_rows["episode_id"], episode_id))
        if not len(found):
            raise UnknownEpisode(episode_id, self._episode_rows["episode_id"].to_pylist(), str(self.path))
        return Episodes(self, found)[0]

    def has_episode(self, episode_id: str) -> bool:
        """Whether the lake knows an episode of that id."""
        return bool(pc.any(pc.equal(self._episode_rows["episode_id"], episode_id)).as_py())

    # Statistics

    def statistic(
        self,
        statistic: str | Statistic | Callable[..., Any],
        episodes: str | Iterable[str | Episode] | None = None,
        params: Parameters = None,
        executor: Executor | None = None,
    ) -> pl.LazyFrame:
        """A behavioural statistic of each step, as a Polars LazyFrame of episode_id, agent_id, step and value.

        ``statistic``: a name ('score', 'accuracy', …; docs/statistics.md lists them), an object with a method
        ``values(steps)``, or a callable in CrowdPlay's way, from a step to ``{agent: value}``. ``episodes``: an SQL
        condition over `episode_agents` (with its ``params``), ids, or episodes; by default all of the games that the
        statistic is defined for. Values are running ones, as in CrowdPlay's `episode_callables`: that of the last step
        is the episode's. Computed when they are asked for, some episodes at a time, here or by an ``executor``.

        >>> lake.statistic("left", "task = 'left'").group_by("episode_id").agg(pl.col("value").last())  # doctest: +SKIP

        Raises UnknownStatistic with the nearest names; InvalidArgument where the statistic is not defined for the game
        of a chosen episode; UnknownEpisode; NoTrajectory for an id of which only the metadata is known.
        """
        from .statistics.compute import step_values

        return step_values(self.statistic_work(statistic, episodes, params), executor)

    def statistic_work(
        self,
        statistic: str | Statistic | Callable[..., Any],
        episodes: str | Iterable[str | Episode] | None = None,
        params: Parameters = None,
    ) -> Work:
        """The statistic and the episodes that `statistic` is about, with nothing computed yet."""
        from .statistics.compute import Work
        from .statistics.registry import find

        found = find(statistic)
        if episodes is None or isinstance(episodes, str):
            rows = self._whole_rows(self.episodes(episodes, params)._rows)
        else:
            rows = self._rows_with_steps([e if isinstance(e, str) else e.episode_id for e in episodes])
        return Work(self.snapshot.paths, self.commit, found, rows, chosen=episodes is not None)

    def _rows_with_steps(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of `episodes` of these ids. Raises UnknownEpisode and NoTrajectory."""
        known = self._episode_rows["episode_id"]
        chosen = self._episode_rows.filter(pc.is_in(known, value_set=pa.array(ids, pa.string())))
        rows = self._whole_rows(chosen)
        for episode_id in set(ids) - {row["episode_id"] for row in rows}:
            self.episode(episode_id)
        for row in rows:
            # Says so where only the metadata is known.
            len(Episode(self, row))
        return rows

    # What an episode asks of its lake: read once, for all episodes

    @cached_property
    def _episode_keywords(self) -> KeywordsByGame:
        games = {part.partition or "" for part in self.snapshot.parts("keyword_data")}
        return KeywordsByGame(games, lambda game: self._keywords("keyword_data", "episode_id", {game}))

    @cached_property
    def _environment_keywords(self) -> KeywordsByOwner:
        return self._keywords("environment_keyword_data", "environment_id")

    def _keywords(self, table: str, owner: str, games: Set[str] | None = None) -> KeywordsByOwner:
        columns, encoded = [owner, *KeywordsByOwner.COLUMNS], [owner, *KeywordsByOwner.ENCODED]
        return KeywordsByOwner(self.snapshot.read(table, games, columns, encoded), owner)

    def _keywords_of_environment(self, row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Keyword data; game and task are told also where no keyword tells them. ``row``: of it, or of an episode."""
        data = self._environment_keywords.of(row["environment_id"])
        if ALL_AGENTS not in data:
            data[ALL_AGENTS] = {}
        known = data[ALL_AGENTS]
        if "game" not in known or "task" not in known:
            row = self._environment_row(row)
            known.setdefault("game", row.get("game", UNKNOWN))
            known.setdefault("task", row.get("task", UNKNOWN))
        return data

    @cached_property
    def _environments(self) -> dict[str, Row]:
        columns = Columns(self.snapshot.read("environments"))
        return dict(zip(columns["environment_id"], columns.rows(), strict=True))

    def _environment_row(self, episode_row: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._environments.get(episode_row["environment_id"], episode_row)

    def environment(self, environment_id: str) -> Environment:
        """The environment with that id. Raises UnknownEnvironment with the nearest ids."""
        if environment_id not in self._environments:
            raise UnknownEnvironment(environment_id, self._environments, str(self.path))
        return Environment(self, self._environments[environment_id])

    @cached_property
    def _users(self) -> dict[str, dict[str, User]]:
        users: dict[str, dict[str, User]] = {}
        for row in self.snapshot.read("users").sort_by("user_id").to_pylist():
            users.setdefault(row["environment_id"], {})[row["agent_id"]] = User(**row)
        return users

    def _users_of(self, environment_id: str | None) -> dict[str, User]:
        return dict(self._users.get(environment_id or "", {}))
