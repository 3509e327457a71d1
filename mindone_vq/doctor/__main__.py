"""What is installed here and whether it works, for pasting into a bug report.

    python -m mindone_vq.doctor [--model DIR] [--json]

Ends with 1 where something is wrong; its line says what to do.
"""

import argparse
import json
import sys

from mindone_vq import __version__
from mindone_vq.doctor import caches, machine
from mindone_vq.doctor.child import CHECKS, ask
from mindone_vq.doctor.findings import Check, Finding, as_json, as_text, number_wrong, run_check


def checks(model: str) -> dict[str, Check]:
    """Every check by name, in the order of the report; ``model`` is a folder, or empty."""
    result: dict[str, Check] = {
        "mindone_vq": lambda: Finding("mindone_vq", __version__),
        "Python": machine.python,
        "memory": machine.memory,
        "cores": machine.cores,
        "Ascend driver": machine.driver,
        "CANN": machine.cann,
        "environment": machine.variables,
        "compile cache": caches.compile_cache,
        "hub cache": caches.hub_cache,
    }
    result.update({name: lambda name=name: ask(name) for name in CHECKS})
    if model:
        result["model"] = lambda: ask("model", model)
    return result


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mindone_vq.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="DIR", default="", help="also look whether this model folder is complete")
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    options = parser.parse_args(arguments)
    findings = [finding for name, check in checks(options.model).items() for finding in run_check(name, check)]
    if options.json:
        print(json.dumps(as_json(findings), indent=2, ensure_ascii=False))
    else:
        print(as_text("mindone_vq doctor", findings))
    return 1 if number_wrong(findings) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
