import os
import shutil

import pytest

from mindone_vq.weights.fingerprint import fingerprint


@pytest.fixture
def model(tmp_path, rng):
    for component in ("one", "two"):
        (tmp_path / "model" / component).mkdir(parents=True)
        (tmp_path / "model" / component / "config.json").write_text("{}")
    (tmp_path / "model/two/weights.bin").write_bytes(rng.bytes(3_000_001))
    return tmp_path / "model"


def take(folder):
    return fingerprint(folder, ["two", "one", "not there"])


def test_a_copy_is_the_same_model(model, tmp_path):
    shutil.copytree(model, tmp_path / "copy")
    os.utime(tmp_path / "copy/two/weights.bin", (1, 1))
    (tmp_path / "copy/two/.hidden").touch()
    (tmp_path / "copy/README.md").touch()
    assert take(model) == take(tmp_path / "copy")


@pytest.mark.parametrize("change", ["retrained", "longer", "renamed", "config", "moved"])
def test_another_model_is_another(change, model, rng):
    before, weights = take(model), model / "two/weights.bin"
    if change == "retrained":
        weights.write_bytes(rng.bytes(3_000_001))
    elif change == "longer":
        with open(weights, "ab") as file:
            file.write(b"0")
    elif change == "renamed":
        weights.rename(model / "two/model.bin")
    elif change == "config":
        (model / "one/config.json").write_text("[]")
    else:
        weights.rename(model / "one/weights.bin")
    assert take(model) != before
