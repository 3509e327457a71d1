"""docker/: what can be checked of its files without a container engine, and their steps in a fresh environment."""

import json
import os
import re
import runpy
import shutil
import string
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from packaging.specifiers import SpecifierSet
from PIL import Image, ImageChops

import mindone_vq

ROOT = Path(mindone_vq.__file__).parents[1]
FILES = {name: ROOT / "docker" / f"Dockerfile.{name}" for name in ("cpu", "ascend")}
SYSTEM = ("apt-get", "useradd")  # steps that change the system around the environment
CACHE = "PIP_NO_CACHE_DIR"


def instructions(name):
    """The instructions of a Dockerfile with the defaults of its arguments: [("RUN", "pip ..."), ...]."""
    lines = [line for line in FILES[name].read_text().splitlines() if not line.startswith("#")]
    found, arguments = [], {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction, rest = line.split(maxsplit=1)
        rest = string.Template(rest).safe_substitute(arguments)
        found.append((instruction, rest))
        if instruction == "ARG":
            argument, default = rest.split("=", 1)
            arguments[argument] = default
    return found


def all_of(name, instruction):
    return [rest for each, rest in instructions(name) if each == instruction]


@pytest.fixture(scope="module")
def package():
    """The arguments of setup()."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", given.update)
        patch.chdir(ROOT)
        runpy.run_path(str(ROOT / "setup.py"))
    return given


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_exists_and_is_not_ignored(name):
    first, *allowed = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"
    sources = [source for line in all_of(name, "COPY") for source in line.split()[:-1]]
    assert {"setup.py", "README.md", "mindone_vq", "examples"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in allowed


@pytest.mark.parametrize("name, extras", [("cpu", {"cpu", "train"}), ("ascend", {"train"})])
def test_the_extras_exist_and_keep_the_mindspore_of_an_image(name, extras, package):
    (install,) = (line for line in all_of(name, "RUN") if "pip install" in line)
    assert set(re.search(r'"\.\[(.*)\]"', install).group(1).split(",")) == extras
    required = {extra: package["extras_require"][extra] for extra in extras}
    pins = [line for lines in required.values() for line in lines if line.startswith("mindspore")]
    assert len(pins) == (name == "cpu")


def test_the_images_are_those_of_the_arguments(package):
    (image,) = all_of("cpu", "FROM")
    version = re.fullmatch(r"python:([\d.]+)-slim", image).group(1)
    assert SpecifierSet(package["python_requires"]).contains(f"{version}.1")
    (image,) = all_of("ascend", "FROM")
    (minimum,) = (line for line in package["install_requires"] if line.startswith("mindspore"))
    assert SpecifierSet(minimum.removeprefix("mindspore")).contains(image.rsplit(":")[-1])
    assert f"| `{image}`, the default [1] |" in (ROOT / "docker/README.md").read_text()


def test_no_container_on_a_cpu_runs_as_root():
    kinds = [instruction for instruction, _ in instructions("cpu")]
    assert all_of("cpu", "USER") == ["user"]
    assert "RUN" not in kinds[kinds.index("USER") :]
    folder = next(line.partition("=")[2] for line in all_of("cpu", "ENV") if line.startswith("MINDONE_VQ_GRAPHS="))
    assert folder in all_of("cpu", "VOLUME")
    assert any("install -d -o user" in line and folder in line.split() for line in all_of("cpu", "RUN"))


@pytest.mark.parametrize("name", FILES)
def test_the_commands_of_the_readme_name_what_is_there(name):
    text = (ROOT / "docker/README.md").read_text()
    assert f"docker build -f docker/Dockerfile.{name} " in text
    arguments = {line.split("=")[0] for each in FILES for line in all_of(each, "ARG")}
    assert set(re.findall(r"--build-arg (\w+)=", text)) == arguments
    for script in re.findall(r"/opt/\S+\.py", text + "".join(all_of(name, "CMD"))):
        assert (ROOT / Path(script).relative_to("/opt/mindone_vq")).is_file()


class Container:
    """A folder in which the instructions of Dockerfiles are run, with a virtual environment of its own."""

    def __init__(self, root):
        self.root, self.place = root, root
        root.mkdir()
        subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)
        self.environment = {**os.environ, "PATH": f"{root / 'venv/bin'}{os.pathsep}{os.environ['PATH']}"}
        self.environment.pop("PYTHONPATH", None)

    def inside(self, path):
        return self.root / path.lstrip("/") if path.startswith("/") else self.place / path

    def run(self, command, **options):
        return subprocess.run(
            command, cwd=self.place, env=self.environment, capture_output=True, text=True, timeout=1800, **options
        )

    def build(self, name):
        """Every instruction but those of ``SYSTEM``; returns the result of the command that the image runs."""
        for instruction, rest in instructions(name):
            if instruction == "WORKDIR":
                self.place = self.inside(rest)
                self.place.mkdir(parents=True, exist_ok=True)
            elif instruction == "COPY":
                *sources, target = rest.split()
                for source in sources:
                    self.copy(ROOT / source, self.inside(target) / (source if target == "./" else ""))
            elif instruction == "ENV" and not rest.startswith(CACHE):
                variable, value = rest.split("=", 1)
                self.environment[variable] = str(self.inside(value))
            elif instruction == "RUN" and not rest.startswith(SYSTEM):
                result = self.run(rest, shell=True)
                assert result.returncode == 0, result.stdout + result.stderr
        words = [str(self.inside(word)) if word.startswith("/") else word for word in json.loads(rest)]
        return self.run(words)

    @staticmethod
    def copy(source, target):
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


@pytest.mark.slow
def test_the_steps_make_a_picture_and_the_second_image_keeps_mindspore(tmp_path):
    container = Container(tmp_path / "container")
    result = container.build("cpu")
    assert result.returncode == 0, result.stdout + result.stderr
    assert list((container.root / "graphs").glob("*.mindir"))
    example = ROOT / "examples/text_to_image.py"
    command = [sys.executable, example, "a large red circle on a white background", "--output", tmp_path / "own.png"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=600)
    drawn = Image.open(container.place / "outputs/text_to_image.png")
    assert ImageChops.difference(drawn, Image.open(tmp_path / "own.png")).getbbox() is None

    versions = "python -c \"from importlib.metadata import version; print('mindspore==' + version('mindspore'))\""
    before = container.run(versions, shell=True).stdout
    result = container.build("ascend")  # on top, where pip finds a MindSpore
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith("Problems: none.\n")  # the doctor
    assert container.run(versions, shell=True).stdout == before == "mindspore==2.8.0\n"
