"""Trainings that take seconds: eight small pictures, models of a few kilobytes, and the examples on them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

import mindone_vq
from mindone_vq import VQModel
from mindone_vq.training.devices import Devices
from mindone_vq.training.text_to_image.training import TextToImageSettings, TextToImageTraining
from mindone_vq.training.vqvae.training import VQVAESettings, VQVAETraining
from tests.tiny_pipeline import random_weights

ROOT = Path(mindone_vq.__file__).parents[1]
VQVAE_EXAMPLE, TEXT_EXAMPLE = "train_vqvae.py", "train_text_to_image.py"
TIMEOUT = 600  # seconds; much more than a run takes, where others use the machine, too
SIDE = 8  # pixels; 4 x 4 codes
CAPTIONS = [f"{what} on {ground}" for what in ("stripes", "dots", "a cross", "waves") for ground in ("red", "blue")]
VQVAE = {
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "latent_channels": 6,
    "norm_num_groups": 4,
    "num_vq_embeddings": 16,
    "mid_block_add_attention": False,
}
TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 1,
    "attention_bias": True,
    "activation_fn": "geglu-approximate",
}
TEXT_ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
TOKENIZER = {"vocab_size": 530, "model_max_length": 12}
# For further terms of the VQ-VAE's loss: pictures of 16 x 16 in the folder "pictures".
VQVAE_RUN = VQVAESettings(
    data="pictures",
    output=Path("run"),
    size=16,
    batch_size=4,
    steps=2,
    warmup_steps=0,
    model=dict(
        block_out_channels=[8],
        norm_num_groups=4,
        latent_channels=4,
        num_vq_embeddings=8,
        mid_block_add_attention=False,
    ),
)
SHORT = {"steps": 6, "batch_size": 8, "warmup_steps": 0, "log_every": 1, "preview_every": 0}


def make_pictures(folder: Path) -> Path:
    """Eight pictures with eight captions, the same every time."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    lines = []
    for i, caption in enumerate(CAPTIONS):
        blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((SIDE, SIDE), Image.NEAREST).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make_vqvae(folder: Path) -> Path:
    """A VQ-VAE that was not trained."""
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    model = random_weights(VQModel(**VQVAE, **blocks, sample_size=SIDE), np.random.default_rng(1), 0.3)
    model.save_pretrained(folder)
    return folder


def vqvae_settings(data: Path, output: Path, **others) -> dict:
    return {"data": str(data), "output": output, "size": SIDE, "model": VQVAE, **SHORT, **others}


def text_settings(data: Path, output: Path, **others) -> dict:
    """With ``vqvae`` or ``model_from`` among the others."""
    settings = {"data": str(data), "output": output, **SHORT, **others}
    if "model_from" in others:
        return settings
    models = {"transformer": TRANSFORMER, "text_encoder": TEXT_ENCODER, "tokenizer": TOKENIZER}
    return {"num_timesteps": 5, **models, **settings}


def vqvae_training(settings: dict) -> VQVAETraining:
    return VQVAETraining(VQVAESettings(**settings), Devices())


def text_training(settings: dict) -> TextToImageTraining:
    return TextToImageTraining(TextToImageSettings(**settings), Devices())


def run(training):
    training.run()
    return training


def example(script: str, settings: dict) -> list[str]:
    """The command that trains with these settings, which are in a file beside the run's folder."""
    config = settings["output"].with_suffix(".yaml")
    config.write_text(yaml.safe_dump({**settings, "output": str(settings["output"])}))
    return [str(ROOT / "examples" / script), "--config", str(config)]


def environment(**others: str) -> dict[str, str]:
    """MindSpore's own warnings, which go to the same stream as a user's one line, are off."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3", **others}


def start(script: str, settings: dict, *options: str) -> subprocess.Popen:
    command = [sys.executable, *example(script, settings), *options]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(script: str, settings: dict, *options: str) -> tuple[int, str]:
    """Exit code and output."""
    process = start(script, settings, *options)
    output, _ = process.communicate(timeout=TIMEOUT)
    return process.returncode, output


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def column(folder: Path, name: str) -> list[float]:
    return [line[name] for line in log(folder)]


def weights(cell) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in cell.get_parameters()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
