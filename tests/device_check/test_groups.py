"""The parts of a check run in processes of their own; one that fails does not stop the others."""

import json
import os
import signal
from pathlib import Path

import pytest

import mindone_vq
from mindone_vq import doctor
from mindone_vq.device_check import groups, kernel_log
from mindone_vq.device_check.groups import Group
from mindone_vq.findings import Finding

ROOT = Path(mindone_vq.__file__).parents[1]
HERE = "tests.device_check.test_groups"


def working():
    yield Finding("works", os.environ.get("MINDONE_VQ_JIT_LEVEL", "no level"), numbers={"one": 1.0})


def crashing():
    os.kill(os.getpid(), signal.SIGSEGV)


def logging():
    os.write(2, b"[INFO] kernel opname:Cumsum, kernel type:acl_kernel\n")
    yield Finding("logs", "")


def checks(device):
    """What the children of these tests run."""
    each = (working, crashing, logging)
    return {check.__name__: (check, f"repair {check.__name__}") for check in each}


@pytest.fixture(autouse=True)
def _children_find_this_module(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MINDONE_VQ_JIT_LEVEL", raising=False)


def as_text(findings):
    return [(finding.name, finding.value.split(",")[0], finding.advice) for finding in findings]


@pytest.mark.slow
def test_a_crash_stops_neither_the_checks_nor_the_groups():
    made = (
        Group("environment", "mindone_vq.device_check.environment:checks"),
        Group("own", f"{HERE}:checks", {"MINDONE_VQ_JIT_LEVEL": "O1"}, reads_log=True),
        Group("elsewhere", f"{HERE}:checks", only_on="Ascend"),
    )
    environment, own = map(as_text, groups.run("CPU", made))
    assert environment[0] == ("environment: chip", "CPU", "")
    assert own == [
        ("own: works", "O1", ""),
        ("own: crashing", "crashed with SIGSEGV", "repair crashing"),
        ("own: logs", "", ""),
        ("own: selected", "1 acl_kernel", ""),
        ("own: aclop", "Cumsum", ""),
        ("own: on the CPU", "none", ""),
    ]


def test_without_the_device_nothing_else_runs():
    """This machine has no NPU: MindSpore really refuses."""
    environment, *others = groups.run("Ascend", groups.GROUPS[:3])
    assert [finding.status for finding in environment] == ["WRONG"]
    assert "has no device Ascend here" in environment[0].value
    assert [[finding.value for finding in each] for each in others] == [["not checked"]] * 2


def test_every_group_has_checks_with_advice():
    for group in groups.GROUPS:
        module, name = group.function.split(":")
        made = getattr(__import__(module, fromlist=[name]), name)("Ascend")
        assert made and all(callable(check) and advice for check, advice in made.values()), group
    assert len({group.title for group in groups.GROUPS}) == len(groups.GROUPS)


def test_the_doctor_writes_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "run_checks", lambda model: [Finding("MindSpore", "2.8.0")])
    monkeypatch.setattr(groups, "GROUPS", (Group("own", f"{HERE}:checks"),))
    monkeypatch.setattr(groups.run, "__defaults__", (groups.GROUPS,))
    file = tmp_path / "report.json"
    assert doctor.main(["--check", "CPU", "--json", str(file)]) == 1
    report = json.loads(file.read_text())
    assert [entry["name"] for entry in report["findings"]][:3] == ["MindSpore", "own: works", "own: crashing"]
    assert report["wrong"] == 1 and report["findings"][1]["numbers"] == {"one": 1.0}
    assert "  WRONG  own: crashing         crashed with SIGSEGV - repair crashing" in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_an_error_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        doctor.main(["--check", "CPU", "--json", str(tmp_path / "file/report.json")])


# Lines in the form of MindSpore's ascend_kernel_executor.cc and cpu_kernel_executor.cc.
LOG = """
[INFO] DEVICE(1,7f,python):2026-01-01 [ascend_kernel_executor.cc:301] GenerateKernelMod] kernel opname:MatMul, kernel type:opapi_kernel
[INFO] DEVICE(1,7f,python):2026-01-01 [ascend_kernel_executor.cc:301] GenerateKernelMod] kernel opname:MatMul, kernel type:opapi_kernel
[INFO] DEVICE(1,7f,python):2026-01-01 [ascend_kernel_executor.cc:301] GenerateKernelMod] kernel opname:CumSum, kernel type:acl_kernel
[INFO] DEVICE(1,7f,python):2026-01-01 [cpu_kernel_executor.cc:620] Backoff and rebuild kernel on CPU successfully for node: Default/Sort-op0, node attr: x
"""  # noqa: E501


def test_the_log_names_kernels_that_fall_back():
    chosen, aclop, fallen = kernel_log.selected(LOG)
    assert chosen.numbers == {"opapi_kernel": 2, "acl_kernel": 1}
    assert (aclop.value, aclop.advice) == ("CumSum", "")
    assert (fallen.value, fallen.advice) == ("Default/Sort-op0", kernel_log.ADVICE)
