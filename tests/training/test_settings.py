"""Settings from defaults, a YAML file and the command line; those of the examples."""

import ast
import dataclasses
import math
import re
import shlex
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from mindone_vq.training.command_line import parse
from mindone_vq.training.settings import REQUIRED, option, save
from mindone_vq.training.text_to_image.pipeline import TextToImageSettings
from mindone_vq.training.vqvae.model import VQVAESettings
from tests.training.tiny_runs import ROOT


@dataclasses.dataclass(frozen=True)
class Run:
    data: str = option(REQUIRED, "where the pictures are")
    steps: int = option(100, "how many steps", minimum=1)
    learning_rate: float = option(1e-4, "largest learning rate", above=0, maximum=1)
    name: str = option("run", "what it is called")
    flip: bool = option(True, "mirror half of the pictures; 50%")
    output: Path = option(Path("out"), "a folder")
    words: tuple[str, ...] = option((), "prompts to show")
    dtype: Literal["float32", "float16"] = option("float32", "type of the weights")
    model: dict[str, Any] = option({"depth": 2, "act": "relu"}, "arguments of the network")


def run(line):
    return parse(Run, shlex.split(line), "Trains.")


def with_file(text, line="d"):
    Path("run.yaml").write_text(text)
    return run(f"{line} --config run.yaml")


def test_the_command_line_replaces_the_file_and_the_file_the_defaults():
    assert run("d") == Run("d") == with_file("")
    settings = with_file("steps: 2\nname: from the file\nmodel: {width: 8}", "d --steps 3 --model.depth 1")
    assert settings == Run("d", steps=3, name="from the file", model={"width": 8, "depth": 1})
    assert with_file("data: elsewhere", "") == Run("elsewhere")
    assert with_file("data: elsewhere", "--no-flip here") == Run("here", flip=False)
    run("d").model["depth"] = 5
    assert run("d").model == {"depth": 2, "act": "relu"}


@pytest.mark.parametrize(
    ("line", "text", "name", "value"),
    [
        ("--steps 7", "steps: 7", "steps", 7),
        ("--learning-rate 1e-3", "learning_rate: 1e-3", "learning_rate", 0.001),
        ("--learning-rate=1", "learning_rate: 1", "learning_rate", 1.0),
        ("--name 12", "name: '12'", "name", "12"),
        ("--no-flip", "flip: false", "flip", False),
        ("--output a/b", "output: a/b", "output", Path("a/b")),
        ("--words a 'b c'", "words: [a, b c]", "words", ("a", "b c")),
        ("--dtype float16", "dtype: float16", "dtype", "float16"),
        ("--model.rate 1e-3 --model.sizes [1,2]", None, "model", dict(depth=2, act="relu", rate=1e-3, sizes=[1, 2])),
        ("--model.act=gelu", "model: {depth: 2, act: gelu}", "model", dict(depth=2, act="gelu")),
    ],
)
def test_each_type_from_the_command_line_and_from_a_file(line, text, name, value):
    for settings in [run(f"d {line}")] + ([with_file(text)] if text else []):
        assert settings == Run("d", **{name: value})
        assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: many", r"run\.yaml: steps is 'many': .*int >= 1"),
        ("steps: 7.5", r"steps is 7\.5: Not of type int >= 1"),
        ("steps: true", r"steps is True"),
        ("steps: null", r"run\.yaml: steps has no value"),
        ("steps: 0", r"run\.yaml: steps is 0: Not of type int >= 1"),
        ("learning_rate: 1.5", r"learning_rate is 1\.5: Not of type float > 0 and <= 1"),
        ("learning_rate: .nan", r"learning_rate is nan"),
        ("name: 3", r"name is 3: .*str"),
        ("flip: 1", r"flip is 1: Value not boolean"),
        ("output: 1", r"output is 1: Not of type Path"),
        ("words: 3", r"words is 3: "),
        ("words: [a, 3]", r"words is \['a', 3\]: "),
        ("dtype: int8", r"dtype is 'int8': .*float16"),
        ("model: 3", r"model is 3: .*dict"),
        ("lerning_rate: 1", r"run\.yaml: there is no setting lerning_rate; did you mean learning_rate\?"),
        ("- steps", r"run\.yaml holds a list, expected lines such as 'name: value'\."),
        ("steps: [", r"run\.yaml is not readable as YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        with_file(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("d --steps many", r'"steps": Not of type int >= 1.*many'),
        ("d --learning-rate 2", r'"learning_rate": Not of type float > 0 and <= 1: 2'),
        ("d --dtype int8", r'"dtype".*float16.*int8'),
        ("d --lerning-rate 0.1", r"--lerning-rate.*did you mean learning_rate\?.*--help lists the options"),
        ("d --step 3", r"--step.*did you mean steps\?"),
        ("d surplus", r"unrecognized arguments: surplus"),
        ("d --steps", r"--steps: expected one argument"),
        ("d --model.depth", r"--model: expected one argument"),
        ("--steps 3", r"No value for DATA; give it on the command line or in --config\."),
    ],
)
def test_a_mistake_on_the_command_line_is_named(line, message):
    with pytest.raises(ValueError, match=message):
        run(line)


def test_a_config_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match=r"--config nowhere\.yaml is not a file; it is looked for in /"):
        run("d --config nowhere.yaml")


def test_help_lists_every_option_with_its_limits_and_default(capsys):
    with pytest.raises(SystemExit) as end:
        run("--help")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "Trains.",
        "data where the pictures are",
        "--config CONFIG",
        "how many steps (type: int >= 1, default: 100)",
        "largest learning rate (type: float > 0 and <= 1, default: 0.0001)",
        "--flip, --no-flip mirror half of the pictures; 50% (type: bool, default: True)",
        "--words [WORDS ...] prompts to show",
        "--dtype {float32,float16} type of the weights",
        "arguments of the network (type: dict[str, Any], default: {'depth': 2, 'act': 'relu'})",
    ):
        assert part in text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(learning_rate=1e-7, flip=False, words=("none", "1e-3"), output=Path("a b/ü: #1"), model={}),
        dict(name="1e-3", output=Path("1"), model={"a": {"b": [1, 2.5, "1e5", "no", None, True]}, "c": 1e-9}),
        dict(name="two\nlines: 'quoted'", learning_rate=math.nextafter(0, 1)),
    ],
)
def test_what_is_saved_is_read_back_equal(changes):
    settings = Run("d", **changes)
    save(settings, Path("deep/run.yaml"))
    assert run("--config deep/run.yaml") == settings
    text = Path("deep/run.yaml").read_text(encoding="utf-8")
    assert "# how many steps\nsteps: 100\n" in text
    assert list(yaml.safe_load(text)) == [field.name for field in dataclasses.fields(Run)]


@pytest.mark.parametrize("name", ["shapes_vqvae", "shapes_vqvae_further", "shapes_text_to_image"])
def test_configs_of_the_examples_are_read(name):
    """As docs/training.md has them: options before and after."""
    kind, options = (VQVAESettings, "--model-from m") if "vqvae" in name else (TextToImageSettings, "--vqvae v")
    config = ROOT / "examples" / "configs" / f"{name}.yaml"
    settings = parse(kind, shlex.split(f"data/grid {options} --config {config} --output outputs/x"), "")
    assert settings.output == Path("outputs/x") and settings.data == "data/grid"
    for key, value in yaml.safe_load(config.read_text()).items():
        assert getattr(settings, key) == (tuple(value) if key == "preview_prompts" else value)


def test_settings_that_do_not_fit_together_are_refused():
    for changes, message in (
        (dict(accumulation=3, batch_size=4), "accumulation is 3: it must divide batch_size, 4"),
        (dict(background="chalk"), "background is 'chalk': choose a colour's name or #rrggbb"),
        (dict(background="#ffffff80"), "background is '#ffffff80'"),
        (dict(device="CPU", precision="bfloat16"), "bfloat16, which MindSpore cannot run on a CPU"),
        (dict(perceptual_weight=0.5), r"perceptual_weight is 0.5, but perceptual_weights is not given"),
        (dict(perceptual_weight=0.5, perceptual_weights="vgg16.pth", size=8), "size is 8.*at least 16"),
        (dict(adversarial_weight=1.0, size=16), "size is 16: with adversarial_weight and 3 disc.*at least 24"),
    ):
        with pytest.raises(ValueError, match=message):
            VQVAESettings("d", **changes)
    VQVAESettings("d", size=8)
    with pytest.raises(ValueError, match=r"neither vqvae nor model_from"):
        TextToImageSettings("d")
    for share, count in ((0.05, 0), (0.9, 4)):
        with pytest.raises(ValueError, match=f"masked_share is {share}: that is {count} pictures of a batch of 4"):
            TextToImageSettings(data="d", vqvae="v", masked_share=share, batch_size=4)
    with pytest.raises(ValueError, match=r"num_timesteps is that of the model"):
        TextToImageSettings("d", model_from="m", num_timesteps=5)


@pytest.mark.parametrize("example", ["train_vqvae", "train_text_to_image"])
def test_help_and_documentation_name_settings_for_a_first_try(example):
    description = ast.get_docstring(ast.parse((ROOT / "examples" / f"{example}.py").read_text()))
    (config,) = re.findall(r"--config (examples/\S+\.yaml)", description)
    assert (ROOT / config).is_file()
    section = (ROOT / "docs" / "training.md").read_text().split("## A first try on a CPU")[1].split("\n## ")[0]
    assert config in section
