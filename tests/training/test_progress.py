"""What a run shows while it goes on: its bar, what compiles, that it takes long; by a clock that the tests set."""

import logging
import sys
import time

import pytest
import tqdm.std

from mindone_vq.training import run as run_module
from mindone_vq.training.run_settings import RunSettings
from tests.training.regression import SETTINGS, RegressionTraining

STEPS, COMPILATION = 11, 300.0


class Bar(tqdm.std.tqdm):
    """Keeps what it shows, the last at each number of steps."""

    def __init__(self, *args, **options):
        self.shown = {}
        super().__init__(*args, **options)

    def display(self, *args, **options):
        self.shown[self.n] = self.format_meter(**{**self.format_dict, "ncols": None})
        return super().display(*args, **options)


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Trains; the first step takes ``COMPILATION``, each other ``seconds``. Returns what the bar showed."""
    now, bars = [1e6], []
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(run_module, "tqdm", lambda *args, **options: bars.append(Bar(*args, **options)) or bars[-1])

    def train(seconds=2.0, fails_at=None, **changes):
        given = dict(steps=STEPS, log_every=100, preview_every=0, output=tmp_path / f"run{len(bars)}")
        training = RegressionTraining(RunSettings(**{**SETTINGS, **given, **changes}), fails_at)
        advance, durations = training.advance, iter([COMPILATION])

        def advance_clock():
            now[0] += next(durations, seconds)
            return advance()

        training.advance = advance_clock
        training.run()
        return bars[-1].shown

    return train


def test_the_bar_moves_at_every_step_and_knows_the_time_left_from_the_second_on(train):
    shown = train()
    assert list(shown) == list(range(STEPS + 1))  # at 0 while the first step compiles
    assert "[00:00<?," in shown[1]
    for step in range(2, STEPS + 1):
        assert f"{step}/11 [00:{2 * step - 2:02d}<00:{22 - 2 * step:02d},  2.00s/step" in shown[step]
    assert "loss=" in shown[STEPS]  # as soon as it is logged


def test_the_bar_of_a_continued_run_starts_where_the_run_does(train, tmp_path):
    with pytest.raises(OSError, match="no data"):
        train(output=tmp_path, save_every=4, fails_at=6)
    shown = train(output=tmp_path, resume=True)
    assert list(shown) == list(range(4, STEPS + 1))
    assert "5/11 [00:00<?," in shown[5]
    assert "6/11 [00:02<00:10,  2.00s/step" in shown[6]


def test_what_compiles_is_named_once_on_lines_without_the_bar(train, monkeypatch, caplog, capsys):
    caplog.set_level("INFO")
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(sys.stderr)])  # the captured one
    train(accumulation=2, ema_decay=0.9, ema_every=2)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    messages = [line for line in lines if "ompil" in line]
    names = ["training step of Regression without an update", "training step of Regression", "average of the weights"]
    assert messages == [
        message for name in names for message in (f"Compiling the {name} ...", f"Compiled the {name} in 0.0 s.")
    ]


def test_a_run_that_takes_long_on_a_cpu_names_settings_for_a_first_try(train, caplog, monkeypatch):
    caplog.set_level("INFO", "mindone_vq")
    hint = "About 9 hours are left on this CPU; docs/training.md has settings for a first try."
    train(seconds=3600)
    assert caplog.messages.count(hint) == 1
    caplog.clear()
    train(seconds=600)
    monkeypatch.setattr(run_module, "on_cpu", lambda: False)
    train(seconds=3600)
    assert "this CPU" not in caplog.text
