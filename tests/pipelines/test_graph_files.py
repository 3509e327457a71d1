"""Compiled graphs from files: the right one or none."""

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindone_vq.diffusion.samplers import Ancestral, Halton
from mindone_vq.nn.device import built_for
from mindone_vq.nn.linear import Linear
from mindone_vq.pipelines import graph_files
from mindone_vq.pipelines.compilation import CompiledGraph
from mindone_vq.pipelines.denoising import DenoisingSteps
from mindone_vq.pipelines.graphs import CodeDecoding
from mindone_vq.pipelines.prepared import PreparedNetwork
from tests.tiny_pipeline import random_pipeline


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder for graphs."""
    monkeypatch.setenv(graph_files.VARIABLE, str(tmp_path / "graphs"))
    return tmp_path / "graphs"


@pytest.fixture
def written(monkeypatch):
    """The graphs that MindSpore compiled and that were kept, not those that were read."""
    names, keep = [], graph_files._keep
    monkeypatch.setattr(graph_files, "_keep", lambda seen, own: names.append(own.name) or keep(seen, own))
    return names


class Layer(Linear):
    """A small cell of this package, by its name."""

    __module__ = "mindone_vq.nn.linear"

    def __init__(self, value, turns=1):
        super().__init__()
        self.turns = turns
        self.weight = Parameter(Tensor(np.full((3, 3), value, np.float32)), name="weight")

    def construct(self, x):
        for _ in range(self.turns):
            x = super().construct(x, {"weight": self.weight})
        return x


def run(cell, rows=2):
    return CompiledGraph(cell, "layer")(Tensor(np.ones((rows, 3), np.float32))).asnumpy()[0, 0]


def test_a_kept_graph_reads_the_weights_of_the_cell_that_runs(place, written):
    assert run(Layer(1.0)) == 3
    assert run(Layer(2.0)) == 6
    assert len(written) == 1 and len(list(place.glob("*.mindir"))) == 1


def test_weights_may_change_after_a_graph_was_read(place, written):
    run(Layer(1.0))
    cell = Layer(2.0)
    graph, ones = CompiledGraph(cell, "layer"), Tensor(np.ones((2, 3), np.float32))
    for value in (2.0, 5.0):
        cell.weight.copy_(Tensor(np.full((3, 3), value, np.float32)))
        assert graph(ones).asnumpy()[0, 0] == 3 * value
    assert len(written) == 1


def test_other_structure_and_other_shapes_are_other_graphs(place, written):
    assert [run(Layer(1.0)), run(Layer(1.0, turns=2)), run(Layer(1.0), rows=4)] == [3, 9, 3]
    assert len(set(written)) == 3


def test_what_a_graph_is_made_of_is_in_its_fingerprint(monkeypatch):
    def of(pipe, sampler=Ancestral.cell, truncation=None, conditions=2, signature=()):
        cell = DenoisingSteps(pipe.transformer, PreparedNetwork(pipe.transformer), conditions, sampler, truncation)
        return repr(graph_files.description(cell, signature)).replace("), (", "),\n(")

    def made(**changes):
        return random_pipeline(np.random.default_rng(0), **changes)

    pipe = made()
    plain = of(pipe)
    assert of(made()) == plain  # which is that of other objects, with other weights
    ms.set_seed(3)  # which seeds dropout
    assert of(random_pipeline(np.random.default_rng(1))) == plain
    others = [of(pipe, Halton.cell), of(pipe, truncation="rate"), of(pipe, conditions=1), of(pipe, signature=(1,))]
    others += [of(made(layers=2)), of(made().to(ms.float16))]
    with built_for("Ascend"):
        others.append(of(made()))
    pipe.transformer.norm_out.eps = 0.5
    others.append(of(pipe))
    pipe.transformer.transformer_blocks[0].ff.activation = graph_files.folder
    others.append(of(pipe))
    monkeypatch.setattr(graph_files, "_source", lambda: "changed")
    others.append(of(made()))
    assert len({plain, *others}) == 1 + len(others)
    decoders = [graph_files.fingerprint(CodeDecoding(pipe.vqvae, *size), ()) for size in ((6, 6), (4, 9), (6, 6))]
    assert decoders[0] == decoders[2] != decoders[1]


def test_a_damaged_file_is_compiled_anew(place, written):
    run(Layer(1.0))
    (file,) = place.glob("*.mindir")
    for content in (b"", b"no graph", file.read_bytes()[:-100]):
        file.chmod(0o600)
        file.write_bytes(content)
        assert run(Layer(2.0)) == 6


class OfAUser(nn.Cell):
    def construct(self, x):
        return x + 1


def test_only_cells_that_are_known_whole_are_kept(place, written):
    assert run(OfAUser()) == 2
    layer = Layer(1.0)
    layer.activation = lambda x: x
    assert run(layer) == 3
    assert not place.exists() or not list(place.iterdir())


@pytest.mark.parametrize("variable, value", [(graph_files.VARIABLE, "off"), ("MS_COMPILER_CACHE_ENABLE", "0")])
def test_it_can_be_switched_off(variable, value, place, monkeypatch):
    monkeypatch.setenv(variable, value)
    assert graph_files.folder() is None and run(Layer(1.0)) == 3


def test_no_folder_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(graph_files.VARIABLE, str(tmp_path / "file" / "graphs"))
    assert run(Layer(1.0)) == 3


def test_the_oldest_graphs_go(place, written, monkeypatch):
    monkeypatch.setattr(graph_files, "MOST", 2)
    for turns in (1, 2, 3):
        run(Layer(1.0, turns))
    assert {each.name for each in place.glob("*.mindir")} == set(written[1:])


def test_the_streams_stay(place):
    before = sys.stdin, sys.stdout, sys.stderr
    run(Layer(1.0))
    assert (sys.stdin, sys.stdout, sys.stderr) == before


def test_the_variables_and_other_warnings_stay(place, capfd):
    with graph_files.kept(Layer(1.0), ()):
        os.write(2, b"something else\nresource.cc:735] GetCompileCacheResource] forced\n")
    assert capfd.readouterr().err == "something else\n"
    assert "MS_COMPILER_CACHE_PATH" not in os.environ


PROGRAM = """
import numpy as np
from tests.tiny_pipeline import random_pipeline
pipe = random_pipeline(np.random.default_rng(0))
pipe.set_progress_bar_config(disable=True)
print(pipe(["a ring"], 3, generator=0, truncation_rate=0.8, output_type="latent").images.asnumpy().tolist())
"""


def test_the_next_process_compiles_nothing_and_draws_the_same(place, tmp_path):
    times, drawn = [], []
    for _ in range(2):
        root = Path(__file__).parents[2]
        ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=root)
        drawn.append(ran.stdout.splitlines()[-1])
        assert "correctness risks" not in ran.stderr
        times.append(sorted((file.name, file.stat().st_mtime_ns) for file in place.glob("*.mindir")))
    assert drawn[0] == drawn[1] and times[0] == times[1] and len(times[0]) == 3
    assert not [file for file in place.iterdir() if file.suffix != ".mindir"]  # nothing of the processes is left
