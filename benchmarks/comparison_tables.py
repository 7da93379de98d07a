"""The tables and sentences of `benchmarks.suite`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .comparing import COLD, INGEST, OPEN, WARM, Comparison, profile
from .jobs import FREQUENCY, JOBS, RAM_BYTE
from .machine import cores, processor, versions
from .measuring import lake_bytes
from .peers import BATCH, OURS, REFERENCE, Peer
from .report import Table

__all__ = ["PUBLISHED_STEPS", "method", "not_first", "projection", "reading_table", "result", "size_table"]

PUBLISHED_STEPS = 65_000_000
NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """A measured job as a column: of steps a second, or of milliseconds."""

    job: str
    state: str
    title: str
    in_steps: bool

    def cell(self, measured: Comparison, way: str) -> str:
        """The median, and the slowest and the fastest run."""
        if not measured.has(way, self.job, self.state):
            return NOTHING
        spread = measured.spread(way, self.job, self.state)
        if self.in_steps:
            steps = measured.questions.steps
            return _with_spread(*(steps / seconds for seconds in (spread.median, spread.most, spread.least)))
        return _with_spread(*(1000 * seconds for seconds in (spread.median, spread.least, spread.most)))


def _with_spread(median: float, least: float, most: float) -> str:
    return f"{_short(median)} ({_short(least)} to {_short(most)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def columns(state: str, in_steps: bool) -> list[Column]:
    jobs = [job for job in JOBS if job.in_steps == in_steps and (state == WARM or job.cold)]
    return [Column(job.name, state, job.title, in_steps) for job in jobs]


READING = columns(WARM, True)
QUESTIONS = [*columns(WARM, False), Column(OPEN, WARM, "open and list", False)]
FROM_DISK = [*columns(COLD, True), *columns(COLD, False), Column(OPEN, COLD, "open and list", False)]
INGESTING = Column(INGEST, WARM, "ingest", True)


def reading_table(measured: Comparison, of: Sequence[Column]) -> Table:
    units = [f"{one.title}, {'steps/s' if one.in_steps else 'ms'}" for one in of]
    rows = [(peer.name, *(one.cell(measured, peer.name) for one in of)) for peer in measured.peers]
    return Table(("way", *units), rows)


def size_table(measured: Comparison) -> Table:
    """Bytes a step, and the speed of writing them."""
    raw = measured.sizes[REFERENCE.name]
    rows = []
    for peer in measured.peers:
        size = measured.sizes[peer.name]
        of_raw = size / raw
        each = size / measured.questions.steps
        rows.append((peer.name, f"{each:,.1f}", f"{_short(of_raw)}", INGESTING.cell(measured, peer.name)))
        if peer is OURS:
            grows = growing_bytes(measured, peer)
            of_raw = grows * measured.questions.steps / raw
            rows.append((f"{peer.name}: frames and steps of it", f"{grows:,.1f}", _short(of_raw), ""))
    return Table(("way", "bytes a step", "of the bz2 files", "ingest, steps/s"), rows)


def growing_bytes(measured: Comparison, peer: Peer) -> float:
    """Bytes a step that more steps would add: of ours, what its logs and its metadata take is left out."""
    size = measured.sizes[peer.name]
    if peer is OURS:
        by_kind = lake_bytes(measured.folders[peer.name] / "lake")
        size = by_kind["frames"] + by_kind["steps"]
    return size / measured.questions.steps


def projection(measured: Comparison) -> Table:
    """What the published data would take, at the bytes and the speeds measured."""
    rows = []
    for peer in measured.peers:
        hours = [NOTHING] * 2
        for number, (job, state) in enumerate(((INGEST, WARM), ("fourth", WARM))):
            if measured.has(peer.name, job, state):
                seconds = measured.spread(peer.name, job, state).median / measured.questions.steps * PUBLISHED_STEPS
                hours[number] = _short(seconds / 3600)
        size = growing_bytes(measured, peer) * PUBLISHED_STEPS
        rows.append((peer.name, _short(size / 1e9), *hours))
    return Table(("way", "GB (projected)", "ingest, hours (projected)", "every fourth step, hours (projected)"), rows)


def _figures(measured: Comparison) -> Iterator[tuple[str, Callable[[str], float | None]]]:
    """(what, way → seconds, or bytes: less is better)."""
    yield "bytes a step", lambda way: measured.sizes[way]
    for column in (*READING, *QUESTIONS, *FROM_DISK, INGESTING):

        def seconds(way: str, column: Column = column) -> float | None:
            if not measured.has(way, column.job, column.state):
                return None
            return measured.spread(way, column.job, column.state).median

        cold = ", cold" if column.state == COLD else ""
        yield f"{column.title}{cold}", seconds


def result(measured: Comparison) -> list[str]:
    """Ours beside CrowdPlay's way and beside the best of the others, for each figure."""
    told = []
    others = [peer.name for peer in measured.peers if peer is not OURS]
    for what, figure in _figures(measured):
        ours, theirs = figure(OURS.name), figure(REFERENCE.name)
        known = [(value, name) for name in others if (value := figure(name)) is not None]
        if ours is None or not known:
            continue
        best, name = min(known)
        against = "" if theirs is None else f"{_times(theirs / ours)} than {REFERENCE.name}; "
        told.append(f"{what}: {against}{_times(best / ours)} than the best other, {name}.".replace("  ", " "))
    return told


def _times(ratio: float) -> str:
    return f"{_short(ratio)} times better" if ratio >= 1 else f"{_short(1 / ratio)} times worse"


def not_first(measured: Comparison) -> list[str]:
    """Where another way is better than ours: by how much, and for the jobs what ours spends its time in."""
    told = []
    jobs = {job.title: job for job in JOBS}
    for what, figure in _figures(measured):
        ours = figure(OURS.name)
        better = [(value, p.name) for p in measured.peers if (value := figure(p.name)) is not None and p is not OURS]
        ahead = sorted((value, name) for value, name in better if ours is not None and value < ours)
        if ours is None or not ahead:
            continue
        names = ", ".join(f"{name} ({_short(ours / value)} times)" for value, name in ahead[:3])
        more = f", and {len(ahead) - 3} more" if len(ahead) > 3 else ""
        sentence = f"{what}: {names}{more}."
        if what in jobs:
            shares = "; ".join(f"`{name}` {share:.0%}" for name, share in profile(measured, jobs[what]))
            sentence += f" Ours spends its own time in: {shares}."
        told.append(sentence)
    return told or ["Nowhere: ours is the best of all ways in every figure above."]


def method(measured: Comparison, held: str, ingest_turns: int) -> list[str]:
    asked = measured.questions
    games = sorted({told["game"] for told in measured.source.keywords.values()})
    used = tuple(sorted({name for peer in measured.peers for name in peer.libraries}))
    from_memory = [peer.name for peer in measured.peers if _from_memory(measured, peer)]
    return [
        f"Machine: {cores()} cores, {processor()}, with other work on it. {versions(used)}. One process: {held}.",
        f"Input: {len(asked.episodes)} episodes, {asked.steps:,} steps, of {', '.join(games)}, played "
        "by the recorder, by chance and by rule.",
        "Before anything was timed every way gave back every frame byte for byte, and for every job the arrays that "
        "CrowdPlay's way gives.",
        f"Medians of {measured.turns} runs of each, {ingest_turns} of ingest; in brackets the lowest and the highest "
        "figure. All ways do a job in turn.",
        "Warm, and ingest: processor time of all threads, all files in the page cache, the dataset opened beforehand.",
        "Cold: by the clock, opening included, libraries loaded, after the pages of all files were dropped with "
        f"posix_fadvise, or from a fresh copy where some are mapped ({_still_there(measured)}).",
        "Ingest: from CrowdPlay's bz2 files to the dataset, decompression and unpickling included.",
        "The lake and CrowdPlay's pickles hold every field of every agent; the other ways frames, RAM, action, reward "
        "and done of the first player, game and score.",
        "CrowdPlay's way: unpickle the trajectory, then its algorithm with OpenCV, frame by frame, which makes each "
        "image of a stack anew. The other ways read the frames that are needed and make each image once, with the same "
        "OpenCV calls.",
        "Arrays: observations (n, 1, 84, 84) or, stacked, (n, 4, 84, 84), actions, rewards, terminals. Steps a second "
        "count every step of the data, emitted or not.",
        f"Shuffled epoch: the stacks of every {FREQUENCY}th step, once each, in batches of {BATCH}. Ways that cannot "
        f"read a few steps for less than many make all images first, in memory ({', '.join(from_memory)}); for the "
        "published data that would be 115 GB.",
        f"A random window: the default observation of one step. A RAM byte: 0x{RAM_BYTE:02x} of all steps. Filter: the "
        "episodes of a game from a score on; with thousands of episodes the ways differ more ([crowdplay.md]"
        "(crowdplay.md)).",
        *(f"{peer.name}: {peer.note}." for peer in measured.peers),
    ]


def _still_there(measured: Comparison) -> str:
    known = {way: share for way, share in measured.cached.items() if share >= 0.01}
    if not known:
        return "of no dataset a page in a hundred was still there"
    return "still there were at most " + ", ".join(f"{share:.0%} of {way}" for way, share in known.items())


def _from_memory(measured: Comparison, peer: Peer) -> bool:
    with peer.open(measured.folders[peer.name]) as opened:
        return opened.epoch_in_memory
