"""Checks that import other people's libraries run in a process of their own, which may crash or hang."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from mindone_vq.doctor import framework, machine, model
from mindone_vq.doctor.findings import WRONG, Finding, run_check

TIME_LIMIT = 600  # seconds; the first start on an NPU takes minutes
MARK = "mindone_vq.doctor: "  # before the result: libraries print too
CHECKS = {
    "packages": machine.packages,
    "MindSpore": framework.mindspore,
    "bundled model": model.check_bundled,
}


def ask(name: str, *arguments: str) -> list[Finding]:
    """The findings of the check ``name``, run in a new process; its end, where it did not come back."""
    command = [sys.executable, "-m", "mindone_vq.doctor.child", name, *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return [Finding(name, f"no answer in {TIME_LIMIT} s", WRONG, "see whether another process holds the device")]
    marked = [line for line in result.stdout.splitlines() if line.startswith(MARK)]
    if marked:
        return [Finding(**entry) for entry in json.loads(marked[-1][len(MARK) :])]
    return [Finding(name, _end_of(result), WRONG, "install it again, in an environment of its own")]


def _end_of(result: subprocess.CompletedProcess) -> str:
    if result.returncode < 0:
        return f"crashed with {signal.Signals(-result.returncode).name}"
    last = (result.stderr.strip() or "no message").splitlines()[-1]
    return f"ended with {result.returncode}: {last}"[:500]


def main(name: str, *arguments: str) -> None:
    """Prints the findings of one check."""
    check = CHECKS.get(name) or (lambda: model.check_model(Path(*arguments)))
    found = run_check(name, check)
    print(f"\n{MARK}{json.dumps([asdict(finding) for finding in found])}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
