"""One small model of each family of microsoft/VQ-Diffusion, for the tests of their conversion."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

import pytest
import torch

from mindone_vq.conversion.convert import read_source
from mindone_vq.conversion.files import read_config
from mindone_vq.conversion.networks import ConversionError
from mindone_vq.conversion.options import Options
from mindone_vq.conversion.original import plan_model
from mindone_vq.conversion.plan import Plan
from mindone_vq.weights.lazy import LazyTensor
from tests.parity.original_files import Original, config_text, diffusion_buffers, text_buffers
from tests.parity.original_networks import PROMPTS, Codec, ConvolutionalDenoiser, Sizes, TextNetworks, padded, under
from tests.parity.peers import randomized

TOLERANCE = 1e-5
NULL_CLASS = 1000  # in the original code, of whatever table


@dataclass
class Recipe:
    """condition: of the denoiser, a key of ``FAMILIES``; codec: arguments of ``Codec.random``."""

    condition: str
    sizes: Sizes
    codec: dict
    average: bool = False
    learned_null: bool = False
    tokenizer: Optional[str] = None
    class_number: Optional[int] = None


COCO = Sizes(codes=20, grid=5, timesteps=14, width=24, heads=3, text=128, table=5)
CLASSES = Sizes(codes=14, table=7, heads=4, classes=1001)
GUMBEL = dict(kind="gumbel", widths=(32, 64), attention=(True, False), latents=(6, 6), full=48, reduced=20)
MAPPED = dict(kind="taming", widths=(32, 64), attention=(False, True), full=40, reduced=14)
THREE_LEVELS = dict(kind="taming", widths=(32, 32, 64), attention=(False, True, False), layers=2)
MODELS = {
    "ithq": Recipe(
        *("text", Sizes(), dict(kind="ema", widths=(32, 64), attention=(False, True))),
        average=True,
        learned_null=True,
        tokenizer="bpe.txt.gz",
    ),
    "coco": Recipe("text", COCO, GUMBEL, tokenizer="bpe.txt"),
    "imagenet": Recipe("classes", CLASSES, MAPPED, average=True, class_number=1000),
    "imagenet without a null class": Recipe("classes", replace(CLASSES, classes=6), MAPPED, class_number=6),
    "ffhq": Recipe("nothing", Sizes(table=5, mlp=2), THREE_LEVELS, average=True),
}


@dataclass
class Made:
    """A model: its networks in PyTorch (``trained``, and ``peer``, the one whose weights count), and its files."""

    recipe: Recipe
    peer: Any
    trained: Any
    original: Original

    @classmethod
    def of(cls, recipe: Recipe) -> "Made":
        condition, sizes = recipe.condition, recipe.sizes

        def network(seed):
            torch.manual_seed(seed)
            if condition == "text":
                return TextNetworks.random(sizes, seed, recipe.learned_null)
            return randomized(ConvolutionalDenoiser(sizes), seed)

        def tensors(network):
            return network.tensors() if condition == "text" else under("transformer.", network.state_dict())

        with torch.no_grad():
            trained = network(1)
            averaged = network(2) if recipe.average else None
            buffers = {**diffusion_buffers(sizes.timesteps), **(text_buffers(sizes) if condition == "text" else {})}
            codec = Codec.random(**recipe.codec)
            config = config_text(sizes, condition, codec, recipe.class_number)
            ema = tensors(averaged) if averaged else None
            original = Original.of(tensors(trained), ema, buffers, codec, config)
        return cls(recipe, averaged or trained, trained, original)

    def options(self, folder: Path, **changes) -> Options:
        codes = folder / "codes.pt" if self.original.codec.map is not None else None
        tokenizer = str(folder / self.recipe.tokenizer) if self.recipe.tokenizer else None
        given = dict(config=folder / "config.yaml", codes=codes, tokenizer=tokenizer)
        return Options(str(folder / "model.pth"), folder.parent / "converted", **{**given, **changes})

    def read(self, folder: Path, **changes) -> Plan:
        """The checked plan of its files, written into ``folder``."""
        self.original.write(folder, self.recipe.tokenizer)
        plan = read_source(self.options(folder, **changes))
        plan.check()
        return plan

    def plan(self, folder: Path, original: Optional[Original] = None, **changes) -> Plan:
        """The same, of ``original`` or its own; the checkpoint itself is not written, which takes most of the time."""
        original, options = original or self.original, self.options(folder, **changes)
        original.write_inputs(folder, self.recipe.tokenizer)
        ema = {} if options.no_ema else lazy(original.ema or {})
        plan = plan_model(lazy(original.model), ema, read_config(options.config), options)
        plan.check()
        return plan

    def log_p_x_0(self, x_t, t, condition):
        """PyTorch's, (batch, codes, pixels); ``condition`` is as of ``condition``."""
        if self.recipe.condition == "text":  # diffusers takes one timestep at a time
            rows = zip(x_t, t, condition)
            return torch.cat([self.peer.transformer(x[None], text[None], step).sample for x, step, text in rows])
        return self.peer(x_t, t, condition)

    def condition(self, null=False):
        """The condition of two pictures."""
        if self.recipe.condition == "text":
            text = self.peer.null_text() if null else self.peer.embedded([padded(ids) for ids in PROMPTS.values()])
            return text.expand(2, -1, -1)
        if self.recipe.condition == "classes":
            return torch.tensor([NULL_CLASS] * 2 if null else [4, 1])
        return None


def lazy(tensors: dict) -> dict:
    return {key: LazyTensor.of(value.numpy()) for key, value in tensors.items()}


@functools.cache
def model(name: str) -> Made:
    """Each is made once."""
    return Made.of(MODELS[name])


def changed(name: str, *changes) -> Original:
    """A model with another config: (old text, new text) of each change."""
    original = model(name).original
    config = original.config
    for old, new in changes:
        assert old in config, old
        config = config.replace(old, new)
    return original.changed(config=config)


def without(name: str, prefix: str = "", suffix: str = "") -> Original:
    """A model without the entries of these names."""
    original = model(name).original
    dropped = {key for key in original.model if key.startswith(prefix) and key.endswith(suffix)}
    assert dropped
    return original.changed(drop=dropped)


def refused(folder: Path, expected: str, name: str = "coco", original: Optional[Original] = None, **options) -> None:
    with pytest.raises(ConversionError, match=expected):
        model(name).plan(folder, original, **options)


def fitted(plan: Plan, folder: str = "vqvae") -> dict:
    return next(component.fitted for component in plan.components if component.folder == folder)


def noisy_codes(sizes: Sizes, rng) -> torch.Tensor:
    x_t = rng.integers(0, sizes.codes + 1, (2, sizes.grid**2))
    x_t[0, ::2] = sizes.codes  # masked
    return torch.tensor(x_t)
