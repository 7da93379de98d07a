"""The paths of a lake and its Parquet parts: where files lie, and how rows become files and come back.

::

    lake/
      commits/            Delta table: one row per lake commit
      episodes/           Delta table
        _delta_log/
        game=breakout/part-….parquet
      …                   one folder per table of `schema.TABLES`
      checksums/          one list per lake commit
      .lock               held while somebody writes
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .errors import InvalidLake
from .schema import COMMITS, TABLES, Table
from .storage import AnyPath, make_folder, naming, remove

__all__ = [
    "LakePaths",
    "Part",
    "PartWriter",
    "group_starts",
    "is_partition",
    "open_parquet",
    "read_rows",
    "write_parts",
]

# zstd's. Harder costs an ingest time and memory; parts that are written anew are read ever after. See docs/bytes.md.
LEVEL = 9
LASTING_LEVEL = 19
# Columns of a row group that are kept for the next reader: some 65,000 rows of them take a few MB at most.
NARROW = 6
PART_SUFFIX = ".parquet"
# How the name of a part begins: of one that is compressed as well as can be, and of others.
_PACKED, _PART = "packed-", "part-"


@dataclass(frozen=True, slots=True)
class LakePaths:
    """Every path of the lake at ``root``."""

    root: AnyPath

    def table(self, name: str) -> AnyPath:
        return self.root / name

    @property
    def commits(self) -> AnyPath:
        return self.root / COMMITS.name

    @property
    def checksums(self) -> AnyPath:
        return self.root / "checksums"

    def checksum_file(self, number: int) -> AnyPath:
        """The checksums of what lake commit ``number`` wrote."""
        return self.checksums / f"commit-{number:012d}.sha256"

    def part(self, table: str, relative: str) -> AnyPath:
        return self.table(table) / relative


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a table, written but visible only once a commit names it."""

    table: str
    path: str  # relative to the table's folder
    size: int
    rows: int
    partition: str | None = None
    sha256: str | None = None  # of one just written, from the bytes as they went out

    @property
    def partition_values(self) -> dict[str, str | None]:
        key = TABLES[self.table].partition if self.table in TABLES else None
        return {} if key is None else {key: self.partition}

    @property
    def is_packed(self) -> bool:
        """Whether it was written to last: compressed as well as can be."""
        return self.path.rpartition("/")[2].startswith(_PACKED)

    @property
    def statistics(self) -> str:
        """Delta's statistics of the part, as JSON. No least and largest values: logs are kept, and would keep the ids
        of people and episodes that were removed. Parts have them in their footers."""
        return json.dumps({"numRecords": self.rows})


# What Hive, and Delta after it, writes for a partition without a value.
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_LONGEST_FOLDER = 200


def is_partition(value: str) -> bool:
    """Whether a table can have a partition of this value: not where no file system takes its folder's name."""
    return len(value) > 0 and value != _NO_VALUE and len(partition_folder("", value)) <= _LONGEST_FOLDER


def partition_folder(key: str, value: str) -> str:
    """``game=breakout``; whatever could mean something in a path is escaped, as Hive does."""
    escaped = re.sub(r"[^A-Za-z0-9_. -]", lambda match: "".join(f"%{b:02X}" for b in match[0].encode()), value)
    return f"{key}={escaped or '%00'}"


class _Sink(io.RawIOBase):
    """Hashes what is written to a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        with naming(self._file.name):
            return self._file.write(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class PartWriter:
    """Writes one part, row group by row group; leaves nothing behind when it fails.

    Statistics, encodings and row groups are the table's. ``store_schema`` is off and field docs are left to the Delta
    log: repeated in every footer they were half of a small lake. A part for object storage is written to a temporary
    file and sent as a whole. ``lasting``: compressed as well as can be, which takes ten times as long.
    """

    def __init__(
        self,
        paths: LakePaths,
        table: Table,
        partition: str | None = None,
        name: str | None = None,
        lasting: bool = False,
    ) -> None:
        folder = "" if table.partition is None else partition_folder(table.partition, partition or "") + "/"
        name = name or (_PACKED if lasting else _PART) + uuid.uuid4().hex
        self.relative = f"{folder}{name}{PART_SUFFIX}"
        self.rows = 0
        self._table = table
        self._partition = partition
        self._path = paths.part(table.name, self.relative)
        make_folder(self._path.parent)
        dictionary = [column for column in table.stored_schema.names if column not in table.plain]
        statistics = [column for column in table.sort if column in table.stored_schema.names]
        # Closed by `close` and `discard`.
        spool = tempfile.NamedTemporaryFile
        self._file: IO[bytes] = self._path.open("wb") if isinstance(self._path, Path) else spool(suffix=PART_SUFFIX)
        self._sink = _Sink(self._file)
        try:
            self._writer = pq.ParquetWriter(
                self._sink,
                table.stored_schema,
                compression="zstd",
                compression_level=LASTING_LEVEL if lasting else LEVEL,
                use_dictionary=dictionary,
                column_encoding=dict(table.encodings) or None,
                write_statistics=statistics,
                store_schema=False,
                # Few pages a column, of `frames` one a row group: each is compressed by itself.
                data_page_size=1 << 26,
            )
        except BaseException:
            self._remove()
            raise

    def write(self, rows: pa.Table) -> None:
        """Append ``rows`` (the stored columns, sorted) as row groups of the table's size."""
        rows = rows.select(self._table.stored_schema.names).cast(self._table.stored_schema)
        size = self._table.rows_a_group(rows)
        for start in range(0, len(rows), size):
            self._writer.write_table(rows.slice(start, size), row_group_size=len(rows))
        self.rows += len(rows)

    def close(self) -> Part:
        """Finish the part; what is wrong with the disk shows here at the latest."""
        self._writer.close()
        with naming(self._file.name):
            self._file.flush()
        size = self._file.tell()
        if not isinstance(self._path, Path):
            self._path.fs.put_file(self._file.name, self._path.path)
        self._file.close()
        digest = self._sink.hexdigest()
        return Part(self._table.name, self.relative, size, self.rows, self._partition, digest)

    def discard(self) -> None:
        """Remove what was written."""
        # Where the disk is full, no footer is written, and nothing that waits to be.
        with suppress(OSError, pa.ArrowException):
            self._writer.close()
        self._remove()

    def _remove(self) -> None:
        with suppress(OSError):
            self._file.close()
        if isinstance(self._path, Path):
            remove(self._path)

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.discard()


def write_parts(paths: LakePaths, table: Table, rows: pa.Table) -> list[Part]:
    """Write ``rows`` (all columns, in any order) as one part per partition, sorted."""
    if not len(rows):
        return []
    rows = rows.select(table.schema.names).cast(table.schema)
    rows = rows.sort_by([(name, "ascending") for name in table.sort])
    if table.partition is None:
        groups: Sequence[tuple[str | None, pa.Table]] = [(None, rows)]
    else:
        values = rows[table.partition]
        groups = [(v, rows.filter(pc.equal(values, v))) for v in sorted(pc.unique(values).to_pylist())]
    parts = []
    for value, group in groups:
        with PartWriter(paths, table, value) as writer:
            writer.write(group.drop_columns([table.partition]) if table.partition else group)
            parts.append(writer.close())
    return parts


@dataclass(frozen=True, slots=True)
class _OpenPart:
    file: pq.ParquetFile
    starts: np.ndarray[Any, np.dtype[np.int64]]  # first row of each row group, and the number of rows at the end


def open_parquet(path: AnyPath, encoded: Sequence[str] = ()) -> pq.ParquetFile:
    """A Parquet file for reading; columns that are ``encoded`` come as dictionaries, as they are stored.

    Raises InvalidLake where it is damaged or gone.
    """
    try:
        if isinstance(path, Path):
            return pq.ParquetFile(path, memory_map=True, pre_buffer=False, read_dictionary=list(encoded))
        # Row groups are read in few requests of the right size: a cache in between would read more.
        opened = path.open("rb", cache_type="none")
        return pq.ParquetFile(opened, pre_buffer=True, read_dictionary=list(encoded))
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidLake(f"{path}: cannot be read ({error}); restore the file, or ingest again") from error


@functools.lru_cache(maxsize=64)
def _open_part(path: AnyPath) -> _OpenPart:
    # Parts never change once written, so an open one can be kept: its footer is parsed once.
    file = open_parquet(path)
    counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    return _OpenPart(file, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))


def _read_groups(path: AnyPath, begin: int, end: int, columns: tuple[str, ...]) -> pa.Table:
    return _open_part(path).file.read_row_groups(list(range(begin, end)), columns=list(columns), use_threads=False)


_read_narrow = functools.lru_cache(maxsize=16)(_read_groups)


def group_starts(paths: LakePaths, table: str, part: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The first row of each row group of a part, and the number of its rows at the end."""
    return _open_part(paths.part(table, part)).starts


def read_rows(
    paths: LakePaths, table: str, part: str, first: int, stop: int, columns: Sequence[str], whole_groups: bool = False
) -> tuple[int, pa.Table]:
    """Rows [first, stop) of a part, straight from its row groups: (the row they begin with, the rows).

    ``whole_groups``: begin at the start of the row group that holds ``first`` instead (in `frames`, a keyframe).
    """
    opened = _open_part(paths.part(table, part))
    begin = int(np.searchsorted(opened.starts, first, side="right")) - 1
    end = int(np.searchsorted(opened.starts, stop, side="left"))
    # A few numbers of a row group are small, and the next episode's rows are likely in the same one.
    schema = TABLES[table].schema
    is_narrow = len(columns) <= NARROW and all(pa.types.is_primitive(schema.field(name).type) for name in columns)
    read = _read_narrow if is_narrow and end - begin <= 2 else _read_groups
    rows = read(paths.part(table, part), begin, end, tuple(columns))
    start = int(opened.starts[begin])
    if whole_groups:
        return start, rows.slice(0, stop - start)
    return first, rows.slice(first - start, stop - first)
