"""Two processes that train one model together, started by msrun as a user does it, against one."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq.training import devices as sharing
from mindone_vq.training.devices import Devices, SumOverDevices, messages
from tests.msrun import msrun
from tests.training import tiny_runs as tiny
from tests.training.regression import batch_of, make_updates, parts_of

# Python imports this at every start: which process writes what below the run's folder.
WATCH = """
import os, sys

def note(event, arguments):
    if event not in ("open", "os.mkdir", "os.rename", "os.remove"):
        return
    writes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes and str(arguments[0]).startswith(os.environ["WATCHED"]):
        who = os.environ.get("MS_ROLE", "") + os.environ.get("RANK_ID", "")
        with open(os.path.join(os.environ["NOTES"], who), "a") as file:
            file.write(str(arguments[0]) + chr(10))

sys.addaudithook(note)
"""
TRAIN = dict(accumulation=2, ema_decay=0.9)


def train(devices):
    """Three updates: losses, norms and the weights at the end; as each device has them."""
    rng, updates = np.random.default_rng(1), make_updates(devices, **TRAIN)
    results = [updates(step, 1e-2, parts_of(batch_of(rng), 2, devices)) for step in range(3)]
    weights = np.concatenate([parameter.asnumpy().ravel() for parameter in updates.parameters()])
    return [[update.loss, update.norm] for update in results], weights.tolist()


def work(folder):
    """One of two processes: trains, then fails on the first device."""
    sys.path.append(str(tiny.ROOT / "tools" / "ascend"))
    from ir import compiled_graphs

    from mindone_vq.training.devices import connect

    devices, trained = connect(), []
    graphs = compiled_graphs(lambda: trained.extend(train(devices)))
    messages = [sum(node.primitive == "AllReduce" for node in graph) for graph in graphs]
    results, weights = trained
    done, errors = [], []
    devices.on_first(lambda: done.append("works"))
    try:
        devices.on_first(lambda: 1 / 0)
    except (ZeroDivisionError, RuntimeError) as error:
        errors.append(f"{type(error).__name__}: {error}")
    report = dict(results=results, weights=weights, messages=messages, done=done, errors=errors)
    (Path(folder) / f"{devices.rank}.json").write_text(json.dumps(report))


def test_two_devices_do_what_one_does_and_learn_that_the_first_failed(tmp_path):
    command = [str(Path(__file__)), str(tmp_path)]
    code, output, workers = msrun(2, command, tmp_path / "logs", **tiny.environment())
    assert code == 0, (output, workers)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    results, weights = train(Devices())
    for report in (first, second):
        np.testing.assert_allclose(report["results"], results, rtol=1e-5)
        np.testing.assert_allclose(report["weights"], weights, rtol=1e-4, atol=1e-6)
        assert sum(report["messages"]) == 1  # for four parameters, in the graph that updates
    assert (first["done"], second["done"]) == (["works"], [])
    assert first["errors"] == ["ZeroDivisionError: division by zero"]
    assert second["errors"] == ["RuntimeError: The first process failed; its log has the error."]


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ([], []),
        ([3], [(0, 1)]),
        ([3, 4, 3, 1], [(0, 3), (3, 4)]),
        ([11, 1, 12, 10, 1], [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        ([1] * 25, [(0, 10), (10, 20), (20, 25)]),
    ],
)
def test_a_message_has_no_more_than_its_size_but_a_larger_tensor_is_one(sizes, expected):
    assert list(messages(sizes, 10)) == expected


@pytest.mark.parametrize("count, largest, sent", [(4, 2**26, 1), (400, 2**26, 1), (400, 4 * 3299, 2)])
def test_there_are_as_many_messages_as_the_size_asks_for(count, largest, sent, rng, monkeypatch):
    """Of two devices that have the same."""
    taken = []

    class Doubled:
        def __call__(self, message):
            taken.append(message.size)
            return message * 2

    monkeypatch.setattr(sharing, "LARGEST_MESSAGE", largest)
    monkeypatch.setattr(sharing.ops, "AllReduce", Doubled)
    shapes = [((3, 4), (), (2, 1, 2), (16,))[i % 4] for i in range(count)]  # 33 numbers each four
    tensors = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    sums = SumOverDevices(shapes)(tuple(map(Tensor, tensors)))
    assert (len(taken), sum(taken)) == (sent, 33 * count // 4)
    for found, tensor in zip(sums, tensors):
        assert found.shape == tensor.shape and np.array_equal(found.asnumpy(), tensor * 2)
    assert len(sums) == count


def on_two_devices(script, settings, folder):
    """Trains; what each process of msrun wrote below the run's folder, by its role and rank."""
    watch, notes, logs = (folder / name for name in ("watch", "notes", "logs"))
    for each in (watch, notes):
        each.mkdir()
    (watch / "sitecustomize.py").write_text(WATCH)
    changes = {
        "PYTHONPATH": f"{watch}:{tiny.ROOT}",
        "WATCHED": str(settings["output"]),
        "NOTES": str(notes),
    }
    code, output, workers = msrun(2, tiny.example(script, settings), logs, **tiny.environment(**changes))
    assert code == 0, (output, workers)
    assert workers.keys() == {"worker_0.log", "worker_1.log"}
    assert not any("Traceback" in text for text in workers.values()), workers
    return {path.name: path.read_text().splitlines() for path in notes.iterdir()}


def assert_logs_agree(folder, expected, tolerance):
    """Everything that is logged, at every step."""
    lines, expected_lines = tiny.log(folder), tiny.log(expected)
    assert [line["step"] for line in lines] == [line["step"] for line in expected_lines]
    for line, expected_line in zip(lines, expected_lines):
        assert line.keys() == expected_line.keys()
        for name in line.keys() - {"time", "images_per_second"}:
            np.testing.assert_allclose(line[name], expected_line[name], rtol=tolerance, err_msg=name)


@pytest.mark.slow
def test_text_to_image_on_two_devices(tmp_path):
    data, vqvae = tiny.make_pictures(tmp_path / "pictures"), str(tiny.make_vqvae(tmp_path / "vqvae"))
    plateau = dict(schedule="plateau", plateau_window=1, plateau_patience=1)
    changes = dict(num_timesteps=3, steps=10, learning_rate=1e-2, save_every=5, **plateau)
    one = tiny.text_settings(data, tmp_path / "one", vqvae=vqvae, **changes)
    tiny.run(tiny.text_training(one))
    assert len(set(tiny.column(tmp_path / "one", "learning_rate"))) > 1
    two = {**one, "output": tmp_path / "two", "accumulation": 2}
    wrote = on_two_devices(tiny.TEXT_EXAMPLE, two, tmp_path)
    assert wrote.keys() == {"MS_WORKER0"}
    assert any("step-00000010" in line for line in wrote["MS_WORKER0"])
    assert_logs_agree(tmp_path / "two", tmp_path / "one", 1e-4)


@pytest.mark.slow
def test_a_vqvae_on_two_devices(tmp_path):
    data = tiny.make_pictures(tmp_path / "pictures")
    changes = dict(steps=12, dead_below=6.0, codebook_decay=0.7, ema_decay=0.9)
    one = tiny.vqvae_settings(data, tmp_path / "one", **changes)
    tiny.run(tiny.vqvae_training(one))
    assert sum(tiny.column(tmp_path / "one", "dead_codes")[:-1]) > 0
    wrote = on_two_devices(tiny.VQVAE_EXAMPLE, {**one, "output": tmp_path / "two"}, tmp_path)
    assert wrote.keys() == {"MS_WORKER0"}
    assert_logs_agree(tmp_path / "two", tmp_path / "one", 1e-3)


if __name__ == "__main__":
    work(sys.argv[1])
