"""Sides of a comparison, each in a process of its own, taking turns.

A side is a function that makes its parts: what can be run, by name. A script hands its sides to ``run``; where it asks
for one by ``start``, the script is started again as that side's process. Every part runs once there for its
compilation, which is not counted, and then each time that it is asked to.

A process remembers the memory of the one that started it: scripts import nothing large before their sides are done.
"""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

Parts = dict[str, Callable[[], Any]]
WORK = "--work"


class Worker:
    """A side's process.

    Attributes:
        name: of the side.
        first: seconds of the first run of each part.
        peaks: largest resident memory in bytes after each of those.
        values: what they returned.
    """

    def __init__(self, name: str, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}
        )
        facts = json.loads(self._answer())
        self.first, self.peaks, self.values = facts["first"], facts["peaks"], facts["values"]

    def run(self, part: str) -> float:
        """Seconds of one more run of a part."""
        print(part, file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.name}: its process ended with {self._process.wait()}.")
        return line


def start(script: str, side: str, variables: Optional[Mapping[str, str]] = None, /, **settings: Any) -> Worker:
    """Starts a side of ``script``, and waits until every part of it ran once.

    Args:
        script: a file that ends in ``run``.
        side: one of those that it hands to ``run``.
        variables: of the environment.
        settings: the side's arguments.
    """
    work = json.dumps({"side": side, "settings": settings})
    return Worker(side, [sys.executable, str(Path(script).resolve()), WORK, work], variables or {})


def take_turns(workers: Iterable[Worker], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of every part of every side by their names: each round, one run of each."""
    by_name = {worker.name: worker for worker in workers}
    times: dict[tuple[str, str], list[float]] = {(name, part): [] for name in by_name for part in by_name[name].first}
    for _ in range(rounds):
        for (name, part), values in times.items():
            values.append(by_name[name].run(part))
    return times


def time_sides(script: str, sides: Iterable[str], rounds: int, **settings: Any) -> dict[tuple[str, str], list[float]]:
    """``take_turns`` of sides of ``script``, which are started and ended."""
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(start(script, side, **settings)) for side in sides]
        return take_turns(workers, rounds)


def as_fast_as(peer: str, times: Mapping[tuple[str, str], Sequence[float]]) -> list[list[str]]:
    """Rows of a table: each part of each side, its seconds, and how many times as fast as the one part of ``peer``."""
    (seconds,) = (statistics.median(values) for (side, _), values in times.items() if side == peer)
    return [
        [side, part, spread(values), f"{seconds / statistics.median(values):.1f} x"]
        for (side, part), values in times.items()
    ]


def run(sides: Mapping[str, Callable[..., Parts]], main: Callable[[], None]) -> None:
    """What a script ends in: ``main``, or one of ``sides`` where it was started as that."""
    if sys.argv[1:2] != [WORK]:
        main()
        return
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed
    work = json.loads(sys.argv[2])
    parts = sides[work["side"]](**work["settings"])
    facts: dict[str, dict[str, Any]] = {"first": {}, "peaks": {}, "values": {}}
    for name, each in parts.items():
        began = time.perf_counter()
        facts["values"][name] = each()
        facts["first"][name] = time.perf_counter() - began
        facts["peaks"][name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(facts), file=answers)
    for line in sys.stdin:
        began = time.perf_counter()
        parts[line.strip()]()
        print(time.perf_counter() - began, file=answers)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median, least and greatest in seconds."""
    middle, least, most = (f"{value:.{digits}g}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} s ({least} to {most})" if len(values) > 1 else f"{middle} s"


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
