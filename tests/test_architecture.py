"""Dependencies point one way."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mindone_vq

ROOT = Path(mindone_vq.__file__).parent
# package -> the packages it may import from
ALLOWED = {
    "outputs": set(),
    "pictures": set(),
    "nn": set(),
    "weights": {"nn"},
    "profiling": set(),
    "diffusion": {"outputs", "nn", "weights"},
    "text": {"outputs", "nn", "weights"},
    "models": {"outputs", "nn", "weights"},
    "pipelines": {"outputs", "pictures", "nn", "diffusion", "text", "models", "weights", "__version__"},
    "training": {"outputs", "pictures", "profiling", "nn", "weights", "diffusion", "text", "models", "pipelines"},
    "conversion": {"outputs", "weights", "pipelines"},  # and the package's public names
    "export": {
        "nn",
        "outputs",
        "diffusion",
        "text",
        "models",
        "weights",
        "pipelines",
    },  # and the package's public names
    "batch": {"text", "weights", "pipelines"},
    "demo": {"pictures", "models", "pipelines"},
    "serving": {"batch", "demo", "diffusion", "pictures", "pipelines", "weights"},  # and public names
    "findings": set(),
    "device_check": {"findings", "pictures", "nn", "weights", "diffusion", "training", "demo"},  # and public names
    "doctor": {"findings", "device_check", "weights", "pipelines", "demo", "__version__"},  # and public names
}
ONLY_IN = {
    "ray": {"serving/deployment.py"},
    "fastapi": {"serving/api.py", "serving/deployment.py"},
    "gradio": set(),
    "torch": {"conversion/verify.py"},  # for --verify alone
    "mindnlp": {"text/foreign.py"},
    "mindtorch": {"text/foreign.py"},
    "diffusers": {"conversion/verify.py"},
    "transformers": {"conversion/verify.py"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module


def test_every_package_imports_only_from_those_below():
    packages = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert packages - {"__init__", "__pycache__", "py.typed", "__main__"} == set(ALLOWED)
    for path in ROOT.rglob("*.py"):
        package = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if package in ("__init__", "__main__"):
            continue
        for module in imports(path):
            if module.startswith("mindone_vq."):
                imported = module.split(".")[1]
                assert imported == package or imported in ALLOWED[package], f"{path} imports {module}"


def test_the_package_and_the_doctor_start_without_mindspore():
    started = "import mindone_vq, mindone_vq.doctor, sys; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    command = [sys.executable, "-c", started]
    modules = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert "mindone_vq.doctor" in modules
    assert not {"mindspore", "numpy", "huggingface_hub"} & set(modules)


def test_every_public_name_is_found_where_it_is_said_to_be():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (for_type_checkers,) = [node for node in tree.body if isinstance(node, ast.If)]
    declared = {alias.name: node.module for node in for_type_checkers.body for alias in node.names}
    assert declared == mindone_vq._MODULE_OF
    assert set(declared) == set(mindone_vq.__all__) <= set(dir(mindone_vq))
    for name, module in declared.items():
        assert getattr(mindone_vq, name).__module__ == module
    with pytest.raises(ImportError, match="cannot import name 'VQDiffuser'"):
        from mindone_vq import VQDiffuser  # noqa: F401


def test_no_other_framework_is_imported():
    for path in ROOT.rglob("*.py"):
        for module in imports(path):
            package = module.split(".")[0]
            if package in ONLY_IN:
                assert str(path.relative_to(ROOT)) in ONLY_IN[package], f"{path} imports {module}"
