"""--profile: a trace of steps, and nothing else changes."""

import contextlib
import importlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest

import mindone_vq
from mindone_vq import (
    ClassToImagePipeline,
    ClassTransformer2DModel,
    UnconditionalPipeline,
    UnconditionalTransformer2DModel,
    VQDiffusionImg2ImgPipeline,
    VQDiffusionInpaintPipeline,
    VQDiffusionPipeline,
)
from mindone_vq.profiling import traced
from tests.tiny_pipeline import random_pipeline
from tests.training import tiny_runs as tiny

EXAMPLES = Path(mindone_vq.__file__).parents[1] / "examples"
PROMPT, SIZE = "a large red circle", dict(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=6)


@pytest.fixture(scope="module")
def pipes():
    """One of each kind, by its class."""
    text = random_pipeline(np.random.default_rng(0))
    size = dict(**SIZE, num_vector_embeds=13, num_embeds_ada_norm=10)
    classes = ClassTransformer2DModel(**size, num_class_embeds=7)
    return {
        ClassToImagePipeline: ClassToImagePipeline(text.vqvae, classes, text.scheduler),
        UnconditionalPipeline: UnconditionalPipeline(
            text.vqvae, UnconditionalTransformer2DModel(**size), text.scheduler
        ),
        **{
            kind: kind.from_pipe(text)
            for kind in (VQDiffusionPipeline, VQDiffusionInpaintPipeline, VQDiffusionImg2ImgPipeline)
        },
    }


@pytest.fixture
def compiled():
    """Messages about compilation while a trace was written."""
    return []


@pytest.fixture
def run(pipes, compiled, monkeypatch, caplog):
    """Runs an example in this process with the pipeline of its kind."""
    for kind, pipe in pipes.items():
        monkeypatch.setattr(kind, "from_pretrained", lambda *_, pipe=pipe, **__: pipe)
    monkeypatch.syspath_prepend(EXAMPLES)
    caplog.set_level(logging.INFO, "mindone_vq")

    @contextlib.contextmanager
    def watched(*arguments):
        with traced(*arguments) as step_ended:
            caplog.clear()
            yield step_ended
            compiled.extend(record.message for record in caplog.records if "Compiling" in record.message)

    monkeypatch.setattr(importlib.import_module("common"), "traced", watched)
    return lambda example, *arguments: importlib.import_module(example).main([str(each) for each in arguments])


def steps_in(folder, kernel="CumSum"):
    """How many steps the only trace below ``folder`` holds, of graphs with one such kernel."""
    (path,) = Path(folder).glob("*/ASCEND_PROFILER_OUTPUT/trace_view.json")
    names = [event["name"] for event in json.loads(path.read_text()) if event["ph"] == "X"]
    assert any("Conv2D" in name for name in names)  # of the VQ-VAE
    return max(names.count(name) for name in set(names) if kernel in name)


@pytest.mark.parametrize(
    "example, arguments, steps",
    [
        pytest.param(
            *("text_to_image", [PROMPT, "--guidance-scale", 3, "--num-images", 2, "--filmstrip", "strip.png"], 2),
            marks=pytest.mark.slow,
        ),
        pytest.param("class_to_image", [2, "--model", "m"], 2, marks=pytest.mark.slow),
        pytest.param("unconditional", ["--model", "m"], 2, marks=pytest.mark.slow),
        pytest.param("inpaint", [PROMPT, "--mask-box", 0, 0, 0.5, 1], 2, marks=pytest.mark.slow),
        pytest.param("image_to_image", [PROMPT, "--strengths", 0.5, 1], 3, marks=pytest.mark.slow),
        pytest.param("image_to_image", ["--strengths", 1], 2, marks=pytest.mark.slow),
    ],
)
def test_a_call_is_traced_after_compilation(example, arguments, steps, run, compiled):
    common = (*arguments, "--steps", 2)
    run(example, *common, "--output", "traced.png", "--profile", "new/trace")
    assert compiled == []
    assert steps_in("new/trace") == steps
    run(example, *common, "--output", "alone.png")
    assert Path("traced.png").read_bytes() == Path("alone.png").read_bytes()
    assert len(list(Path("new/trace").iterdir())) == 1


@pytest.mark.slow
def test_one_batch_of_many_is_traced(run, compiled):
    Path("prompts.txt").write_text("stripes\ndots\na cross\n")
    common = ("prompts.txt", "--steps", 2, "--batch-size", 2)
    run("generate_batch", *common, "--output", "traced", "--profile", "trace")
    assert compiled == []
    assert steps_in("trace") == 2
    run("generate_batch", *common, "--output", "alone")
    pictures = sorted(path.name for path in Path("alone/pictures").iterdir())
    assert len(pictures) == 3
    for name in pictures:
        assert Path("traced/pictures", name).read_bytes() == Path("alone/pictures", name).read_bytes()


def test_a_folder_that_cannot_be_written_is_reported_first(run, capsys):
    Path("file").write_text("")
    for folder, message in (("file", "file is a file; give the name of a folder"), ("file/in", "cannot be written")):
        with pytest.raises(OSError, match=message):
            run("text_to_image", PROMPT, "--profile", folder)
        with pytest.raises(OSError, match=message):
            tiny.vqvae_training({"data": "none", "output": Path("run"), "profile": folder})
    assert "Loading" not in capsys.readouterr().out


@pytest.mark.slow
def test_three_steps_of_a_training_are_traced(tmp_path):
    data = tiny.make_pictures(tmp_path / "data")
    settings = tiny.vqvae_settings(data, Path("run"), steps=8, profile="trace")
    with pytest.raises(ValueError, match="profile traces steps 4 to 6, 5 are left: choose more steps"):
        tiny.run(tiny.vqvae_training({**settings, "steps": 5}))
    assert not Path("run").exists()
    traced_run = tiny.run(tiny.vqvae_training(settings))
    assert steps_in("trace", "IsFinite") == 3
    alone = tiny.run(tiny.vqvae_training({**settings, "output": Path("alone"), "profile": ""}))
    assert tiny.same(tiny.weights(traced_run.model), tiny.weights(alone.model))
    assert tiny.column(Path("run"), "loss") == tiny.column(Path("alone"), "loss")
