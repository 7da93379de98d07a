"""A session over one snapshot of a lake. What it writes is keyword data, one lake commit at ``session.commit()``."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Engine, bindparam, create_engine, event, func, inspect, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import (
    ORMExecuteState,
    Query,
    RelationshipProperty,
    Session,
    make_transient_to_detached,
    object_session,
)
from sqlalchemy.orm.attributes import instance_dict, set_committed_value
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import String

from ..annotations import KeywordRow, KeywordTable, write_keyword_data
from ..errors import InvalidArgument, MissingExtra, QueryNotAllowed
from ..lake import Lake
from ..query import Database
from ..schema import UNKNOWN
from ..views import define_tables
from .models import (
    EnvironmentKeywordDataModel,
    EnvironmentModel,
    EpisodeKeywordDataModel,
    EpisodeModel,
    KeywordDict,
    Owner,
    note_origin,
    origin_of_session,
)
from .values import value_as_struct

if TYPE_CHECKING:
    from ..storage import AnyPath

__all__ = ["LakeSession", "Source", "lake_engine"]

# Seconds that a commit waits for others, who may be many.
LOCK_WAIT = 300.0

_KeywordModel: TypeAlias = EpisodeKeywordDataModel | EnvironmentKeywordDataModel
_OWNERS: dict[type, tuple[KeywordTable, str, type]] = {
    EpisodeKeywordDataModel: ("keyword_data", "episode_id", EpisodeModel),
    EnvironmentKeywordDataModel: ("environment_keyword_data", "environment_id", EnvironmentModel),
}
_REFUSED = {
    "EpisodeModel": "episodes come from 'crowdplay-lake ingest', and go with 'crowdplay-lake remove'",
    "EnvironmentModel": "environments come from 'crowdplay-lake ingest', and go with 'crowdplay-lake remove'",
    "UserModel": "users come from 'crowdplay-lake ingest', and go with 'crowdplay-lake remove --participant'",
}
_STATEMENT_REFUSED = (
    "a session writes keyword data, by merge, add, attributes and update_kwdata, and no statements; see also "
    "crowdplay_lake.annotations.write_keyword_data and 'crowdplay-lake ingest'"
)

_TABLES = ("episodes", "environments", "users", "keyword_data", "environment_keyword_data")
# CrowdPlay knows no episode without an environment: what has no metadata is in one whose id and task are 'unknown'.
_VIEWS = (
    "CREATE OR REPLACE VIEW crowdplay_episodes AS "
    f"SELECT episode_id, coalesce(environment_id, '{UNKNOWN}') AS environment_id FROM episodes",
    "CREATE OR REPLACE VIEW crowdplay_environments AS SELECT environment_id, task_id FROM environments UNION ALL "
    f"SELECT DISTINCT coalesce(environment_id, '{UNKNOWN}'), '{UNKNOWN}' FROM episodes "
    "WHERE environment_id IS NULL OR environment_id NOT IN (SELECT environment_id FROM environments)",
    "CREATE OR REPLACE VIEW crowdplay_keyword_data AS "
    f"SELECT episode_id, agent_id, key, {value_as_struct()} AS value FROM keyword_data",
    "CREATE OR REPLACE VIEW crowdplay_environment_keyword_data AS "
    f"SELECT environment_id, agent_id, key, {value_as_struct()} AS value FROM environment_keyword_data",
)


class Source:
    """A lake at a commit, and the database that the sessions of one engine ask."""

    def __init__(self, path: AnyPath) -> None:
        self.lake = Lake(path)
        self.database = Database(self.lake.path)
        self._define()
        self.database.lock()

    def _define(self) -> None:
        define_tables(self.database, self.lake.snapshot, _TABLES)
        self.database.define(_VIEWS)

    def reopen(self, commit: int) -> None:
        """Go on to a later commit."""
        self.lake = Lake(self.lake.path, commit)
        self._define()


def lake_engine(source: Source) -> Engine:
    """An SQLAlchemy engine whose connections read a lake, and nothing else."""
    try:
        import duckdb_engine
    except ImportError as error:
        raise MissingExtra("duckdb-engine", "orm") from error

    database = weakref.ref(source.database)

    def connect() -> Any:
        # A connection each: one in-memory address would give two sessions the same.
        opened = database()
        if opened is None:
            raise InvalidArgument("the engine that this connection is of is gone")
        connection: Any = opened.reading_connection()
        return duckdb_engine.ConnectionWrapper(connection)

    engine = create_engine("duckdb://", creator=connect, poolclass=QueuePool)
    # SQLAlchemy keeps what makes connections until the process ends, where the database would still be open.
    vars(engine)["source"] = source
    return engine


class LakeQuery(Query[Any]):
    """SQLAlchemy's query, for many objects at once."""

    def all(self) -> list[Any]:
        """The results as a list."""
        with _uncollected():
            return super().all()


class LakeSession(Session):
    """SQLAlchemy's session: queries go to the database, keyword data is written to the lake."""

    def __init__(self, *arguments: Any, source: Source, **options: Any) -> None:
        super().__init__(*arguments, **{"query_cls": LakeQuery, **options})
        self._source = source
        # (table, owner) → (agent, key) → value: what the next commit writes.
        self._pending: dict[tuple[KeywordTable, str], dict[tuple[str, str], Any]] = {}
        self._added: list[Any] = []
        note_origin(self.hash_key, source.lake)

    @property
    def lake(self) -> Lake:
        """The lake, at the commit that the session reads: the last one when it began, or that of its own last."""
        return self._source.lake

    # Keyword data

    def keywords_of(self, owner: Owner) -> KeywordDict:
        """An owner's keyword data: the lake's, and what was written in this session since."""
        data = owner._read_keywords(self._source.lake)
        if self._pending:
            for (agent, key), value in self._pending.get(owner._place(), {}).items():
                data.setdefault(agent, {})[key] = value
        return data

    def update_keyword(self, owner: Owner, agent: str, key: str, value: Any) -> None:
        """Set a value, here at once and in the lake at the next commit."""
        table, owner_id = owner._place()
        self._put(table, owner_id, agent, key, value)
        model = EpisodeKeywordDataModel if table == "keyword_data" else EnvironmentKeywordDataModel
        loaded = self.identity_map.get(self.identity_key(model, (owner_id, agent, key)))
        if loaded is not None:
            set_committed_value(loaded, "value", value)

    def _put(self, table: KeywordTable, owner_id: str, agent: str, key: str, value: Any) -> None:
        owner_class = EpisodeModel if table == "keyword_data" else EnvironmentModel
        owner = self.identity_map.get(self.identity_key(owner_class, owner_id))
        if owner is not None:
            owner.keyword_data.setdefault(agent, {})[key] = value
        self._pending.setdefault((table, owner_id), {})[agent, key] = value

    def collect(self) -> None:
        """Take what is to be written out of SQLAlchemy's hands. Raises QueryNotAllowed for all but keyword data."""
        for instance in self.deleted:
            raise QueryNotAllowed(_refusal(instance, "deleted"))
        new = list(self.new)
        changed = [instance for instance in self.dirty if self.is_modified(instance)]
        for instance in (*new, *changed):
            if not isinstance(instance, _KeywordModel) and (instance in new or _changed_columns(instance)):
                raise QueryNotAllowed(_refusal(instance, "written"))
        for instance in new:
            self._collect_new(instance)
        for instance in changed:
            if isinstance(instance, _KeywordModel):
                self._collect_changed(instance)

    def _collect_new(self, instance: _KeywordModel) -> None:
        table, owner_key, _ = _OWNERS[type(instance)]
        owner = instance.episode if isinstance(instance, EpisodeKeywordDataModel) else instance.environment
        if getattr(instance, owner_key) is None and owner is not None:
            setattr(instance, owner_key, getattr(owner, owner_key))
        owner_id, agent, key = getattr(instance, owner_key), instance.agent_id, instance.key
        if "value" not in instance.__dict__ or None in (owner_id, agent, key):
            raise InvalidArgument(
                f"a {type(instance).__name__} needs {owner_key}, agent_id, key and value to be written"
            )
        if (agent, key) in self._pending.get((table, owner_id), {}) or self._is_known(table, owner_id, agent, key):
            raise InvalidArgument(
                f"{owner_id}: {agent!r} has a value for {key!r}; session.merge(…) or update_kwdata replaces it"
            )
        self._put(table, owner_id, agent, key, instance.value)
        # From now on it counts as read from the database, where it will be after the commit.
        self.expunge(instance)
        make_transient_to_detached(instance)
        try:
            self.add(instance)
        except InvalidRequestError as error:
            raise InvalidArgument(f"{owner_id}: there is another object for {agent!r} and {key!r}: {error}") from error
        self._added.append(instance)

    def _is_known(self, table: KeywordTable, owner_id: str, agent: str, key: str) -> bool:
        lake = self.lake
        known = lake._episode_keywords if table == "keyword_data" else lake._environment_keywords
        return key in known.of(owner_id).get(agent, {})

    def _collect_changed(self, instance: _KeywordModel) -> None:
        columns = _changed_columns(instance)
        if columns - {"value"}:
            raise QueryNotAllowed(
                f"{type(instance).__name__}: {min(columns - {'value'})} cannot be changed; add another"
            )
        if columns:
            table, owner_key, _ = _OWNERS[type(instance)]
            self._put(table, getattr(instance, owner_key), instance.agent_id, instance.key, instance.value)
            set_committed_value(instance, "value", instance.value)

    def write(self) -> None:
        """Write what is pending as one lake commit, and go on from there."""
        self.flush()
        if self._pending:
            rows = [
                KeywordRow(table, owner_id, agent, key, value)
                for (table, owner_id), values in self._pending.items()
                for (agent, key), value in values.items()
            ]
            after = write_keyword_data(self.lake.path, rows, operation="session.commit", lock_wait=LOCK_WAIT)
            self.forget()
            self._source.reopen(after.number)
            note_origin(self.hash_key, self.lake)

    def forget(self) -> None:
        """Nothing is to be written."""
        self._pending.clear()
        self._added.clear()

    def undo(self) -> None:
        """Forget what was to be written, and the objects that stand for it."""
        for instance in self._added:
            if object_session(instance) is self:
                self.expunge(instance)
        self.forget()

    def expunge_all(self) -> None:
        """Let go of every instance, and of what was to be written."""
        for instance in self.identity_map.values():
            if isinstance(instance, Owner):
                instance._origin = origin_of_session(self.hash_key)
        self.forget()
        super().expunge_all()

    # Relationships, for all instances at once

    def load_for_all(self, prop: RelationshipProperty[Any]) -> None:
        """Load a relationship of every instance in the session that lacks it, with one query."""
        owners = prop.parent.class_
        # Each joins one id with one id.
        ((local_column, remote_column),) = prop.local_remote_pairs or ()
        local, remote = str(local_column.key), str(remote_column.key)
        # Where not even the id is loaded, after a rollback, to ask for it would be a query each.
        lacking = [
            one
            for one in self.identity_map.values()
            if type(one) is owners and prop.key not in one.__dict__ and local in one.__dict__
        ]
        if len(lacking) > 1:
            with _uncollected():
                self._load_for(lacking, prop, local, remote)

    def _load_for(self, lacking: list[Any], prop: RelationshipProperty[Any], local: str, remote: str) -> None:
        target = prop.mapper.class_
        wanted = {getattr(instance, local) for instance in lacking}
        ids = select(func.unnest(bindparam("ids", list(wanted), type_=ARRAY(String))))
        found = self.scalars(select(target).where(getattr(target, remote).in_(ids))).all()
        if prop.uselist:
            by_owner: dict[Any, list[Any]] = {key: [] for key in wanted}
            for one in found:
                by_owner[getattr(one, remote)].append(one)
            for instance in lacking:
                set_committed_value(instance, prop.key, by_owner[getattr(instance, local)])
        else:
            by_key = {getattr(one, remote): one for one in found}
            for instance in lacking:
                # As `set_committed_value` does where nothing was loaded yet, of ten thousand at once.
                instance_dict(instance)[prop.key] = by_key.get(getattr(instance, local))
        if issubclass(target, Owner):
            # Who asks for ten thousand environments wants to know what they are.
            for one in found:
                _ = one.keyword_data


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage: ten thousand objects are made that are none, and each search looks at all there are."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _changed_columns(instance: object) -> set[str]:
    """The attributes that were changed, but for the list of keyword data."""
    state = inspect(instance)
    return {a.key for a in state.attrs if a.key != "keyword_data_list" and a.history.has_changes()}


def _refusal(instance: object, done: str) -> str:
    name = type(instance).__name__
    hint = _REFUSED.get(name, "keyword data stays; to take a value back, set it to None")
    return f"{name} cannot be {done} through a session: {hint}"


def _hook() -> None:
    """What SQLAlchemy tells of sessions and instances, to whom it concerns."""
    for name, action in (
        ("before_flush", lambda session, *_: session.collect()),
        ("before_commit", lambda session: session.write()),
        ("after_soft_rollback", lambda session, _: session.undo()),
        ("do_orm_execute", _before_statement),
    ):
        event.listen(LakeSession, name, action)


def _before_statement(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        raise QueryNotAllowed(_STATEMENT_REFUSED)
    path = state.loader_strategy_path
    if state.is_relationship_load and state.lazy_loaded_from is not None and path is not None:
        prop = path[-1]
        session = state.session
        if isinstance(prop, RelationshipProperty) and isinstance(session, LakeSession):
            session.load_for_all(prop)


_hook()
