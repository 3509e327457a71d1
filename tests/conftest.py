import os
import shutil
import tempfile
from importlib.util import find_spec

# Idle threads of OpenMP spin by default, on the cores that the other processes of the suite need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Compiled graphs are kept from test to test, by all processes of a run, which inherit the variable.
os.environ.setdefault("MINDONE_VQ_GRAPHS", os.path.join(tempfile.gettempdir(), f"mindone_vq_graphs_of_{os.getpid()}"))

import numpy as np
import pytest

from mindone_vq import VQDiffusionPipeline
from tests.shapes32_model import MODEL

# Tested in an environment of its own, with the extra [web]; CI has it.
collect_ignore = [] if find_spec("gradio") else ["test_web.py"]


def pytest_sessionfinish():
    folder = os.environ["MINDONE_VQ_GRAPHS"]
    if folder.endswith(f"_of_{os.getpid()}"):  # this process began the run
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """MindSpore may drop files where it runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def rng(request):
    """Random numbers that differ from test to test and are the same every time."""
    return np.random.default_rng(sum(request.node.nodeid.encode()))


@pytest.fixture(scope="session")
def demo_pipe():
    """The bundled pipeline; tests that exchange parts make a new one of its components."""
    pipe = VQDiffusionPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe
