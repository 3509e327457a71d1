"""What a check reports. Only the standard library is imported here and by every check, until it runs."""

import getpass
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Union

OK, NOTE, WRONG = "ok", "note", "WRONG"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        value: what is there.
        status: ``OK``; ``NOTE``: it works, and could be better; ``WRONG``: it does not work.
        advice: what to do.
    """

    name: str
    value: str
    status: str = OK
    advice: str = ""


Check = Callable[[], Union[Finding, Iterable[Finding]]]


def run_check(name: str, check: Check) -> list[Finding]:
    """The findings of ``check``; what it raises is one more, whatever it is."""
    findings: list[Finding] = []
    try:
        found = check()
        for finding in [found] if isinstance(found, Finding) else found:
            findings.append(finding)  # one by one: those before an error stay
    except (Exception, SystemExit) as error:
        findings.append(Finding(name, said_by(error), WRONG, "this is what fails: see the message"))
    return findings


def said_by(error: BaseException) -> str:
    """Class and message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def anonymous(text: str) -> str:
    """``text`` without who uses this machine: the home folder is ~, another one and the user's name are <user>."""
    home = str(Path.home()).rstrip("/\\")
    if home:
        text = re.sub(re.escape(home) + r"(?![\w.-])", "~", text)
    text = re.sub(r"(?<=/home/|Users[/\\])[^/\\\s:]+", "<user>", text)
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        return text
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?![\w.-])", "<user>", text) if len(user) > 1 else text


def as_text(title: str, findings: list[Finding]) -> str:
    """A line for each finding, and how many are wrong."""
    width = max(len(finding.name) for finding in findings)
    lines = [title]
    for finding in findings:
        advice = f" - {finding.advice}" if finding.advice else ""
        lines.append(f"  {finding.status:5}  {finding.name:{width}}  {finding.value}{advice}")
    wrong = number_wrong(findings)
    lines.append("Nothing is wrong." if not wrong else f"{wrong} thing{'s are' if wrong > 1 else ' is'} wrong.")
    return anonymous("\n".join(lines))


def as_json(findings: list[Finding]) -> dict[str, object]:
    """The same for machines."""
    plain = [{key: anonymous(value) for key, value in asdict(finding).items()} for finding in findings]
    return {"wrong": number_wrong(findings), "findings": plain}


def number_wrong(findings: list[Finding]) -> int:
    """How many need something done."""
    return sum(finding.status == WRONG for finding in findings)
