"""Reports of checks: what a check found, checks in child processes, which may crash or hang, and the report."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Callable, Optional, Union

MARKER = "mindone_vq.findings: "  # starts a child's lines of findings; libraries print, too
ERROR_ADVICE = "report this error with the whole report"


@dataclass(frozen=True)
class Finding:
    """A line of the report: what was checked, what was found, and, if something is wrong, what to do.

    Attributes:
        name: what was checked.
        value: what was found, for people.
        advice: what to do; empty if nothing is wrong.
        numbers: what was measured, for programs.
    """

    name: str
    value: str
    advice: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return "WRONG" if self.advice else "ok"


Check = Callable[[], Iterable[Finding]]
# Name -> the check, and the advice if it raises an error or does not finish.
Checks = Mapping[str, tuple[Check, str]]


def run_check(name: str, check: Check, advice: str) -> Iterator[Finding]:
    """The findings of ``check``; an error that it raises is one more, with ``advice``."""
    try:
        yield from check()
    except (Exception, SystemExit) as error:
        yield Finding(name, _one_line(error), advice)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def print_checks(checks: Checks) -> None:
    """What a child process does: a line for each check."""
    for name, (check, advice) in checks.items():
        findings = [asdict(each) for each in run_check(name, check, advice)]
        print(f"\n{MARKER}{json.dumps([name, findings])}", flush=True)


def print_names(checks: Checks) -> None:
    """What a child process does that is asked which checks there are."""
    print(f"\n{MARKER}{json.dumps({name: advice for name, (_, advice) in checks.items()})}", flush=True)


def listed_checks(
    command: Sequence[str], time_limit: float, variables: Optional[Mapping[str, str]] = None
) -> Union[dict[str, str], Finding]:
    """What a child process prints with ``print_names``; where it does not, how it ended."""
    output, _, end = _run(list(command), time_limit, variables)
    lines = _marked(output)
    return lines[0] if lines else Finding("process", end, "report this error")


def in_child_process(
    command: Sequence[str],
    advice: Mapping[str, str],
    time_limit: float,
    variables: Optional[Mapping[str, str]] = None,
    restarts: int = 0,
) -> tuple[list[Finding], str]:
    """The findings of checks that a child process prints.

    The check during which the process crashed or ran out of time is a finding. The checks after it are done by another
    process, or after so many restarts not at all.

    Args:
        command: of a process that calls ``print_checks``; the names of the checks left are added to it.
        advice: name of each check -> what to do if it does not finish.
        time_limit: seconds, for a process.
        variables: of the environment.
        restarts: how often another process goes on with the checks that are left.

    Returns:
        The findings, and what the processes wrote to their standard error.
    """
    findings: list[Finding] = []
    left, errors = list(advice), ""
    for _ in range(restarts + 1):
        output, error, end = _run([*command, *left], time_limit, variables)
        errors += error
        done = dict(_marked(output))
        findings += [Finding(**entry) for entries in done.values() for entry in entries]
        left = [name for name in left if name not in done]
        if not left:
            return findings, errors
        findings.append(Finding(left[0], end, advice[left[0]]))
        left = left[1:]
    return findings + [Finding(name, "not checked", advice[name]) for name in left], errors


def _marked(output: str) -> list:
    return [json.loads(line[len(MARKER) :]) for line in output.splitlines() if line.startswith(MARKER)]


def _run(command: list[str], time_limit: float, variables: Optional[Mapping[str, str]]) -> tuple[str, str, str]:
    """Standard output, standard error, and how the process ended."""
    environment = {**os.environ, **(variables or {})}
    try:
        process = subprocess.run(command, capture_output=True, timeout=time_limit, env=environment)
        output, error, code = process.stdout, process.stderr, process.returncode
        last = error.decode(errors="replace").strip().rpartition("\n")[2][:500]
        end = f"crashed with {signal.Signals(-code).name}" if code < 0 else f"ended with {code}: {last}"
    except subprocess.TimeoutExpired as expired:
        output, error, end = expired.stdout or b"", expired.stderr or b"", f"no answer in {time_limit:.0f} s"
    return output.decode(errors="replace"), error.decode(errors="replace"), end


def anonymous(finding: Finding) -> Finding:
    """``finding`` without user names in paths."""
    texts = {name: without_users(getattr(finding, name)) for name in ("name", "value", "advice")}
    return replace(finding, **texts)


def without_users(text: str) -> str:
    """``text`` without user names in paths: the home folder becomes ~, folders named like a user <user>."""
    home = Path.home()
    if home.name:
        text = re.sub(re.escape(str(home)) + r"(?![\w.-])", "~", text)
        text = re.sub(rf"(?<=[/\\]){re.escape(home.name)}(?![\w.-])", "<user>", text)
    return re.sub(r"(?<=/home/|Users[/\\])[^/\\\s:]+", "<user>", text)


def count_wrong(findings: Iterable[Finding]) -> int:
    return sum(bool(finding.advice) for finding in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """The report for programs."""
    entries = [{**asdict(finding), "status": finding.status} for finding in findings]
    return json.dumps({"wrong": count_wrong(findings), "findings": entries}, indent=2, ensure_ascii=False)


def print_lines(findings: Iterable[Finding]) -> None:
    """The report for people."""
    for finding in findings:
        advice = f" - {finding.advice}" if finding.advice else ""
        print(f"  {finding.status:5}  {finding.name:20}  {finding.value}{advice}")
    sys.stdout.flush()
