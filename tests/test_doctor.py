"""The doctor reports what is installed, and reports what is broken instead of breaking."""

import json
import os
import shutil
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest

import mindone_vq
from mindone_vq import doctor
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.findings import Finding, run_check

ROOT = Path(mindone_vq.__file__).parents[1]


def found(check, *arguments):
    """The findings of a check by name."""
    return {finding.name: finding for finding in run_check("the check", partial(check, *arguments), "do it again")}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder in which child processes find modules before all others."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return tmp_path


def test_everything_works_here(modules, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(modules / "somebody"))
    monkeypatch.setenv("HF_HOME", str(modules / "somebody/hub"))
    assert doctor.main(["--json", "--model", str(SHAPES_MODEL)]) == 0
    output = capsys.readouterr().out
    report = json.loads(output)
    findings = {entry["name"]: entry for entry in report["findings"]}
    assert report["wrong"] == 0
    assert {entry["status"] for entry in findings.values()} == {"ok"}
    assert {"Python", "memory", "cores", "CANN", "compile cache", "numpy", "MindSpore", "device"} <= set(findings)
    assert findings["mindone_vq"]["value"] == mindone_vq.__version__
    assert findings["compiled graph"]["value"] == "the result is correct"
    assert findings["hub cache"]["value"].startswith("~/hub/hub, ")
    assert findings["model of shapes"]["value"] == findings["model"]["value"]
    assert findings["model"]["value"].startswith("VQDiffusionPipeline with 4.")
    assert "somebody" not in output


# the content of a module in place of MindSpore, and what is reported
BROKEN = {
    "raise ImportError('libascendcl.so: cannot\\nopen it')": "ImportError: libascendcl.so: cannot open it",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "crashed with SIGSEGV",
    "import os; os.write(2, b'x\\nno device'); os._exit(3)": "ended with 3: no device",
    "import sys; print('x'); sys.exit('no device')": "SystemExit: no device",
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_mindspore_is_a_line_of_the_report(content, modules, capsys):
    (modules / "mindspore.py").write_text(content)
    assert doctor.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("  WRONG  MindSpore") and BROKEN[content] in line]
    assert any(line.startswith("  ok     Python") for line in lines)
    assert any(line.startswith("  WRONG  model of shapes") for line in lines)
    assert lines[-1] == "Problems: 2."


def test_a_process_that_hangs_is_ended(modules, monkeypatch):
    (modules / "mindspore.py").write_text("import time; time.sleep(600)")
    monkeypatch.setattr(doctor, "TIME_LIMIT", 1)
    wrong = [finding.value for finding in doctor.run_checks() if finding.advice]
    assert wrong[0] == "no answer in 1 s"
    assert set(wrong[1:]) == {"not checked"}


@pytest.mark.parametrize(
    "version, target, value, advice",
    [
        ("2.8.0", "CPU", "2.8.0", ""),
        ("2.7.1", "CPU", "tested with 2.7.0 and 2.8.0", ""),
        ("2.9.0", "CPU", "far slower than in mindspore==2.8.0", ""),
        ("2.10.0", "CPU", "far slower", ""),
        ("2.10.0", "Ascend", "tested with", ""),
        ("2.6.0rc1", "CPU", "2.6.0rc1", "2.7.0 or later"),
    ],
)
def test_releases_of_mindspore(version, target, value, advice):
    finding = doctor.check_release(version, target)
    assert finding.value.startswith(version) and value in finding.value
    assert advice in finding.advice and bool(advice) == (finding.status == "WRONG")
    assert f'"mindspore>={doctor.TESTED[0]}"' in (ROOT / "setup.py").read_text()


def test_packages_missing_old_or_broken(monkeypatch, modules):
    (modules / "broken_module.py").write_text("raise OSError('bad file')")
    monkeypatch.syspath_prepend(str(modules))
    monkeypatch.setitem(doctor.MODULES, "pillow", "broken_module")
    required = ["mindspore>=99", "numpy<1", "tqdm", "pillow", "no_such_package>=2", 'torch>99; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda _: required)
    findings = found(doctor.packages)
    wrong = {name: finding.advice for name, finding in findings.items() if finding.advice}
    assert wrong == {
        "numpy": 'pip install "numpy<1"',
        "pillow": 'pip install "pillow"',
        "no_such_package": 'pip install "no_such_package>=2"',
    }
    assert findings["pillow"].value == "OSError: bad file"
    monkeypatch.setattr("platform.python_version", lambda: "3.13.1")
    assert found(doctor.packages)["Python version"].advice == "use Python >=3.9,<3.13"
    assert findings["no_such_package"].value.startswith("PackageNotFoundError")
    assert findings["tqdm"].value == metadata.version("tqdm")
    assert "torch 2." in findings["optional"].value


def test_ascend(tmp_path, monkeypatch):
    for variable in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert found(doctor.ascend, tmp_path)["Ascend"] == Finding("Ascend", "NPUs: 0, driver: none")
    assert found(doctor.ascend, tmp_path)["CANN"] == Finding("CANN", "not found")
    (tmp_path / "dev").mkdir()
    for device in ("davinci0", "davinci1", "davinci_manager"):
        (tmp_path / "dev" / device).touch()
    assert found(doctor.ascend, tmp_path)["Ascend"].value == "NPUs: 2, driver: not found"
    assert "set_env.sh" in found(doctor.ascend, tmp_path)["CANN"].advice
    toolkit = tmp_path / "usr/local/Ascend/ascend-toolkit/latest"
    for folder, content in (
        (toolkit / "compiler", "Version=8.2.0.0.201\nversion_dir=8.2.RC1\n"),
        (tmp_path / "usr/local/Ascend/driver", "Version=25.2.0\nascendhal_version=7.35.23\n"),
    ):
        folder.mkdir(parents=True)
        (folder / "version.info").write_text(content)
    findings = found(doctor.ascend, tmp_path)
    assert findings["Ascend"].value == "NPUs: 2, driver: 25.2.0"
    assert findings["CANN"].value == f"8.2.0.0.201 in {toolkit}, not set up"
    assert "set_env.sh" in findings["CANN"].advice
    monkeypatch.setenv("ASCEND_HOME_PATH", str(toolkit))
    assert found(doctor.ascend, tmp_path)["CANN"] == Finding("CANN", f"8.2.0.0.201 in {toolkit}")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "gone"))
    assert found(doctor.ascend, tmp_path)["CANN"].value == f"{tmp_path / 'gone'} does not exist"


def test_memory_of_a_container(tmp_path):
    assert found(doctor.machine, tmp_path)["memory"].value == "unknown on this system"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: 8000000 kB\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("4000000000\n")
    value = found(doctor.machine, tmp_path)["memory"].value
    assert value == "MemTotal 16.4 GB, MemAvailable 8.2 GB, limit of this container 4.0 GB"


def test_compile_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path / "new"))
    for enabled, value, wrong in (("0", "off", False), ("yes", "'yes'", True), ("1", f"{tmp_path}/new, ", False)):
        monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", enabled)
        (finding,) = doctor.compile_cache()
        assert value in finding.value and bool(finding.advice) == wrong
    (tmp_path / "file").touch()
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path / "file/cache"))
    (finding,) = doctor.compile_cache()
    assert finding.advice == "set MS_COMPILER_CACHE_PATH to a writable folder"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


# damage to a model folder, and what is reported
DAMAGE = {
    "vqvae": lambda model: shutil.rmtree(model / "vqvae"),
    "diffusion_pytorch_model.safetensors": lambda model: cut(model / "transformer/diffusion_pytorch_model.safetensors"),
    "vqvae/config.json does not exist": lambda model: (model / "vqvae/config.json").unlink(),
    "not readable as JSON": lambda model: cut(model / "model_index.json"),
}


@pytest.mark.parametrize("value", DAMAGE)
def test_a_damaged_model_folder(value, tmp_path):
    shutil.copytree(SHAPES_MODEL, tmp_path / "model")
    DAMAGE[value](tmp_path / "model")
    (finding,) = found(doctor.pipeline, str(tmp_path / "model"), "model").values()
    assert value in finding.value and finding.advice == "do it again"


def test_a_folder_that_does_not_exist_is_not_downloaded():
    (finding,) = found(doctor.pipeline, "owner/model", "model").values()
    assert finding.value.startswith("NotADirectoryError: owner/model is not a folder")
