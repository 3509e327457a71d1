"""Dependencies point one way."""

import ast
from pathlib import Path

import mindone_vq

ROOT = Path(mindone_vq.__file__).parent
# room -> the rooms it may import from
ALLOWED = {
    "outputs": set(),
    "pictures": set(),
    "nn": set(),
    "weights": {"nn"},
    "diffusion": {"outputs", "weights"},
    "text": {"outputs", "nn", "weights"},
    "models": {"outputs", "nn", "weights"},
    "pipelines": {"outputs", "diffusion", "text", "models", "weights", "__version__"},
    "training": {"outputs", "pictures", "nn", "weights", "diffusion", "text", "models", "pipelines"},
    "conversion": {"outputs", "weights", "pipelines"},  # and the package's public names
    "demo": set(),
}
ONLY_IN = {
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


def test_every_room_imports_only_from_those_below():
    rooms = {path.name.removesuffix(".py") for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert rooms - {"__init__", "__pycache__", "py.typed", "__main__"} == set(ALLOWED)
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        for module in imports(path):
            if module.startswith("mindone_vq."):
                imported = module.split(".")[1]
                assert imported == room or imported in ALLOWED[room], f"{path} imports {module}"


def test_no_other_framework_is_imported():
    for path in ROOT.rglob("*.py"):
        for module in imports(path):
            package = module.split(".")[0]
            if package in ONLY_IN:
                assert str(path.relative_to(ROOT)) in ONLY_IN[package], f"{path} imports {module}"
