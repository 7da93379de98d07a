"""An environment: a sitting of one or more episodes, and who took part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload

if TYPE_CHECKING:
    from .lake import Lake

__all__ = ["Environment", "User", "once"]


class User(NamedTuple):
    """A participant in an environment."""

    user_id: str
    permanent_user_id: str | None
    task_id: str | None
    environment_id: str | None
    agent_id: str | None


_Value = TypeVar("_Value")


class once(Generic[_Value]):  # noqa: N801
    """`cached_property` without its lock: this is asked of ten thousand episodes at a time."""

    def __init__(self, compute: Callable[[Any], _Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> once[_Value]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> _Value: ...
    def __get__(self, instance: object | None, owner: type) -> _Value | once[_Value]:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


class Environment:
    """One sitting: the task that was set, who took part, and one or more episodes in a row."""

    def __init__(self, lake: Lake, row: Mapping[str, Any]) -> None:
        """``row``: of `environments`, or of an episode of it."""
        self._lake = lake
        self._told = row

    @property
    def _row(self) -> Mapping[str, Any]:
        return self._lake._environment_row(self._told)

    @property
    def environment_id(self) -> str | None:
        """None for an episode without metadata."""
        return self._told["environment_id"]  # type: ignore[no-any-return]

    @property
    def task_id(self) -> str | None:
        """CrowdPlay's task id, such as 'space_invaders_insideout'."""
        return self._row["task_id"]  # type: ignore[no-any-return]

    @once
    def keyword_data(self) -> dict[str, dict[str, Any]]:
        """agent (or 'all') → key → value. Game and task are 'unknown' where there is no metadata."""
        return self._lake._keywords_of_environment(self._told)

    @cached_property
    def users(self) -> dict[str, User]:
        """agent → who played it."""
        return self._lake._users_of(self.environment_id)

    def __repr__(self) -> str:
        return f"Environment({self.environment_id!r}, task_id={self.task_id!r})"
