"""Several processes started by msrun, as a user does it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

TIMEOUT = 600  # seconds; much more than a run takes, where others use the machine, too


def msrun(count: int, command: list[str], logs: Path, **environment: str) -> tuple[int, str, dict[str, str]]:
    """Runs a script and its arguments in ``count`` processes: exit code, what msrun said, and what each process did."""
    programs = Path(sys.executable).parent  # msrun starts what is called python
    changes = {**environment, "PATH": f"{programs}:/usr/bin:/bin"}
    start = [str(programs / "msrun"), "--worker_num", str(count), "--local_worker_num", str(count), "--join", "True"]
    start += ["--master_port", str(_free_port()), "--log_dir", str(logs), *command]
    process = subprocess.Popen(
        start, env={**os.environ, **changes}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = process.communicate(timeout=TIMEOUT)
    finally:
        process.terminate()  # which ends its processes, too
    return process.returncode, said, {path.name: path.read_text() for path in logs.glob("worker_*.log")}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
