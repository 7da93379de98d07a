"""A real `crowdplay-lake serve` in a process of its own, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAIN = "from crowdplay_lake.cli import main; main()"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Web:
    """A running server."""

    process: subprocess.Popen[str]
    address: str
    port: int
    told: list[str] = field(default_factory=list)  # on stderr

    def get(
        self, path: str, headers: dict[str, str] | None = None, method: str = "GET", body: bytes | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def sql(self, query: object, headers: dict[str, str] | None = None, **more: object) -> Answer:
        headers = {"Content-Type": "application/json", **(headers or {})}
        return self.get("/api/sql", headers, "POST", json.dumps({"query": query, **more}).encode())


@contextmanager
def serving_lake(lake: Path, *options: str) -> Iterator[Web]:
    """The command over ``lake`` on a free port, ended with Ctrl-C."""
    command = [sys.executable, "-c", MAIN, "serve", str(lake), "--port", "0", *options]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+:(\d+)/", line)
    assert found, line + process.stderr.read()
    web = Web(process, found[0], int(found[1]))
    threading.Thread(target=lambda: web.told.extend(process.stderr or ()), daemon=True).start()
    try:
        yield web
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
