"""``dataset.sqlite`` as CrowdPlay's dump makes it: five tables, and rows put over what has the same key."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

__all__ = ["METADATA_FILE", "Rows", "put_rows"]

METADATA_FILE = "dataset.sqlite"

Rows = Sequence[tuple[str | bytes, ...]]

# Letter by letter what SQLAlchemy makes of the models in `crowdplay_datasets.dataset`: a reader may compare.
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS environments (\n\tenvironment_id VARCHAR(255) NOT NULL, "
    "\n\ttask_id VARCHAR(255) NOT NULL, \n\tPRIMARY KEY (environment_id)\n)",
    "CREATE TABLE IF NOT EXISTS episodes (\n\tepisode_id VARCHAR(255) NOT NULL, "
    "\n\tenvironment_id VARCHAR(255) NOT NULL, \n\tPRIMARY KEY (episode_id), "
    "\n\tFOREIGN KEY(environment_id) REFERENCES environments (environment_id)\n)",
    "CREATE TABLE IF NOT EXISTS environmentkeyworddata (\n\tenvironment_id VARCHAR(255) NOT NULL, "
    '\n\tagent_id VARCHAR(255) NOT NULL, \n\t"key" VARCHAR(255) NOT NULL, \n\tvalue BLOB NOT NULL, '
    '\n\tPRIMARY KEY (environment_id, agent_id, "key"), '
    "\n\tFOREIGN KEY(environment_id) REFERENCES environments (environment_id)\n)",
    "CREATE TABLE IF NOT EXISTS users (\n\tuser_id VARCHAR(255) NOT NULL, "
    "\n\tpermanent_user_id VARCHAR(255) NOT NULL, \n\ttask_id VARCHAR(255) NOT NULL, "
    "\n\tenvironment_id VARCHAR(255) NOT NULL, \n\tagent_id VARCHAR(255) NOT NULL, "
    "\n\tPRIMARY KEY (user_id), "
    "\n\tFOREIGN KEY(environment_id) REFERENCES environments (environment_id)\n)",
    "CREATE TABLE IF NOT EXISTS episodekeyworddata (\n\tepisode_id VARCHAR(255) NOT NULL, "
    '\n\tagent_id VARCHAR(255) NOT NULL, \n\t"key" VARCHAR(255) NOT NULL, \n\tvalue BLOB NOT NULL, '
    '\n\tPRIMARY KEY (episode_id, agent_id, "key"), '
    "\n\tFOREIGN KEY(episode_id) REFERENCES episodes (episode_id)\n)",
)


def put_rows(path: Path, tables: Mapping[str, Rows]) -> None:
    """Puts rows of any of the five tables into the file, made if missing, in one transaction."""
    with closing(sqlite3.connect(path)) as database, database:
        for statement in _SCHEMA:
            database.execute(statement)
        for table, rows in tables.items():
            if rows:
                places = ", ".join("?" * len(rows[0]))
                database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({places})", rows)
