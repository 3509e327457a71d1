"""Which kernels MindSpore selected, as its log says at level INFO on an NPU.

The lines are those of MindSpore's source files ascend_kernel_executor.cc and cpu_kernel_executor.cc.
"""

import re
from collections import Counter
from collections.abc import Iterator

from mindone_vq.findings import Finding

SELECTED = re.compile(r"kernel opname: ?(\S+), kernel type: ?(\w+)")
FELL_BACK = re.compile(r"Backoff and rebuild kernel on CPU successfully for node: ([^\s,]+)")
ADVICE = "these kernels silently ran on the CPU: report them with the whole report"


def selected(log: str) -> Iterator[Finding]:
    """How many kernels of each kind all graphs have; which are aclop's, compiled when first used; which fell back."""
    kinds: dict[str, Counter] = {}
    for name, kind in SELECTED.findall(log):
        kinds.setdefault(kind, Counter())[name] += 1
    counts = {kind: sum(names.values()) for kind, names in sorted(kinds.items())}
    value = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    yield Finding("selected", value or "not in MindSpore's log, as on a CPU", numbers=counts)
    aclop = kinds.get("acl_kernel", Counter())
    yield Finding("aclop", ", ".join(sorted(aclop)) or "none", numbers=dict(aclop))
    fallen = sorted(set(FELL_BACK.findall(log)))
    yield Finding("on the CPU", ", ".join(fallen) or "none", ADVICE if fallen else "", {"kernels": len(fallen)})
