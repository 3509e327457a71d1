"""MindSpore: its version, the device it takes, and whether it computes."""

from collections.abc import Iterator

from mindone_vq.doctor.findings import NOTE, OK, WRONG, Finding, said_by
from mindone_vq.doctor.machine import number_of_npus, numbers

OLDEST = "2.7.0"
TESTED = ("2.7.0", "2.8.0")
SLOW_ON_CPU = "2.9.0"  # and later: oneDNN takes its reference kernel for convolutions


def mindspore() -> Iterator[Finding]:
    """Version, device, and a small product; the import is the first of the checks."""
    try:
        import mindspore as ms
    except ImportError as error:
        advice = "install it: mindspore==2.8.0 on a CPU; on an Ascend server the release that fits its CANN"
        yield Finding("MindSpore", f"does not import: {said_by(error)}", WRONG, advice)
        return
    target = ms.get_context("device_target")
    yield judged_version(ms.__version__, target)
    yield _device(ms, target)
    yield _computes(ms)


def judged_version(version: str, target: str) -> Finding:
    """Whether ``version`` is a good one on ``target``."""
    name, known = "MindSpore", numbers(version)
    if known < numbers(OLDEST):
        return Finding(name, version, WRONG, f"install {OLDEST} or later; on a CPU mindspore==2.8.0")
    if target == "CPU" and known >= numbers(SLOW_ON_CPU):
        advice = "convolutions on a CPU are far slower than in 2.8.0: pip install mindspore==2.8.0"
        return Finding(name, version, NOTE, advice)
    if version not in TESTED:
        return Finding(name, version, NOTE, f"the package is tested with {' and '.join(TESTED)}")
    return Finding(name, f"{version}, a tested one")


def _device(ms, target: str) -> Finding:
    """The device that MindSpore takes where nothing is said, beside what is in the machine."""
    name = "device"
    if target == "CPU" and number_of_npus():
        advice = "MindSpore does not see the NPU: source the set_env.sh of CANN, and install MindSpore for its release"
        return Finding(name, f"CPU, though there are {number_of_npus()} NPUs", WRONG, advice)
    if target == "CPU":
        return Finding(name, target)
    try:
        count = getattr(ms.device_context, target.lower()).device_count()
        return Finding(name, f"{target}, {count} of them, {ms.hal.get_device_name(0, target)}")
    except Exception as error:  # of an interface that changes; the product below is what counts
        return Finding(name, f"{target}; their number is not known: {said_by(error)}", NOTE)


def product(x):
    """x x^T in a row: what the models are made of, small."""
    return (x @ x.transpose(1, 0)).reshape(-1)


def _computes(ms) -> Finding:
    """A graph compiled and run."""
    import numpy as np

    result = ms.jit(product, fullgraph=True)(ms.Tensor(np.ones((2, 3), np.float32))).asnumpy().tolist()
    right = result == [3.0] * 4
    return Finding(
        "a compiled graph",
        "gives what it should" if right else f"gives {result}, expected {[3.0] * 4}",
        OK if right else WRONG,
        "" if right else "install MindSpore again, in an environment of its own",
    )
