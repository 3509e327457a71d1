"""The exported files give what the pipeline gives."""

import importlib
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from mindspore.train import serialization
from PIL import Image

import mindone_vq
from mindone_vq import (
    ClassToImagePipeline,
    ClassTransformer2DModel,
    UnconditionalPipeline,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
)
from mindone_vq import UnconditionalTransformer2DModel as UnconditionalTransformer
from mindone_vq.diffusion.options import SamplingOptions
from mindone_vq.diffusion.sample_step import UNKNOWN
from mindone_vq.export import __main__ as command_line
from mindone_vq.export import export_pipeline
from mindone_vq.export.__main__ import main
from mindone_vq.export.graphs import MEANINGS, decoder, graphs_of
from mindone_vq.export.mindir import write_mindir
from mindone_vq.nn.device import TARGETS, built_for, device
from mindone_vq.pipelines.compilation import CompiledGraph
from mindone_vq.pipelines.graphs import CodeDecoding, TextEncoding
from mindone_vq.pipelines.pretrained import PUBLISHED_SETTINGS
from tests.numerics import relative_error
from tests.tiny_pipeline import random_pipeline, random_weights

BATCH, PIXELS, LENGTH, DIM = 2, 36, 12, 24
PROMPTS = ["a large red ring", "a small cyan cross on a black background"]


@pytest.fixture(scope="module")
def pipe():
    pipe = random_pipeline(np.random.default_rng(11))
    pipe.default_settings["guidance_scale"] = 3.0
    return pipe


@pytest.fixture(scope="module")
def exported(pipe, tmp_path_factory):
    """Guided, for two pictures, where the path has what MindSpore takes in no file name."""
    return export_pipeline(pipe, tmp_path_factory.mktemp("a") / "où, here" / "out", BATCH).parent


@pytest.fixture
def host(monkeypatch):
    """The example that generates from the files."""
    monkeypatch.syspath_prepend(str(Path(mindone_vq.__file__).parents[1] / "examples"))
    return importlib.import_module("run_exported")


def load(folder, name):
    about = json.loads((folder / "pipeline.json").read_text())
    return nn.GraphCell(ms.load(str(folder / about["graphs"][name]["file"])))


def step_inputs(pipe, rng, context, guided=True, timestep=4):
    """What the exported step of ``pipe`` takes; no ``context`` for a pipeline without a condition."""
    codes = Tensor(rng.integers(0, pipe.transformer.num_vector_embeds, (BATCH, PIXELS)).astype(np.int32))
    coefficients = Tensor(pipe.scheduler.schedule.transition_coefficients(timestep, timestep - 1))
    scale = [Tensor([2.5], ms.float32)] if guided else []
    uniforms = Tensor(rng.random((BATCH, PIXELS), dtype=np.float32))
    front = [codes, Tensor([timestep], ms.int32), *context, coefficients]
    return [*front, *scale, Tensor([0.9], ms.float32), uniforms]


def as_in_the_pipeline(pipe, inputs, *conditions, timestep=4):
    """x_s from the pipeline's own step, for the x_t and the uniforms of ``inputs``."""
    options = SamplingOptions(guidance_scale=2.5, truncation_rate=0.9)
    conditioning = pipe.denoiser.condition(*conditions)
    step = next(step for step in pipe.scheduler.steps(10) if step.t == timestep)
    x_t, uniforms = inputs[0], inputs[-1].asnumpy()[None]
    nothing_known = np.full((1, BATCH, PIXELS), UNKNOWN, np.int32)
    return pipe.denoiser.step(conditioning, options)(x_t, [step], uniforms[None], nothing_known).asnumpy()


def test_each_graph_is_the_pipelines(pipe, exported, rng):
    ids = Tensor(rng.integers(0, pipe.tokenizer.vocab_size, (BATCH, LENGTH)).astype(np.int32))
    encoded = CompiledGraph(TextEncoding(pipe.text_encoder), "text encoder")(ids)
    assert relative_error(load(exported, "text_encoder")(ids), encoded) < 1e-5

    codes = Tensor(rng.integers(0, 12, (BATCH, PIXELS)).astype(np.int32))
    pictures = CompiledGraph(CodeDecoding(pipe.vqvae, 6, 6), "decoder")(codes)
    assert relative_error(load(exported, "decoder")(codes), pictures) < 1e-5

    null, text = rng.normal(size=(2, BATCH, LENGTH, DIM)).astype(np.float32)
    context = load(exported, "context")(Tensor(np.concatenate((null, text))))
    inputs = step_inputs(pipe, rng, [context])
    assert (load(exported, "denoising_step")(*inputs).asnumpy() == as_in_the_pipeline(pipe, inputs, text, null)).all()


def test_a_generation_from_the_files_is_the_pipelines(pipe, exported, host):
    files = host.Exported(exported)
    assert files.about["default_settings"] == {**PUBLISHED_SETTINGS, "guidance_scale": 3.0}
    for steps, rate in ((4, 0.8), (10, 1.0)):
        options = dict(num_inference_steps=steps, truncation_rate=rate, generator=[7, 8])
        expected = pipe(PROMPTS, output_type="latent", **options)[0].asnumpy()
        assert (files.codes(PROMPTS, steps, 7, 3.0, rate) == expected).all()
    assert np.abs(files.graphs["decoder"](expected) - pipe.decode_latents(Tensor(expected), "np")).max() < 1e-5
    assert len(np.unique(expected)) > 4  # codes that could differ


def test_the_example_writes_a_picture_for_each_prompt(exported, host, tmp_path):
    host.main([str(exported), PROMPTS[0], "--steps", "2", "--output", "one.png"])
    host.main([str(exported), *PROMPTS, "--steps", "2", "--output", "two.png"])
    one, two = Image.open(tmp_path / "one.png"), Image.open(tmp_path / "two.png")
    assert one.width == one.height
    assert two.height > 2 * one.height
    with pytest.raises(ValueError, match="3 prompts given; the files are for 2"):
        host.main([str(exported), *PROMPTS, "a third"])


@pytest.mark.slow
def test_without_guidance_and_in_float16_too(host, tmp_path):
    pipe = random_pipeline(np.random.default_rng(3), learned_null=False).to(ms.float16)
    files = host.Exported(export_pipeline(pipe, tmp_path / "out", 1, guided=False).parent)
    names = [entry["name"] for entry in files.about["graphs"]["denoising_step"]["inputs"]]
    assert files.about["dtype"] == "float16" and "guidance_scale" not in names
    expected = pipe(PROMPTS[0], 5, guidance_scale=1.0, generator=[2], output_type="latent")[0].asnumpy()
    assert (files.codes(PROMPTS[:1], 5, 2, 1.0, 1.0) == expected).all()


@pytest.mark.slow
def test_a_student_starts_from_random_codes(pipe, host, tmp_path):
    scheduler = VQDiffusionScheduler.from_config(pipe.scheduler.config, num_start_codes=2)
    student = VQDiffusionPipeline.from_pipe(pipe, scheduler=scheduler)
    files = host.Exported(export_pipeline(student, tmp_path / "out", BATCH, guided=False).parent)
    options = dict(guidance_scale=1.0, generator=[2, 3], output_type="latent")
    expected = student(PROMPTS, 3, **options)[0].asnumpy()
    assert (files.codes(PROMPTS, 3, 2, 1.0, 1.0) == expected).all()
    assert not (pipe(PROMPTS, 3, **options)[0].asnumpy() == expected).all()


def test_the_description_is_of_these_files(pipe, exported):
    about = json.loads((exported / "pipeline.json").read_text())
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    graphs = ("text_encoder", "context", "denoising_step", "decoder")
    tokenizer = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
    constants = {"null_text.npy", "timesteps.npy", "transition_coefficients.npy", "pipeline.json"}
    assert files == {f"{name}.mindir" for name in graphs} | {f"tokenizer/{name}" for name in tokenizer} | constants
    assert [entry["name"] for entry in about["graphs"]["denoising_step"]["inputs"]] == (
        ["x_t", "timestep", "context", "coefficients", "guidance_scale", "truncation_rate", "uniforms"]
    )
    inputs = [entry for graph in about["graphs"].values() for entry in graph["inputs"]]
    assert all(entry["meaning"] == MEANINGS[entry["name"]] for entry in inputs)
    shapes = {entry["name"]: entry["shape"] for entry in inputs}
    assert (shapes["condition"], shapes["context"]) == ([2 * BATCH, LENGTH, DIM], [2 * BATCH, 2, 2, LENGTH, 10])
    assert shapes["guidance_scale"] == [1]
    assert about["graphs"]["decoder"]["output"]["shape"] == [BATCH, 12, 12, 3]
    learned = pipe.learned_classifier_free_sampling_embeddings.embeddings.asnumpy()
    assert (np.load(exported / "null_text.npy") == learned).all()
    assert all((exported / name).stat().st_mode & stat.S_IWUSR for name in files)


def test_steps_of_every_number(pipe, exported):
    timesteps, coefficients = np.load(exported / "timesteps.npy"), np.load(exported / "transition_coefficients.npy")
    for n in range(1, 11):
        steps = pipe.scheduler.steps(n)
        assert timesteps[n - 1, : n + 1].tolist() == [*(step.t for step in steps), -1]
        assert all((coefficients[step.t, step.s + 1] == step.parameters).all() for step in steps)


def test_large_weights_lie_beside_their_graph_and_move_with_it(pipe, tmp_path, monkeypatch, rng):
    monkeypatch.setattr(serialization, "TOTAL_SAVE", 1)  # kilobytes
    monkeypatch.setattr(serialization, "PARAMETER_SPLIT_SIZE", 1)
    (tmp_path / "one").mkdir()
    described = write_mindir(decoder(pipe, BATCH), tmp_path / "one")
    assert described["file"] == "decoder_graph.mindir"
    assert len(list((tmp_path / "one" / "decoder_variables").iterdir())) > 1
    shutil.move(tmp_path / "one", tmp_path / "two")
    codes = Tensor(rng.integers(0, 12, (BATCH, PIXELS)).astype(np.int32))
    pictures = nn.GraphCell(ms.load(str(tmp_path / "two" / described["file"])))(codes)
    assert relative_error(pictures, CompiledGraph(CodeDecoding(pipe.vqvae, 6, 6), "decoder")(codes)) < 1e-5


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_mindspore_and_the_folder_are_left_as_they_were(pipe, tmp_path, mode):
    before = ms.get_context("mode"), ms.get_context("jit_syntax_level")
    (tmp_path / "out").mkdir()
    try:
        ms.set_context(mode=mode, jit_syntax_level=ms.LAX)
        write_mindir(decoder(pipe, 1), tmp_path / "out")
        assert (ms.get_context("mode"), ms.get_context("jit_syntax_level")) == (mode, ms.LAX)
    finally:
        ms.set_context(mode=before[0], jit_syntax_level=before[1])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["decoder.mindir"]


def test_a_failed_export_leaves_what_was_there(pipe, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(serialization, "_save_mindir_together", fail)
    before = ms.get_context("jit_syntax_level")
    ms.set_context(jit_syntax_level=ms.LAX)
    try:
        with pytest.raises(OSError, match="no space left"):
            export_pipeline(pipe, tmp_path / "new", 1)
        assert ms.get_context("jit_syntax_level") == ms.LAX
    finally:
        ms.set_context(jit_syntax_level=before)
    assert not list(tmp_path.iterdir())
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kept").touch()
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_pipeline(pipe, tmp_path / "old", 1)
    with pytest.raises(OSError, match="no space left"):
        export_pipeline(pipe, tmp_path / "old", 1, overwrite=True)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["old", "old/kept"]


def sibling(kind, network, pipe, rng, **options):
    size = dict(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=6, num_vector_embeds=13)
    transformer = network(**size, num_embeds_ada_norm=10, **options)
    return kind(pipe.vqvae, random_weights(transformer, rng, 0.3), pipe.scheduler)


@pytest.mark.slow
def test_pipelines_of_classes_and_of_nothing(pipe, tmp_path, rng):
    classes = sibling(ClassToImagePipeline, ClassTransformer2DModel, pipe, rng, num_class_embeds=7)
    classes.save_pretrained(tmp_path / "model")
    main([str(tmp_path / "model"), "--output", "classes", "--batch-size", "2"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes", "model"]
    folder = tmp_path / "classes"
    about = json.loads((folder / "pipeline.json").read_text())
    assert (about["null_class"], set(about["graphs"])) == (6, {"context", "denoising_step", "decoder"})
    labels = np.array([6, 6, 0, 3], np.int32)
    inputs = step_inputs(classes, rng, [load(folder, "context")(Tensor(labels))])
    expected = as_in_the_pipeline(classes, inputs, labels[2:], labels[:2])
    assert (load(folder, "denoising_step")(*inputs).asnumpy() == expected).all()

    nothing = sibling(UnconditionalPipeline, UnconditionalTransformer, pipe, rng)
    graph = graphs_of(nothing, 2, guided=False)[0]
    described = write_mindir(graph, tmp_path)
    inputs = step_inputs(nothing, rng, [], guided=False)
    step = nn.GraphCell(ms.load(str(tmp_path / described["file"])))
    assert (step(*inputs).asnumpy() == as_in_the_pipeline(nothing, inputs, np.zeros(2))).all()
    with pytest.raises(ValueError, match="nothing to guide"):
        export_pipeline(nothing, tmp_path / "out", 2)


def test_what_cannot_be_exported_says_why(pipe, tmp_path):
    with pytest.raises(TypeError, match="pipe is a VQModel"):
        export_pipeline(pipe.vqvae, tmp_path / "out", 1)
    with pytest.raises(ValueError, match="batch_size is 0"):
        export_pipeline(pipe, tmp_path / "out", 0)
    other = random_pipeline(np.random.default_rng(1))
    other.__dict__["text_encoder"] = lambda ids: ids  # as mindnlp's, which is no cell of ours
    with pytest.raises(TypeError, match="text_encoder is a function"):
        export_pipeline(other, tmp_path / "out", 1)
    with pytest.raises(ValueError, match="BFloat16; export it in float32 or float16"):
        export_pipeline(other.to(ms.bfloat16), tmp_path / "out", 1)
    assert not list(tmp_path.iterdir())


def test_the_command(pipe, tmp_path, capsys, monkeypatch):
    pipe.save_pretrained(tmp_path / "model")
    given = []
    monkeypatch.setattr(command_line, "export_pipeline", lambda *them: given.extend([*them, device()]) or "out/it")
    options = ["--output", "out", "--batch-size", "3", "--unguided", "--dtype", "float16", "--overwrite"]
    main([str(tmp_path / "model"), *options, "--for", "Ascend"])
    assert (given[0].dtype, *given[1:]) == (ms.float16, Path("out"), 3, False, True, "Ascend")
    assert "Wrote out/it" in capsys.readouterr().out
    command = [sys.executable, "-m", "mindone_vq.export", "no/such", "--output", "out2"]
    root = Path(mindone_vq.__file__).parents[1]
    result = subprocess.run(command, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120)
    assert (result.returncode, "Traceback" in result.stderr) == (1, False)
    assert result.stderr.splitlines()[-1].startswith("FileNotFoundError: no/such")


def test_files_for_an_npu_have_its_form(tmp_path):
    random_pipeline(np.random.default_rng(2)).save_pretrained(tmp_path / "model")
    held = {}
    for target in TARGETS:
        with built_for(target):
            pipe = mindone_vq.VQDiffusionPipeline.from_pretrained(tmp_path / "model", mindspore_dtype=ms.float16)
            graphs = {graph.name: graph for graph in graphs_of(pipe, 1, guided=True)}
        write_mindir(graphs["denoising_step"], tmp_path)
        held[target] = (tmp_path / "denoising_step.mindir").read_bytes()
    assert b"FlashAttentionScore" in held["Ascend"] and b"FlashAttentionScore" not in held["CPU"]
