"""The routes: pages, what they fetch, and errors as one line."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import pyarrow as pa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from ..episode import Episode
from ..errors import CrowdPlayLakeError, InvalidArgument, UnknownEpisode
from ..lake import Lake
from ..storage import AnyPath
from .answers import refusal
from .curves import curves_of
from .episode_page import described, first_asked
from .film import chunk_of_film, chunk_of_seen
from .guard import Guard
from .lakes import Lakes
from .packing import binary, packed
from .page_texts import error_page, page
from .queries import Queries
from .step_table import StepTables
from .values import as_json

__all__ = ["Limits", "create_app"]

STATIC = Path(__file__).parent / "static"
MOST_BODY = 100_000
# Of more episodes the nearest id is not looked for: anybody could keep the server busy with it.
_MOST_NEAREST = 20_000
# Seconds for the process of queries to start, and for what is compiled to load: the first time that takes long.
_START_WITHIN = 20.0
_WARM_WITHIN = 3.0
# Episodes among which one with a film is looked for, at the start.
_LOOKED_THROUGH = 100


@dataclass(frozen=True)
class Limits:
    """What a query may take: seconds, rows of its answer, and bytes of memory for all queries together."""

    seconds: float = 10.0
    rows: int = 1_000
    memory: int = 4 << 30


def create_app(path: AnyPath, limits: Limits | None = None, names: Collection[str] = ()) -> ASGIApp:
    """The application over the lake at ``path``. ``names``: host names it is asked under, besides localhost.

    Raises InvalidLake where there is no lake.
    """
    site = _Site(path, limits or Limits())
    api = {
        "about": site.query("about"),
        "episodes": site.query("episodes"),
        "schema": site.query("schema"),
        "episode": site.episode,
        "film": site.film,
        "steps": site.steps,
        "seen": site.seen,
        "curves": site.curves,
    }
    app = Starlette(
        routes=[
            Route("/", site.list_page),
            Route("/sql", site.sql_page),
            Route("/episode/{id:path}", site.episode_page),
            Route("/api/sql", site.sql, methods=["POST"]),
            *(Route(f"/api/{name}", answer) for name, answer in api.items()),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(GZipMiddleware, minimum_size=1_000, compresslevel=5)],
        exception_handlers={
            CrowdPlayLakeError: _told,
            OSError: _told,
            pa.ArrowException: _told,
            HTTPException: _told_http,
        },
        lifespan=site.lifespan,
    )
    return Guard(app, names)


class _Site:
    """What the routes share."""

    def __init__(self, path: AnyPath, limits: Limits) -> None:
        self._lakes = Lakes(path)
        self._limits = limits
        self._queries = Queries(path, limits.seconds, limits.memory)
        self._steps = StepTables()

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        del app
        # The address is told once the first page is not the one that waits.
        warm = threading.Thread(target=self._warm_up, daemon=True)
        warm.start()
        await asyncio.to_thread(self._queries.start().ready.wait, _START_WITHIN)
        with suppress(CrowdPlayLakeError, OSError, TimeoutError):
            lake = await asyncio.to_thread(self._lakes.newest)
            await asyncio.wait_for(self._queries.ask("about", lake.snapshot, {}, _stays), _WARM_WITHIN)
        await asyncio.to_thread(warm.join, _WARM_WITHIN)
        try:
            yield
        finally:
            self._queries.close()

    def _warm_up(self) -> None:
        """Load what is compiled before somebody waits for it."""
        # What is wrong with an episode is told to who asks for it.
        with suppress(Exception):
            lake = self._lakes.newest()
            for episode in lake.episodes()[:_LOOKED_THROUGH]:
                if episode.has_trajectory and len(episode.frame_shape) == 3 and episode.frame_shape[2] == 3:
                    described(lake, episode)
                    packed(chunk_of_film(episode, episode.agents[0], 0), "zstd")
                    chunk_of_seen(episode, episode.agents[0], 0)
                    self._steps.chunk(episode, 0)
                    curves_of(lake, episode, ["score"])
                    return

    # Pages

    async def list_page(self, request: Request) -> Response:
        query = request.url.query
        return _page(request, "list", [f"/api/episodes?{query}" if query else "/api/episodes"])

    async def sql_page(self, request: Request) -> Response:
        return _page(request, "sql", [])

    async def episode_page(self, request: Request) -> Response:
        lake, episode = await self._episode(request, request.path_params["id"])
        answer = _page(request, "episode", first_asked(lake, episode, request.query_params))
        # It names a commit: kept, it would lead back to one that may be gone.
        answer.headers["Cache-Control"] = "no-store"
        return answer

    # Documents

    async def _lake(self, request: Request) -> Lake:
        commit = _whole(request, "commit", None)
        return await anyio.to_thread.run_sync(self._lakes.at, commit)

    async def _episode(self, request: Request, episode_id: str) -> tuple[Lake, Episode]:
        lake = await self._lake(request)
        return lake, await anyio.to_thread.run_sync(_episode_of, lake, episode_id)

    def query(self, task: str) -> Any:
        async def answer(request: Request) -> Response:
            return await self._ask(request, task, dict(request.query_params))

        return answer

    async def sql(self, request: Request) -> Response:
        asked = await _document(request)
        rows = asked.get("rows")
        if not isinstance(rows, int) or isinstance(rows, bool) or not 0 < rows <= self._limits.rows:
            rows = self._limits.rows
        return await self._ask(request, "sql", {"query": asked.get("query"), "rows": rows})

    async def _ask(self, request: Request, task: str, asked: dict[str, Any]) -> Response:
        lake = await self._lake(request)
        status, document = await self._queries.ask(task, lake.snapshot, asked, request.is_disconnected)
        return Response(document, status, media_type="application/json")

    async def episode(self, request: Request) -> Response:
        lake, episode = await self._episode(request, _text(request, "id"))
        about = await anyio.to_thread.run_sync(described, lake, episode)
        return Response(as_json(about), media_type="application/json")

    async def curves(self, request: Request) -> Response:
        lake, episode = await self._episode(request, _text(request, "id"))
        names = [name for name in dict.fromkeys(_text(request, "names").split(",")) if name]
        found = await anyio.to_thread.run_sync(curves_of, lake, episode, names)
        return Response(as_json({"curves": found, "commit": lake.commit}), media_type="application/json")

    # Chunks

    async def film(self, request: Request) -> Response:
        lake, episode = await self._episode(request, _text(request, "id"))
        agent, chunk = _text(request, "agent"), _whole(request, "chunk", 0)
        return await binary(request, lake, lambda: chunk_of_film(episode, agent, chunk or 0))

    async def seen(self, request: Request) -> Response:
        lake, episode = await self._episode(request, _text(request, "id"))
        agent, chunk = _text(request, "agent"), _whole(request, "chunk", 0)
        return await binary(request, lake, lambda: chunk_of_seen(episode, agent, chunk or 0))

    async def steps(self, request: Request) -> Response:
        lake, episode = await self._episode(request, _text(request, "id"))
        chunk = _whole(request, "chunk", 0)
        return await binary(request, lake, lambda: self._steps.chunk(episode, chunk or 0))


async def _stays() -> bool:
    """The server itself does not go while it asks."""
    return False


def _episode_of(lake: Lake, episode_id: str) -> Episode:
    if not lake.has_episode(episode_id) and len(lake.episodes()) > _MOST_NEAREST:
        raise UnknownEpisode(episode_id, (), str(lake.path))
    return lake.episode(episode_id)


def _text(request: Request, name: str) -> str:
    value = request.query_params.get(name)
    if value is None:
        raise InvalidArgument(f"the address lacks {name}=")
    return value


def _whole(request: Request, name: str, default: int | None) -> int | None:
    text = request.query_params.get(name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidArgument(f"{name} is a whole number from 0 on, not {text[:40]!r}")
    return int(text)


async def _document(request: Request) -> dict[str, Any]:
    """The JSON that was posted. Of this type, a page of another site cannot send it."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise InvalidArgument('send JSON, {"query": "SELECT …"}, with Content-Type: application/json')
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY:
            raise InvalidArgument(f"more than {MOST_BODY:,} bytes are no query")
    try:
        found = json.loads(body)
    except ValueError as error:
        raise InvalidArgument(f"this is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidArgument('send JSON of the form {"query": "SELECT …"}')
    return found


def _page(request: Request, name: str, first_asked: Sequence[str]) -> Response:
    from_elsewhere = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
    asked = () if from_elsewhere else first_asked
    return HTMLResponse(page(name, from_elsewhere, asked), headers={"Cache-Control": "no-cache"})


def _wants_page(request: Request) -> bool:
    return not request.url.path.startswith(("/api/", "/static/"))


def _told(request: Request, error: Exception) -> Response:
    status, document = refusal(error)
    if not _wants_page(request):
        return Response(document, status, media_type="application/json")
    return HTMLResponse(error_page(status, json.loads(document)["error"]), status)


def _told_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = {404: "there is no such page here", 405: "this is not asked that way"}.get(status, "this cannot be done")
    if not _wants_page(request):
        return Response(as_json({"error": message, "kind": "HTTP"}), status, media_type="application/json")
    return HTMLResponse(error_page(status, message), status)
