"""examples/evaluate.py as its user runs it."""

import json

import numpy as np
from PIL import Image

from mindone_vq.demo.evaluation import score, understand
from mindone_vq.demo.shapes import is_held_out
from tests.test_examples import run


def evaluate(folder, *arguments):
    result = run("evaluate.py", "--steps", 4, *arguments, folder=folder)
    assert result.returncode == 0, result.stderr
    return result


def pictures_of(folder, entries):
    return [Image.open(folder / entry["file"]) for entry in entries]


def test_prompts_are_generated_read_and_reported(tmp_path):
    # Four in batches of three: the second batch is filled up, and nothing compiles again.
    result = evaluate(tmp_path, "--count", 4, "--batch-size", 3, "--seed", 7, "--save-pictures")
    assert result.stderr.count("Compiling the denoising step") == 1
    assert "2/2" in result.stderr
    first = tmp_path / "outputs/evaluate"
    assert sorted(path.name for path in first.iterdir()) == ["grid.png", "pictures", "report.json"]
    report = json.loads((first / "report.json").read_text())
    entries, settings = report["pictures"], report["settings"]
    default = {"guidance_scale": 1.3, "truncation_rate": 0.86}  # of the bundled model
    expected = {**default, "steps": 4, "seed": 7, "batch_size": 3, "count": 4, "held_out": True, "kind": "both"}
    assert {name: settings[name] for name in expected} == expected
    assert [entry["seed"] for entry in entries] == [7, 8, 9, 10]
    scenes = [understand(entry["prompt"]) for entry in entries]
    assert all(map(is_held_out, scenes))
    assert [scene.second is not None for scene in scenes] == [False, False, True, True]
    scores = score(scenes, pictures_of(first, entries))
    assert report["scores"] == json.loads(json.dumps(scores.to_dict()))
    assert str(scores) in result.stdout
    assert [entry["right"] for entry in entries] == list(scores.right)
    assert [entry["shown"] and understand(entry["shown"]) for entry in entries] == list(scores.found)
    assert len(report["speed"]["seconds_of_batches"]) == 2
    assert Image.open(first / "grid.png").width > 4 * 192

    # The same prompts from a file and one more, in one batch: the same pictures, and the other one is not read.
    lines = [json.dumps({"text": text}) for text in [entry["prompt"] for entry in entries] + ["a teddy bear"]]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines) + "\n\n")
    evaluate(tmp_path, "--prompts", "prompts.jsonl", "--seed", 7, "--output", "again")
    report_again = json.loads((tmp_path / "again/report.json").read_text())
    assert report_again["scores"]["one"]["exact"]["count"] == 2
    *again, bear = report_again["pictures"]
    assert (bear["prompt"], "right" in bear) == ("a teddy bear", False)
    assert (tmp_path / "again" / bear["file"]).is_file()
    for picture, other in zip(pictures_of(first, entries), pictures_of(tmp_path / "again", again)):
        assert np.abs(np.asarray(picture, int) - np.asarray(other, int)).mean() < 1

    for arguments, said in [
        (["--count", 0], "ValueError: --count is 0; it must be at least 1."),
        (["--pairs", 2], "ValueError: --pairs is 2.0; it must be from 0 to 1."),
        (["--prompts", "none.txt"], "FileNotFoundError: none.txt is no file"),
        (["--prompts", "prompts.jsonl", "--all"], "leave out --prompts"),
    ]:
        mistaken = run("evaluate.py", *arguments, folder=tmp_path)
        assert (mistaken.returncode, "Traceback" in mistaken.stderr) == (1, False)
        assert said in mistaken.stderr.splitlines()[-1]
