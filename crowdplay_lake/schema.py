"""The contract: every table of a lake, its columns, what they mean, and how it is partitioned and sorted.

A lake is a folder of Delta tables (partitioned Parquet with a transaction log), one per entry of `TABLES`. Whatever
reads or writes rows takes names, types and order from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

__all__ = [
    "ALL_AGENTS",
    "COMMITS",
    "FORMAT_VERSION",
    "OLDEST_FORMAT",
    "RAM_BYTES",
    "RAM_COLUMNS",
    "RAM_DTYPE",
    "TABLES",
    "UNKNOWN",
    "Column",
    "Table",
    "as_markdown",
]

# 2: keyword tables have `replaced_json`, which 1 lacks.
FORMAT_VERSION = 2
OLDEST_FORMAT = 2

# The agent that owns what belongs to no single one: a shared screen, keyword data of a whole episode.
ALL_AGENTS = "all"
# Game and task of an episode without metadata.
UNKNOWN = "unknown"

RAM_BYTES = 128
RAM_COLUMNS = tuple(f"ram_{address:02x}" for address in range(RAM_BYTES))
# In `extra` of a step: its RAM was an array of that dtype, not a list.
RAM_DTYPE = "ram_dtype"

_TEXT = pa.string()
_INT = pa.int32()
_LONG = pa.int64()
_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Arrow type and what it means."""

    name: str
    type: pa.DataType
    doc: str


@dataclass(frozen=True)
class Table:
    """One table: a row's meaning, its columns, the partition column and the order of the rows."""

    name: str
    row: str
    columns: tuple[Column, ...]
    sort: tuple[str, ...]
    partition: str | None = None
    # Parquet: rows a row group, and columns that gain from an encoding other than the dictionary.
    row_group_rows: int = 65_536
    # Fewer rows where they would take more bytes than about this, but a multiple of so many.
    row_group_bytes: int | None = None
    row_group_unit: int = 1
    plain: tuple[str, ...] = ()
    encodings: Mapping[str, str] = field(default_factory=dict)

    # Once: a schema of 130 columns takes longer to make than an episode's steps to read.
    @cached_property
    def schema(self) -> pa.Schema:
        """All columns, the partition column among them."""
        return pa.schema([pa.field(column.name, column.type) for column in self.columns])

    @cached_property
    def stored_schema(self) -> pa.Schema:
        """The columns inside a Parquet part: a partition's value is in its folder's name and in the log."""
        return pa.schema([field for field in self.schema if field.name != self.partition])

    def rows_a_group(self, rows: pa.Table) -> int:
        """How many of these ``rows`` make a row group."""
        if self.row_group_bytes is None or not len(rows):
            return self.row_group_rows
        fitting = self.row_group_bytes * len(rows) // max(1, int(rows.nbytes))
        return min(max(fitting // self.row_group_unit, 1) * self.row_group_unit, self.row_group_rows)


_KEYWORD_VALUE = (
    Column("value_type", _TEXT, "Python type of the value: int, float, bool, str, none, timedelta, datetime, list, …"),
    Column("value_double", pa.float64(), "the value of a number or bool; of a duration, its seconds"),
    Column("value_text", _TEXT, "the value of a text"),
    Column("value_timestamp", _TIME, "the value of a date and time, taken as UTC"),
    Column("value_json", _TEXT, "any value, losslessly, as JSON with type tags (see `tagged`)"),
    Column("commit", _LONG, "the lake commit that wrote the row"),
    Column(
        "replaced_json",
        _TEXT,
        "where an annotation took the place of another value, that one: an ingest that still tells it changes nothing",
    ),
)

_EPISODE_ID = Column("episode_id", _TEXT, "id of the episode (hex uuid in CrowdPlay)")
_AGENT_ID = Column(
    "agent_id", _TEXT, "'game_0>player_0', 'game_0>player_1', 'agent_0'; 'all' for what is of no one agent"
)
_ENVIRONMENT_ID = Column("environment_id", _TEXT, "id of the environment: one sitting, one or more episodes in a row")
_TASK_ID = Column("task_id", _TEXT, "CrowdPlay's task id, such as 'space_invaders_insideout'")
_GAME = Column("game", _TEXT, "the game, such as 'space_invaders'; 'unknown' without metadata")
_TASK = Column(
    "task", _TEXT, "what people were asked to do, such as 'insideout' or 'plain'; 'unknown' without metadata"
)
_SOURCE = Column("source", _TEXT, "where people were recruited: 'mturk', 'email', 'socialmedia'")
_CREATED_ON = Column("created_on", _TIME, "when it began, UTC")

ENVIRONMENTS = Table(
    "environments",
    "environment",
    (_ENVIRONMENT_ID, _TASK_ID, _GAME, _TASK, _SOURCE, _CREATED_ON),
    sort=("environment_id",),
)

USERS = Table(
    "users",
    "user in an environment",
    (
        Column("user_id", _TEXT, "id of the visit"),
        Column("permanent_user_id", _TEXT, "hash of the participant: the same person has the same one in every visit"),
        _TASK_ID,
        _ENVIRONMENT_ID,
        _AGENT_ID,
    ),
    sort=("environment_id", "agent_id", "user_id"),
)

EPISODES = Table(
    "episodes",
    "episode",
    (
        _EPISODE_ID,
        _ENVIRONMENT_ID,
        _TASK_ID,
        _GAME,
        _TASK,
        _SOURCE,
        _CREATED_ON,
        Column("agents", pa.list_(_TEXT), "the agents, in the trajectory's order"),
        Column("n_steps", _INT, "emulator steps, 60 a second; null: the metadata is known, the trajectory is not"),
        Column("first_done_step", pa.list_(_INT), "per agent, its first step with done set; null where there is none"),
        Column(
            "frame_limit_reached",
            pa.list_(pa.bool_()),
            "per agent, whether that done was the frame limit (everybody done, lives left) and not the game's end",
        ),
        Column(
            "screen_agents",
            pa.list_(_TEXT),
            "the agents with frames of their own: 'all' alone where they share one screen",
        ),
        Column("frame_shape", pa.list_(_INT), "shape of a raw frame: 210, 160, 3"),
        Column(
            "palettes",
            pa.list_(pa.binary()),
            "per screen agent, its colours in the order of their indices, 3 bytes each",
        ),
        Column("action_meanings", pa.list_(_TEXT), "what each action index does; null where the game is unknown"),
        Column("reward_type", _TEXT, "Python type of the rewards: int or float"),
        Column(
            "variant", _TEXT, "how frames are nested: full (agent, image), gym (agent only), rollout (processed frames)"
        ),
        Column("source_name", _TEXT, "name of the raw file"),
        Column("source_bytes", _LONG, "its size"),
        Column("source_sha256", _TEXT, "its checksum"),
        Column("source_stamp", _TEXT, "what tells a change without reading: its time, a zip's CRC, a store's ETag"),
        Column("content_hash", _TEXT, "SHA-256 over the episode's rows, the same however it was written"),
        Column("steps_part", _TEXT, "the part of `steps` that holds the episode"),
        Column(
            "steps_first_row", _LONG, "row in that part where it begins; its agents follow each other, in sorted order"
        ),
        Column("frames_part", _TEXT, "the part of `frames` that holds the episode"),
        Column("frames_first_row", _LONG, "row in that part where it begins; its screen agents follow each other"),
    ),
    sort=("episode_id",),
    partition="game",
)

KEYWORD_DATA = Table(
    "keyword_data",
    "episode, agent and key",
    (_EPISODE_ID, _GAME, _AGENT_ID, Column("key", _TEXT, "CrowdPlay's key, such as 'Score'"), *_KEYWORD_VALUE),
    sort=("episode_id", "agent_id", "key"),
    partition="game",
)

ENVIRONMENT_KEYWORD_DATA = Table(
    "environment_keyword_data",
    "environment, agent and key",
    (_ENVIRONMENT_ID, _AGENT_ID, Column("key", _TEXT, "CrowdPlay's key, such as 'Score'"), *_KEYWORD_VALUE),
    sort=("environment_id", "agent_id", "key"),
)

STEPS = Table(
    "steps",
    "episode, agent and step",
    (
        _EPISODE_ID,
        _GAME,
        _AGENT_ID,
        Column("step", _INT, "0, 1, 2, …: the row of the trajectory"),
        Column("step_iter", _INT, "CrowdPlay's own counter: from 1, can skip numbers"),
        Column("action", _INT, "index into the game's action set"),
        Column("action_step_iter", _INT, "the step_iter the person saw when the key was pressed; -1 before the first"),
        Column("reward", pa.float64(), "reward of this step"),
        Column("done", pa.bool_(), "whether the agent is done after this step; stays set while the other plays on"),
        Column("done_all", pa.bool_(), "whether everybody is done"),
        Column("user_type", _INT, "who plays: 1 a human, 2 an AI"),
        Column("lives", _INT, "lives left after this step"),
        *(Column(name, _INT, f"RAM byte 0x{address:02x} after the step") for address, name in enumerate(RAM_COLUMNS)),
        Column("extra", _TEXT, "whatever else the step carried, as JSON with type tags; null where there is nothing"),
    ),
    sort=("episode_id", "agent_id", "step"),
    partition="game",
    plain=("step", "step_iter", "action_step_iter", *RAM_COLUMNS, "extra"),
    encodings={
        "step": "DELTA_BINARY_PACKED",
        "step_iter": "DELTA_BINARY_PACKED",
        "action_step_iter": "BYTE_STREAM_SPLIT",
        **dict.fromkeys(RAM_COLUMNS, "BYTE_STREAM_SPLIT"),
    },
)

FRAMES = Table(
    "frames",
    "episode, agent (or 'all') and step",
    (
        _EPISODE_ID,
        _GAME,
        _AGENT_ID,
        Column("step", _INT, "the frame the agent saw before this step"),
        Column("keyframe", pa.bool_(), "whether `colors` holds the whole screen"),
        Column("gaps", pa.binary(), "positions of the changed pixels: uint16 little-endian, distances (see `pixels`)"),
        Column("colors", pa.binary(), "their new palette indices, a byte each"),
    ),
    sort=("episode_id", "agent_id", "step"),
    partition="game",
    # A whole number of keyframe intervals: each row group begins with a keyframe. Whoever wants one step decodes one of
    # them, and where the screen scrolls a step has ten times the bytes.
    row_group_rows=2_048,
    row_group_bytes=3 << 19,
    row_group_unit=256,
    # docs/bytes.md has what was tried.
    plain=("step", "gaps", "colors"),
    encodings={"step": "DELTA_BINARY_PACKED", "gaps": "PLAIN", "colors": "PLAIN"},
)

REJECTED = Table(
    "rejected",
    "raw file that was refused",
    (
        Column("source", _TEXT, "the folder, archive or address it was found in"),
        Column("name", _TEXT, "the file there, or the file and a value inside it; of what `remove` took out, a hash"),
        Column("bytes", _LONG, "its size"),
        Column("sha256", _TEXT, "its checksum"),
        Column("stamp", _TEXT, "what tells a change of it; null where it is to be tried again anyway"),
        Column("reason", _TEXT, "why it was refused"),
        Column("step", _INT, "the step where it shows, from 0; null where it is not of one step"),
        Column("time", _TIME, "when"),
    ),
    sort=("source", "name"),
)

COMMITS = Table(
    "commits",
    "lake commit",
    (
        Column("number", _LONG, "0, 1, 2, …: cite it, and open it with Lake(path, commit=number)"),
        Column("time", _TIME, "when"),
        Column("operation", _TEXT, "what made it: create, ingest, …"),
        Column("format_version", _INT, "of this schema"),
        Column("versions", pa.map_(_TEXT, _LONG), "the Delta version of every other table in this commit"),
        Column("counts", pa.map_(_TEXT, _LONG), "what the operation changed: episodes, steps, bytes, …"),
    ),
    sort=("number",),
)

# In the order in which a commit writes them; `commits` comes last, always.
TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        ENVIRONMENTS,
        USERS,
        EPISODES,
        KEYWORD_DATA,
        ENVIRONMENT_KEYWORD_DATA,
        STEPS,
        FRAMES,
        REJECTED,
    )
}


def as_markdown() -> str:
    """The tables as a page of documentation: docs/tables.md, which a test holds to this."""
    lines = [
        "# The tables of a lake",
        "",
        "Each is a Delta table: Parquet parts and a transaction log. `lake.sql` and `lake.scan` see them under these",
        "names, all but `commits`, the lake's own book. Made from `crowdplay_lake/schema.py` by `make docs`.",
    ]
    for table in (*TABLES.values(), COMMITS):
        partition = f", partitioned by `{table.partition}`" if table.partition else ""
        order = ", ".join(f"`{name}`" for name in table.sort)
        lines += ["", f"## {table.name}", "", f"One row per {table.row}; sorted by {order}{partition}.", ""]
        lines += ["| column | type | meaning |", "| --- | --- | --- |"]
        rows = [f"| `{c.name}` | {c.type} | {c.doc} |" for c in table.columns if c.name not in RAM_COLUMNS[1:]]
        lines += [row.replace("| `ram_00` |", "| `ram_00` … `ram_7f` |").replace("byte 0x00", "bytes") for row in rows]
    lines += ["", _VIEWS]
    return "\n".join(lines)


_VIEWS = """## episode_agents

A view, in SQL only. One row per episode and agent: what `episodes`, `environments` and `users` say of them, and every
keyword as a typed column.

- Names are snake_case: 'Correct aliens shot (fraction)' is `correct_aliens_shot_fraction`. A reserved SQL word gets a
  trailing underscore (`left_`), a name that is taken a number (`score_2`). Keys that differ only in capitals share a
  column unless an agent has both: CrowdPlay writes 'Active playtime' and 'Active Playtime'.
- Keys of the agent on its episode have bare names, those of the environment the prefix `environment_`, those under
  'all' on the episode the prefix `episode_`.
- Whole numbers are BIGINT, other numbers DOUBLE, durations DOUBLE in seconds, dates TIMESTAMP in UTC, texts VARCHAR,
  lists and the like JSON text. Where a key has values of several types, the commonest decides; `keyword_data` has all.
- `first_done_step` is the agent's first step with `done` set, `frame_limit_reached` whether that was the frame limit.

In `lake.episodes(where)` an episode qualifies if any of its agents does; name `agent_id` to choose.

## environment_agents

A view, in SQL only. One row per environment and agent: what `environments` and `users` say of them, how many episodes
the sitting has (`n_episodes`) and how many steps they have together (`n_steps`), and every keyword as a typed column,
named as above: those of the agent on its environment bare, those under 'all' with the prefix `environment_`.

## episode_steps

A view, in SQL only. `steps`, with `environment_id`, `task_id`, `task`, `source`, `created_on` and `n_steps` of the
episode. For what is known of the agent, join `episode_agents` on `episode_id` and `agent_id`.

## In a lake of your own

`crowdplay-lake schema LAKE [TABLE]`, or `lake.schema()`, shows all of this with the keywords that are in there: whose
they are, of which types and how often. The same texts are comments in SQL's catalog (`duckdb_columns()`).
"""
