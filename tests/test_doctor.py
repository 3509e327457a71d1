"""The doctor reports what is there, and comes through what is broken."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mindone_vq
from mindone_vq.demo import MODEL
from mindone_vq.doctor import __main__ as doctor
from mindone_vq.doctor import caches, child, framework, machine
from mindone_vq.doctor.findings import NOTE, OK, WRONG, Finding, anonymous, as_text, run_check
from mindone_vq.doctor.model import check_bundled, check_model

ROOT = Path(mindone_vq.__file__).parents[1]


def run(*arguments, path=(), **variables):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), str(ROOT)]), **variables}
    command = [sys.executable, "-m", "mindone_vq.doctor", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def statuses(findings):
    return {finding.name: finding.status for finding in findings}


def test_this_machine_is_reported_whole(tmp_path):
    home = tmp_path / "somebody"
    home.mkdir()
    result = run("--json", "--model", MODEL, HOME=str(home), HF_HOME=str(home / "hub"))
    assert result.returncode == 0, result.stdout
    findings = {entry["name"]: entry for entry in json.loads(result.stdout)["findings"]}
    assert findings["mindone_vq"]["value"] == mindone_vq.__version__
    assert {"Python", "MindSpore", "CANN", "device", "memory", "cores", "numpy", "compile cache"} <= set(findings)
    assert findings["a compiled graph"]["value"] == "gives what it should"
    assert findings["hub cache"]["value"].startswith("~/hub/hub, 0 models")
    assert set(mindone_vq.VQDiffusionPipeline.component_classes) <= set(findings)
    assert "somebody" not in result.stdout
    assert {entry["status"] for entry in findings.values()} <= {OK, NOTE}


# what stands in the place of MindSpore -> what is said of it
BROKEN = {
    "raise ImportError('libascendcl.so: cannot open shared object file')": "ImportError: libascendcl.so",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "crashed with SIGSEGV",
    "import sys; print('x'); sys.exit('no device')": "SystemExit: no device",
    "raise RuntimeError('two\\nlines')": "RuntimeError: two lines",
    "__version__ = '2.8.0'": "has no attribute 'get_context'",
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_mindspore_is_a_line_of_the_report(content, tmp_path, monkeypatch):
    (tmp_path / "mindspore").mkdir()
    (tmp_path / "mindspore" / "__init__.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    (finding,) = child.ask("MindSpore")
    assert finding.status == WRONG
    assert BROKEN[content] in finding.value
    assert finding.advice


def test_the_report_is_whole_without_mindspore_and_says_so(tmp_path):
    (tmp_path / "mindspore.py").write_text("raise ImportError('gone')")
    result = run("--model", MODEL, path=[tmp_path])
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "WRONG  MindSpore" in result.stdout
    assert "ImportError: gone - install it" in result.stdout
    assert "WRONG  model " in result.stdout
    assert "  ok     Python" in result.stdout
    assert result.stdout.splitlines()[-1] == "3 things are wrong."


def test_a_process_that_hangs_is_given_up(monkeypatch, tmp_path):
    (tmp_path / "mindspore.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setattr(child, "TIME_LIMIT", 1)
    (finding,) = child.ask("MindSpore")
    assert (finding.status, finding.value) == (WRONG, "no answer in 1 s")


def test_a_check_that_raises_is_a_finding():
    def check():
        yield Finding("first", "there")
        raise OSError("second\n gone")

    first, second = run_check("both", check)
    assert first == Finding("first", "there")
    assert (second.name, second.status, second.value) == ("both", WRONG, "OSError: second gone")
    assert run_check("one", lambda: Finding("one", "1")) == [Finding("one", "1")]


@pytest.mark.parametrize(
    "version, target, status, said",
    [
        ("2.8.0", "CPU", OK, ""),
        ("2.7.0", "Ascend", OK, ""),
        ("2.7.1", "CPU", NOTE, "tested with 2.7.0 and 2.8.0"),
        ("2.9.0", "CPU", NOTE, "mindspore==2.8.0"),
        ("2.10.0", "CPU", NOTE, "far slower"),
        ("2.10.0", "Ascend", NOTE, "tested with"),
        ("2.6.0rc1", "CPU", WRONG, "2.7.0 or later"),
    ],
)
def test_versions_of_mindspore(version, target, status, said):
    finding = framework.judged_version(version, target)
    assert finding.status == status
    assert said in finding.advice
    assert version in finding.value


def test_packages_missing_old_or_broken(monkeypatch, tmp_path):
    assert set(statuses(machine.packages()).values()) == {OK}
    real = {name: machine.version_of(name) for name in machine.REQUIRED}
    changed = {**real, "numpy": "2.1.0", "tokenizers": "0.18.3", "tqdm": None, "torch": "2.13.0"}
    monkeypatch.setattr(machine, "version_of", changed.get)
    (tmp_path / "broken_module.py").write_text("raise OSError('bad file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(machine.REQUIRED, "pillow", ("broken_module", ""))
    found = {finding.name: finding for finding in machine.packages()}
    wrong = {name for name, finding in found.items() if finding.status == WRONG}
    assert wrong == {"numpy", "tokenizers", "tqdm", "pillow"}
    assert '"numpy<2"' in found["numpy"].advice
    assert found["tokenizers"].advice == 'pip install "tokenizers>=0.19"'
    assert found["tqdm"].value == "not installed"
    assert "OSError: bad file" in found["pillow"].value
    assert found["optional packages"].value == "torch 2.13.0"


def test_the_table_of_packages_is_that_of_setup():
    setup = (ROOT / "setup.py").read_text()
    required = setup[setup.index("install_requires=[") : setup.index("extras_require")]
    for distribution, (_, oldest) in machine.REQUIRED.items():
        wanted = "numpy<2" if distribution == "numpy" else f"{distribution}{oldest and '>=' + oldest}"
        assert f'"{wanted}"' in required
    assert required.count('        "') == len(machine.REQUIRED) + 1  # and mindspore
    assert f'"mindspore>={framework.OLDEST}"' in required
    assert 'python_requires=">=3.9,<3.13"' in setup
    assert machine.PYTHON == ((3, 9), (3, 13))


def test_ascend(tmp_path, monkeypatch):
    for variable in machine.CANN_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert machine.driver(tmp_path).value == "none, no NPU"
    assert machine.cann(tmp_path).status == OK
    (tmp_path / "dev").mkdir()
    for device in ("davinci0", "davinci1", "davinci_manager"):
        (tmp_path / "dev" / device).touch()
    assert machine.cann(tmp_path).status == WRONG
    assert machine.driver(tmp_path).value == "2 NPUs, version not found"
    toolkit = tmp_path / "usr/local/Ascend/ascend-toolkit/latest"
    (toolkit / "compiler").mkdir(parents=True)
    (toolkit / "compiler" / "version.info").write_text("Version=8.2.0.0.201\nversion_dir=8.2.RC1\n")
    (tmp_path / "usr/local/Ascend/driver").mkdir()
    (tmp_path / "usr/local/Ascend/driver/version.info").write_text("Version=25.2.0\nascendhal_version=7.35.23\n")
    assert machine.driver(tmp_path).value == "25.2.0, 2 NPUs"
    assert machine.cann(tmp_path).status == WRONG
    assert "set_env.sh" in machine.cann(tmp_path).advice
    monkeypatch.setenv("ASCEND_HOME_PATH", str(toolkit))
    assert machine.cann(tmp_path) == Finding("CANN", f"8.2.0.0.201 in {toolkit}")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "gone"))
    assert "which is not there" in machine.cann(tmp_path).value


def test_memory_of_a_container(tmp_path):
    assert machine.memory(tmp_path).value == "not known on this system"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: 8000000 kB\nX\n"[:-2])
    assert machine.memory(tmp_path).value == "8.2 GB free of 16.4 GB"
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("4000000000\n")
    assert machine.memory(tmp_path).value.endswith("this container may use 4.0 GB")


def test_compile_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("MS_COMPILER_CACHE_PATH", raising=False)
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "0")
    assert caches.compile_cache().status == OK
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "yes")
    assert caches.compile_cache().status == WRONG
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    assert (caches.compile_cache().status, str(tmp_path) in caches.compile_cache().value) == (NOTE, True)
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path / "new"))
    assert caches.compile_cache() == Finding("compile cache", f"on, in {tmp_path}/new/rank_0/graph_cache")
    (tmp_path / "file").touch()
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path / "file"))
    assert caches.compile_cache().status == WRONG
    assert "MS_COMPILER_CACHE_PATH" in caches.compile_cache().advice
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_hub_cache(monkeypatch, tmp_path):
    from huggingface_hub import constants

    (tmp_path / "hub" / "models--owner--name").mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "1 model, " in caches.hub_cache().value
    assert caches.hub_cache().value.endswith("offline (HF_HUB_OFFLINE)")
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    assert caches.hub_cache().status == WRONG


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


# what happened to a model folder -> the component that is wrong, and what is said of it
DAMAGE = {
    "a folder is missing": (lambda m: shutil.rmtree(m / "vqvae"), "vqvae", "is not there"),
    "a download was cut": (
        lambda m: cut(m / "transformer" / "diffusion_pytorch_model.safetensors"),
        "transformer",
        "diffusion_pytorch_model.safetensors",
    ),
    "no weights": (lambda m: (m / "text_encoder" / "model.safetensors").unlink(), "text_encoder", "holds no weights"),
    "a shard is missing": (
        lambda m: (m / "text_encoder" / "model.safetensors").rename(
            m / "text_encoder" / "model-00001-of-00002.safetensors"
        ),
        "text_encoder",
        "1 of 2 shards",
    ),
    "no config": (lambda m: (m / "vqvae" / "config.json").unlink(), "vqvae", "config.json does not exist"),
    "no merges": (lambda m: (m / "tokenizer" / "merges.txt").unlink(), "tokenizer", "merges.txt"),
    "a config of another class": (
        lambda m: (m / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}'),
        "scheduler",
        "DDIMScheduler",
    ),
    "half an index": (lambda m: cut(m / "model_index.json"), "model", "not readable as JSON"),
    "another pipeline": (
        lambda m: (m / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}'),
        "model",
        "StableDiffusionPipeline",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_model_folder(what, tmp_path):
    damage, name, said = DAMAGE[what]
    shutil.copytree(MODEL, tmp_path / "model")
    damage(tmp_path / "model")
    wrong = [finding for finding in check_model(tmp_path / "model") if finding.status == WRONG]
    assert [finding.name for finding in wrong] == [name]
    assert said in wrong[0].value
    assert wrong[0].advice


def test_whole_model_folders():
    found = list(check_model(MODEL))
    assert {finding.status for finding in found} == {OK}
    assert "tensors of float" in next(finding.value for finding in found if finding.name == "transformer")
    assert check_bundled() == Finding("bundled model", "complete")
    assert next(check_model(MODEL / "no such folder")).status == WRONG


def test_nobody_is_named(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setattr("getpass.getuser", lambda: "anna")
    text = anonymous("/home/anna/models /home/bert/x /data/anna/y /home/anna C:\\Users\\anna\\z /home/annabel banana")
    assert text == "~/models /home/<user>/x /data/<user>/y ~ C:\\Users\\<user>\\z /home/<user> banana"
    assert "anna" not in as_text("", [Finding("x", "/home/anna/a", NOTE, "see /home/anna/b")])


def test_the_exit_code_and_the_order(monkeypatch, capsys):
    found = {"good": Finding("good", "1"), "bad": Finding("bad", "2", WRONG, "mend it")}
    monkeypatch.setattr(doctor, "checks", lambda model: {name: lambda name=name: found[name] for name in found})
    assert doctor.main([]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  ok     good  1",
        "  WRONG  bad   2 - mend it",
        "1 thing is wrong.",
    ]
    assert doctor.main(["--json"]) == 1
    assert json.loads(capsys.readouterr().out)["wrong"] == 1
    del found["bad"]
    monkeypatch.setattr(doctor, "checks", lambda model: {"good": lambda: found["good"]})
    assert doctor.main([]) == 0
    assert capsys.readouterr().out.endswith("Nothing is wrong.\n")
