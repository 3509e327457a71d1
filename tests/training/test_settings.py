import dataclasses
import math
from pathlib import Path
from typing import Any, Literal, Optional

import pytest
import yaml

from mindone_vq.training.settings import REQUIRED, check, option, parse, save, to_yaml


@dataclasses.dataclass(frozen=True)
class Run:
    steps: int = option(100, "how many steps", minimum=1)
    learning_rate: float = option(1e-4, "largest learning rate", above=0, maximum=1)
    name: str = option("run", "what it is called")
    flip: bool = option(True, "mirror half of the pictures; 50%")
    data: Path = option(Path("data"), "where the pictures are")
    clip: Optional[float] = option(1.0, "largest norm of a gradient", minimum=0)
    layers: tuple[int, ...] = option((1, 2), "channels of each level", minimum=1)
    words: tuple[str, ...] = option((), "prompts\nto show", choices=("a", "b", "none", "1e-3"))
    dtype: Literal["float32", "float16"] = option("float32", "type of the weights")
    level: Literal[0, 1] = option(1, "level of the graph")
    model: dict[str, Any] = option({"depth": 2, "act": "relu"}, "arguments of the network")
    resume: Optional[Path] = option(None, "a checkpoint")

    def problems(self):
        found = []
        if self.resume and self.name == "run":
            found.append("resume is given without a name.")
        if self.resume and self.flip:
            found.append("resume is given with flip.")
        return found


def run(*arguments, positional=()):
    return parse(Run, [str(argument) for argument in arguments], "Trains.", positional)


def config(text):
    Path("run.yaml").write_text(text)
    return ("--config", "run.yaml")


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults():
    settings = run("--steps", 3, *config("steps: 2\nname: from the file\n"))
    assert (settings.steps, settings.name, settings.learning_rate) == (3, "from the file", 1e-4)
    assert run() == Run()
    assert run(*config("")) == Run()


@pytest.mark.parametrize(
    ("words", "text", "name", "value"),
    [
        ("--steps 7", "steps: 7", "steps", 7),
        ("--learning-rate 1e-3", "learning_rate: 1e-3", "learning_rate", 0.001),
        ("--learning-rate 1", "learning_rate: 1", "learning_rate", 1.0),
        ("--learning-rate=.5", "learning_rate: '0.5'", "learning_rate", 0.5),
        ("--name 12", "name: '12'", "name", "12"),
        ("--no-flip", "flip: false", "flip", False),
        ("--flip", "flip: on", "flip", True),
        ("--data a/b", "data: a/b", "data", Path("a/b")),
        ("--clip 2", "clip: 2", "clip", 2.0),
        ("--clip none", "clip: null", "clip", None),
        ("--layers 3 4 5", "layers: [3, 4, 5]", "layers", (3, 4, 5)),
        ("--layers", "layers: []", "layers", ()),
        ("--words a b", "words: [a, b]", "words", ("a", "b")),
        ("--dtype float16", "dtype: float16", "dtype", "float16"),
        ("--level 0", "level: 0", "level", 0),
        ("--model.depth 3", "model: {depth: 3, act: relu}", "model", {"depth": 3, "act": "relu"}),
    ],
)
def test_each_type_from_the_command_line_and_from_a_file(words, text, name, value):
    expected = dataclasses.replace(Run(), **{name: value})
    for settings in (run(*words.split()), run(*config(text))):
        assert settings == expected
        assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: '7'", r"run\.yaml: steps is '7', expected a whole number, at least 1\."),
        ("steps: 7.0", r"steps is 7\.0, expected a whole number"),
        ("steps: true", r"steps is True, expected a whole number"),
        ("steps: null", r"steps is None, expected a whole number"),
        ("steps: 0", r"run\.yaml: steps is 0, expected a whole number, at least 1\."),
        ("learning_rate: fast", r"learning_rate is 'fast', expected a number, above 0, at most 1\."),
        ("learning_rate: 0", r"learning_rate is 0, expected .* above 0"),
        ("learning_rate: 1.5", r"learning_rate is 1\.5, expected .* at most 1"),
        ("learning_rate: .nan", r"learning_rate is nan"),
        ("clip: .nan", r"clip is nan"),
        ("clip: none", r"clip is 'none', expected a number"),
        ("learning_rate: true", r"learning_rate is True"),
        ("clip: -1", r"clip is -1, expected a number, at least 0, or none\."),
        ("name: 3", r"name is 3, expected text\."),
        ("flip: 1", r"flip is 1, expected true or false\."),
        ("data: 1", r"data is 1, expected a path\."),
        ("layers: 3", r"layers is 3, expected a list, each of it a whole number, at least 1\."),
        ("layers: [3, 0]", r"layers is \[3, 0\], expected a list"),
        ("words: [a, z]", r"words is \['a', 'z'\], expected a list, each of it one of a, b, none, 1e-3\."),
        ("dtype: int8", r"dtype is 'int8', expected one of float32, float16\."),
        ("level: 2", r"level is 2, expected one of 0, 1\."),
        ("level: true", r"level is True, expected one of 0, 1\."),
        ("model: 3", r"model is 3, expected names with values\."),
        ("model: {since: 2020-01-01}", r"model is .*, expected names with values\."),
        ("lerning_rate: 1", r"run\.yaml: There is no setting lerning_rate; did you mean learning_rate\?"),
        ("zzz: 1\nsteps_: 2", r"no setting zzz; there are steps, .* no setting steps_; did you mean steps\?"),
        ("- steps", r"run\.yaml holds a list, expected lines such as 'name: value'\."),
        ("steps: [", r"run\.yaml is not readable as YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        run(*config(text))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--steps many", r"--steps is 'many', expected a whole number, at least 1\."),
        ("--steps 0", r"--steps is '0', expected a whole number, at least 1\."),
        ("--learning-rate 2", r"--learning-rate is '2', expected a number, above 0, at most 1\."),
        ("--learning-rate nan", r"--learning-rate is 'nan'"),
        ("--dtype int8", r"--dtype is 'int8', expected one of float32, float16\."),
        ("--layers 1 x", r"--layers is \['1', 'x'\], expected a list"),
        ("--lerning-rate 0.1", r"There is no option --lerning-rate; did you mean --learning-rate\?"),
        ("--lerning-rate=0.1", r"There is no option --lerning-rate; did you mean --learning-rate\?"),
        ("--step 3", r"There is no option --step; did you mean --steps\?"),
        ("surplus words", r"Nothing takes surplus words; --help shows what is expected\."),
        ("--steps", r"Argument --steps: expected one argument; --help lists the options\."),
        ("--model.depth", r"--model\.depth is not complete, expected --model\.KEY VALUE\."),
        ("--model.depth --flip", r"--model\.depth is not complete"),
        ("--model. 3", r"--model\. is not complete"),
        ("--model.depth [", r"--model\.depth is '\[', expected a value in YAML"),
        ("--modle.depth 3", r"There is no option --modle\.depth; did you mean --model"),
        ("--resume x", r"resume is given without a name\. resume is given with flip\."),
    ],
)
def test_a_mistake_on_the_command_line_is_named(words, message):
    with pytest.raises(ValueError, match=message):
        run(*words.split())


def test_a_config_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"--config nowhere\.yaml is not a file; it is looked for in /"):
        run("--config", "nowhere.yaml")


def test_keys_of_a_dict_are_changed_one_by_one():
    settings = run(
        *("--model.depth=4", "--model.rate", "1e-3", "--model.shift", "-1", "--model.inner.deep", "[1, two]"),
        *("--model.off", "null", "--name", "x"),
    )
    assert settings.model == {
        "depth": 4,
        "act": "relu",
        "rate": 0.001,
        "shift": -1,
        "inner": {"deep": [1, "two"]},
        "off": None,
    }
    assert settings.name == "x"
    Run().model["depth"] = 5
    assert Run().model == {"depth": 2, "act": "relu"}


def test_a_dict_in_the_file_replaces_the_default_and_the_command_line_changes_it():
    assert run(*config("model: {width: 8}"), "--model.depth", 1).model == {"width": 8, "depth": 1}


def test_positional_fields_may_stand_anywhere_and_in_the_file():
    places = ("data", "resume")
    assert run("pictures", positional=places).data == Path("pictures")
    assert run("--no-flip", "--name", "x", "pictures", positional=places).data == Path("pictures")
    split = run("pictures", "--name", "x", "--no-flip", "model", positional=places)
    assert (split.data, split.resume) == (Path("pictures"), Path("model"))
    assert run(*config("data: elsewhere"), positional=places).data == Path("elsewhere")
    assert run("a", "b", positional=("words",)).words == ("a", "b")
    assert run(*config("words: [a]"), positional=("words",)).words == ("a",)
    with pytest.raises(ValueError, match="no option --lerning-rate; did you mean --learning-rate"):
        run("--lerning-rate", "0.1", positional=places)
    with pytest.raises(TypeError, match="Run has no field dada"):
        run(positional=("dada",))


def test_what_is_required_is_asked_for():
    @dataclasses.dataclass(frozen=True)
    class Needy:
        data: Path = option(REQUIRED, "pictures")
        output: Path = option(REQUIRED, "results")

    with pytest.raises(ValueError, match=r"No value for DATA, --output; give it on the command line or in --config\."):
        parse(Needy, [], "", ("data",))
    assert parse(Needy, ["a", *config("output: b")], "", ("data",)) == Needy(Path("a"), Path("b"))


def test_help_lists_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        run("--help", positional=("data",))
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "Trains.",
        "DATA where the pictures are [data]",
        "--config FILE",
        "--steps N how many steps [100]",
        "--learning-rate X largest learning rate [0.0001]",
        "--flip, --no-flip mirror half of the pictures; 50% [True]",
        "--clip X largest norm of a gradient [1.0]",
        "--layers [N ...] channels of each level [1 2]",
        "--dtype {float32,float16} type of the weights [float32]",
        "--model.KEY VALUE arguments of the network [{'depth': 2, 'act': 'relu'}]",
        "--resume PATH a checkpoint [none]",
    ):
        assert part in text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(learning_rate=1e-7, clip=None, flip=False, layers=(), data=Path("a b/ü: #1"), level=0),
        dict(learning_rate=1, clip=math.inf, name="1e-3", words=("none", "1e-3"), model={}),
        dict(name="none", resume=Path("1"), flip=False, data=Path("null")),
        dict(name="two\nlines: 'quoted'", model={"a": {"b": [1, 2.5, "1e5", "no", None, True]}, "1": 1e-9}),
    ],
)
def test_what_is_saved_is_read_back_equal(changes):
    settings = dataclasses.replace(Run(), **changes)
    save(settings, Path("deep/run.yaml"))
    assert run("--config", "deep/run.yaml") == settings
    text = Path("deep/run.yaml").read_text(encoding="utf-8")
    assert text == to_yaml(settings)
    assert "# how many steps\nsteps: 100\n" in text
    assert changes or "model:\n  depth: 2\n  act: relu\n" in text
    assert list(yaml.safe_load(text)) == [field.name for field in dataclasses.fields(Run)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(steps=0, learning_rate=0.0), r"steps is 0, expected .* at least 1\. learning_rate is 0\.0, expected"),
        (dict(learning_rate="0.1"), r"learning_rate is '0\.1', expected a number"),
        (dict(layers=[1, 2]), r"layers is \[1, 2\], expected a list"),
        (dict(data="text"), r"data is 'text', expected a path"),
        (dict(model={"kernel": (3, 3)}), r"model is .*, expected names with values"),
        (dict(model={"sizes": [1, {"a": (3, 3)}]}), r"model is .*, expected names with values"),
        (dict(resume=Path("x")), r"^resume is given without a name\. resume is given with flip\.$"),
    ],
)
def test_an_instance_made_in_python_is_checked(changes, message):
    check(Run())
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(Run(), **changes))


def test_a_type_that_settings_cannot_hold_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        when: complex = option(1j, "")

    with pytest.raises(TypeError, match="Field when is a .*complex.*, which settings cannot hold"):
        parse(Odd, [], "")
