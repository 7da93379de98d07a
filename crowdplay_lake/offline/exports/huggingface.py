"""An export as a Hugging Face dataset: Parquet shards and a card. Needs the extra `huggingface`."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import MissingExtra
from .content import Block, Column, Content, Exported
from .records import about_content, about_episode, as_text

__all__ = ["CARD", "library", "write"]

CARD = "README.md"
STEPS, EPISODES = "steps", "episodes"
# Hugging Face's own size of a shard is 500 MB; a smaller one is opened sooner.
SHARD_BYTES = 256 << 20
# Rows that are read together, of a few KB each.
ROW_GROUP_ROWS = 1_000
# The name of a row's value, where an array of them has another.
_OF_A_ROW = {
    "observations": "observation",
    "actions": "action",
    "rewards": "reward",
    "terminals": "terminal",
    "timeouts": "timeout",
    "steps": "step",
}
_EPISODE_COLUMNS = {
    **dict.fromkeys(("episode_id", "agent_id", "environment_id", "game", "task", "task_id", "source"), "string"),
    **dict.fromkeys(("created_on", "user_id", "permanent_user_id"), "string"),
    **dict.fromkeys(("n_steps", "decisions", "first_step", "last_step"), "int64"),
    "end": "string",
}


def library() -> ModuleType:
    """datasets. Raises MissingExtra."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "huggingface") from error
    module: ModuleType = datasets
    return module


def write(content: Content, path: Path) -> None:
    """Write ``content`` to the folder ``path``."""
    datasets = library()
    features = {STEPS: _step_features(datasets, content), EPISODES: _episode_features(datasets)}
    with ExitStack() as stack:
        steps = stack.enter_context(_Shards(path / STEPS, features[STEPS].arrow_schema))
        episodes = stack.enter_context(_Shards(path / EPISODES, features[EPISODES].arrow_schema))
        # Packing an image leaves Python alone.
        pool = stack.enter_context(ThreadPoolExecutor(min(4, os.cpu_count() or 1)))
        for exported in content.episodes():
            for block in exported.blocks():
                steps.write(_rows(content.columns, exported, block, pool))
            about = about_episode(exported)
            row = {name: [about[name]] for name in _EPISODE_COLUMNS}
            episodes.write({"episode": [exported.index], **row, "metadata": [as_text(about)]})
    (path / CARD).write_text(_card(content), encoding="utf-8")


def _step_features(datasets: ModuleType, content: Content) -> Any:
    about: dict[str, Any] = {"episode": datasets.Value("int64"), "episode_id": datasets.Value("string")}
    for column in content.columns:
        about[_OF_A_ROW.get(column.name, column.name)] = _feature(datasets, content, column)
    return datasets.Features(about)


def _feature(datasets: ModuleType, content: Content, column: Column) -> Any:
    if column.name == "observations":
        # PNG: as small as it gets without loss, and the hub shows it.
        return datasets.Image(mode="RGB" if content.kind == "raw" else "L")
    if column.name == "actions" and content.action_meanings and len(content.action_meanings) == content.action_size:
        return datasets.ClassLabel(names=content.action_meanings)
    kind = datasets.Value(column.dtype.name)
    return datasets.List(kind, length=column.shape[0]) if column.shape else kind


def _episode_features(datasets: ModuleType) -> Any:
    about = {name: datasets.Value(kind) for name, kind in _EPISODE_COLUMNS.items()}
    return datasets.Features({"episode": datasets.Value("int64"), **about, "metadata": datasets.Value("string")})


def _rows(columns: tuple[Column, ...], exported: Exported, block: Block, pool: ThreadPoolExecutor) -> dict[str, Any]:
    n = len(block)
    rows: dict[str, Any] = {
        "episode": pa.array(np.full(n, exported.index, np.int64)),
        "episode_id": pa.array([exported.episode.episode_id] * n),
    }
    for column in columns:
        values = block[column.name]
        if column.name == "observations":
            packed = pa.array(list(pool.map(_png, values)), pa.binary())
            array = pa.StructArray.from_arrays([packed, pa.nulls(n, pa.string())], ["bytes", "path"])
        elif column.shape:
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            array = pa.FixedSizeListArray.from_arrays(flat, column.shape[0])
        else:
            array = pa.array(np.ascontiguousarray(values))
        rows[_OF_A_ROW.get(column.name, column.name)] = array
    return rows


def _png(image: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(image).save(packed, "PNG")
    return packed.getvalue()


class _Shards:
    """Parquet files of about the same size, one after the other."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir(parents=True)
        self._folder, self._schema = folder, schema
        self._count = 0
        self._waiting: list[pa.Table] = []
        self._file: Any = None
        self._writer: pq.ParquetWriter | None = None

    def write(self, columns: dict[str, Any]) -> None:
        """Add rows; they wait for others to make a row group with."""
        self._waiting.append(pa.table(columns).select(self._schema.names).cast(self._schema))
        if sum(map(len, self._waiting)) >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._writer is None:
            self._file = (self._folder / f"train-{self._count:05d}.parquet").open("wb")
            self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
            self._count += 1
        self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting = []
        if self._file.tell() >= SHARD_BYTES:
            self._close()

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            finally:
                self._file.close()

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._close()


def _card(content: Content) -> str:
    about = about_content(content)
    lines = [
        "---",
        "pretty_name: People playing Atari (CrowdPlay)",
        "task_categories: [reinforcement-learning]",
        "configs:",
        *_config(STEPS, is_default=True),
        *_config(EPISODES, is_default=False),
        "---",
        "",
        "# People playing Atari",
        "",
        "Recorded with CrowdPlay (Farama Foundation, ICLR 2022). A row of `steps` is a decision, rows in order; a row",
        "of `episodes` tells of one episode, which ends in a terminal or a timeout.",
        "",
        "| column of `steps` | meaning |",
        "| --- | --- |",
        "| `episode` | the row of `episodes` that it belongs to |",
        "| `episode_id` | the episode's id in the lake |",
        *(f"| `{_OF_A_ROW.get(column.name, column.name)}` | {column.doc} |" for column in content.columns),
        "",
        "`metadata` of an episode is JSON; `crowdplay_lake.tagged.loads` gives durations and dates in it back.",
        "",
        "```json",
        json.dumps({key: value for key, value in about.items() if key != "columns"}, indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def _config(name: str, is_default: bool) -> Iterator[str]:
    yield f"- config_name: {name}"
    if is_default:
        yield "  default: true"
    yield "  data_files:"
    yield "  - split: train"
    yield f"    path: {name}/train-*.parquet"
