"""Runs mutated recordings through ingest, in a process of its own.

    python fuzzing.py SEEDS WORK KIND SEED CASES SECONDS

An audit hook refuses whatever ingest of such a file has no business with. The last line of stdout is a report as JSON.
"""

from __future__ import annotations

import bz2
import codecs
import faulthandler
import gzip
import json
import random
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# Imported before the hook is set: with it, nothing more may be.
import numpy.ma
from hostile import CASES as HOSTILE

from benchmarks.memory import peak
from crowdplay_ingest.machine import Limits
from crowdplay_ingest.metadata import read_metadata
from crowdplay_ingest.raw_files import RawFile
from crowdplay_ingest.source_folder import stat_file
from crowdplay_ingest.sources import MetadataFile
from crowdplay_ingest.tasks import Task, TaskResult, run_task
from crowdplay_lake.commit import writing
from crowdplay_lake.errors import RawDataError

del numpy
LIMIT_SECONDS = 20
FORBIDDEN = ("compile", "exec", "import", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn")
FORBIDDEN += ("socket.connect", "socket.bind", "ctypes.dlopen", "pickle.find_class", "os.remove", "os.rename", "shutil")
KNOWN = b"()]}.0122FGIJKLMNRSTUVXabcdeghijloqprstu" + bytes(range(0x80, 0x99))

seen: Counter[str] = Counter()
watching = False
lake = Path()


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """What Python is about to do: only parts of the lake are written and removed, and nothing is run."""
    if not watching:
        return
    if event == "open":
        path, mode, flags = arguments
        is_written = (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & 3)
        if is_written and not str(path).startswith(str(lake)):
            raise SystemExit(f"{path} is opened for writing")
    elif event == "os.remove":
        if not str(arguments[0]).startswith(str(lake)):
            raise SystemExit(f"{arguments[0]} is removed")
    elif event.startswith(FORBIDDEN):
        # Some modules import what they need at the first use: ours and those of libraries, never what a file names.
        seen[f"{event} {arguments[0]!r}"[:100]] += 1
        if event != "import" or str(arguments[0]).split(".")[0] in ("os", "subprocess", "antigravity"):
            raise SystemExit(f"{event} {arguments!r}"[:500])


def mutate(chance: random.Random, data: bytes, others: list[bytes], changes: int) -> bytes:
    """``data`` with so many changes."""
    out = bytearray(data)
    for _ in range(changes):
        # The frames are most of a file: what is around them matters more.
        at = min(int(len(out) ** chance.random()), max(len(out) - 1, 0)) if chance.random() < 0.6 else 0
        at = at or chance.randrange(len(out) + 1)
        length = chance.choice([1, 1, 2, 4, 9, 30, 200])
        kind = chance.randrange(9)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            out[at:at] = chance.randbytes(length)
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = out[at : at + length]
        elif kind == 4 and at < len(out):
            places = [p for p in range(at, min(at + 300, len(out))) if out[p] in KNOWN]
            out[chance.choice(places or [at])] = chance.choice(KNOWN)
        elif kind == 5:
            del out[at:]
        elif kind == 6:
            other = chance.choice(others)
            start = chance.randrange(len(other) + 1)
            out[at : at + chance.choice([0, length])] = other[start : start + chance.choice([length, 2_000])]
        elif kind == 7:
            out[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80"])
        else:
            _, payload = chance.choice(HOSTILE)
            if len(payload) < 10_000:
                out[at : at + chance.choice([0, length])] = payload.rstrip(b".")
    return bytes(out)


class Trajectories:
    """Raw files through a task, as a worker does it."""

    def __init__(self, seeds: Path, work: Path, chance: random.Random) -> None:
        global lake
        lake = work / "lake"
        with writing(lake) as writer:
            self.paths = writer.paths
        self.file = work / "case"
        self.seeds = [path.read_bytes() for path in sorted(seeds.glob("*.pickle"))]
        self.pieces = [*self.seeds, *(payload for _, payload in HOSTILE if 0 < len(payload) < 5_000)]
        self.chance = chance
        self.number = 0

    def prepare(self) -> None:
        chance = self.chance
        data = chance.choice(self.seeds)
        compression = chance.choice(["none", "none", "gzip", "bz2"])
        pack: Callable[[bytes], bytes] = {"none": bytes, "gzip": gzip.compress, "bz2": bz2.compress}[compression]
        changes = chance.choice([0, 1, 1, 1, 2, 3, 8])
        if chance.random() < 0.8:
            packed = pack(mutate(chance, data, self.pieces, changes))
        else:
            packed = mutate(chance, pack(data), self.pieces, changes)
        self.file.write_bytes(packed)
        self.number += 1
        name = f"e{self.number}"
        raw = RawFile(name, f"{name}.pickle", str(self.file), compression, len(packed), "none")
        self.task = Task(0, (("unknown", raw),))

    def run(self) -> str:
        result = run_task(self.paths, self.task, Limits())
        for rejection in result.rejected:
            if "please report it" in rejection.reason or len(rejection.reason) > 1_200:
                raise SystemExit(f"{rejection.reason}")
            rejection.reason.encode()
        return self.outcome(result)

    def outcome(self, result: TaskResult) -> str:
        for parts in result.parts.values():
            for part in parts:
                self.paths.part(part.table, part.path).unlink()
        return "refused" if result.rejected else "taken"


class Databases:
    """A dataset.sqlite whose file is damaged."""

    def __init__(self, seeds: Path, work: Path, chance: random.Random) -> None:
        self.original = (seeds / "dataset.sqlite").read_bytes()
        self.path = work / "case"
        self.chance = chance

    def prepare(self) -> None:
        chance = self.chance
        data = self.original
        if chance.random() < 0.3:
            data = mutate(chance, data, [data], chance.choice([1, 3]))
        else:
            # In place, and rather where a page begins: that is where its cells are told.
            out = bytearray(data)
            for _ in range(chance.choice([1, 2, 5, 20])):
                page = 4096 * chance.randrange(len(out) // 4096)
                at = page + min(int(4096 ** chance.random()) - 1, 4095)
                out[at] = chance.choice([out[at] ^ 1 << chance.randrange(8), chance.randrange(256)])
            data = bytes(out)
        self.path.write_bytes(data)
        self.file = replace(MetadataFile(stat_file(self.path, "dataset.sqlite")))

    def run(self) -> str:
        try:
            metadata = read_metadata(self.file, Limits())
        except RawDataError as error:
            error.reason.encode()
            return "refused"
        for value in metadata.refused:
            f"{value.name}{value.reason}".encode()
        return "partly" if metadata.refused else "taken"


class Values(Databases):
    """A dataset.sqlite whose pickled values are damaged."""

    def prepare(self) -> None:
        chance = self.chance
        self.path.write_bytes(self.original)
        table = chance.choice(["episodekeyworddata", "environmentkeyworddata"])
        with sqlite3.connect(self.path) as database:
            rows = database.execute(f"SELECT rowid, value FROM {table}").fetchall()
            values = [value for _, value in rows] + [payload for _, payload in HOSTILE if len(payload) < 100_000]
            for rowid, value in chance.sample(rows, min(len(rows), 10)):
                changed: Any = mutate(chance, value, values, chance.choice([1, 2, 4]))
                changed = chance.choice([changed] * 8 + ["text", 7])
                database.execute(f"UPDATE {table} SET value = ? WHERE rowid = ?", (changed, rowid))
            if chance.random() < 0.3:
                odd = chance.choice(["", "\x1b[2J", "a\nb", "..", "x" * 5_000, "'", '"', "\u202e"])
                database.execute(f"UPDATE {table} SET key = ? WHERE rowid = ?", (odd, rows[0][0]))
        database.close()
        self.file = MetadataFile(stat_file(self.path, "dataset.sqlite"))


KINDS = {"trajectories": Trajectories, "databases": Databases, "values": Values}


def main(seeds: str, work: str, kind: str, seed: str, cases: str, seconds: str) -> None:
    global watching
    sys.addaudithook(watch)
    chance = random.Random(int(seed))
    fuzzed = KINDS[kind](Path(seeds), Path(work), chance)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    ends = time.monotonic() + float(seconds)
    # What is imported at the first use is, before anybody watches.
    for encoding in ("utf-8", "ascii", "latin-1", "raw-unicode-escape", "unicode-escape"):
        codecs.lookup(encoding)
    for _ in range(5):
        fuzzed.prepare()
        fuzzed.run()
    while sum(outcomes.values()) < int(cases) and time.monotonic() < ends:
        fuzzed.prepare()
        faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
        began = time.perf_counter()
        watching = True
        outcomes[fuzzed.run()] += 1
        watching = False
        slowest = max(slowest, time.perf_counter() - began)
        faulthandler.cancel_dump_traceback_later()
    report = {"cases": sum(outcomes.values()), "slowest": round(slowest, 2), "memory": peak(), **outcomes}
    report = {"refused": 0, "taken": 0, "partly": 0, **report, "events": dict(seen)}
    if kind == "values":
        report["refused"] += report["partly"]
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
