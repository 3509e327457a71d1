"""Hub ids, against a small hub on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

import mindone_vq
from mindone_vq import VQDiffusionPipeline, VQModel
from mindone_vq.weights.hub import files_to_download, resolve
from tests.shapes32_model import MODEL
from tests.weights.hub_server import TOKEN, HubServer, Repository

EXTRA = {
    "vqvae/diffusion_pytorch_model.bin": b"a pickle that nobody needs",
    "vqvae/diffusion_pytorch_model.fp16.safetensors": (
        MODEL / "vqvae" / "diffusion_pytorch_model.safetensors"
    ).read_bytes(),
    "safety_checker/model.safetensors": b"not ours",
    "README.md": b"words",
}


@pytest.fixture
def hub():
    """With one model."""
    server = HubServer()
    server.repositories["me/shapes"] = Repository()
    files = {path.relative_to(MODEL).as_posix(): path.read_bytes() for path in MODEL.rglob("*") if path.is_file()}
    server.repositories["me/shapes"].commit("main", files | EXTRA)
    yield server
    server.shutdown()
    server.server_close()


def python(code, endpoint, cache, directory=None, **environment):
    """The lines that ``code`` prints in its own process: huggingface_hub reads its variables when it is imported."""
    root = str(Path(mindone_vq.__file__).parents[1])
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": root}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


LOAD = """
from mindone_vq import VQDiffusionPipeline, VQModel

def load(kind, source, **options):
    try:
        model = kind.from_pretrained(source, **options)
    except FileNotFoundError as error:
        return print(" ".join(str(error).split()))
    print((model.transformer if kind is VQDiffusionPipeline else model).num_parameters())

"""


def fetched(hub):
    return [name for name, _ in hub.fetched]


def test_one_component_fetches_only_its_folder_and_an_unknown_repository_is_named(hub, tmp_path):
    code = "load(VQModel, 'me/shapes', subfolder='vqvae', variant='fp16'); load(VQModel, 'me/nothing')"
    number, message = python(LOAD + code, hub.address, tmp_path)
    assert int(number) > 0
    assert "me/nothing is not a folder here, and the hub answers: 401" in message
    weights = [name for name in fetched(hub) if name.endswith((".safetensors", ".bin"))]
    assert weights == ["vqvae/diffusion_pytorch_model.fp16.safetensors"]
    assert not [name for name in fetched(hub) if name.startswith("transformer/")]


def test_a_pipeline_comes_from_the_hub_then_from_the_cache(hub, tmp_path):
    code = "load(VQDiffusionPipeline, 'me/shapes', revision='main')\n"
    code += "load(VQDiffusionPipeline, 'me/shapes', local_files_only=True)"
    online, local = python(LOAD + code, hub.address, tmp_path)
    assert online == local and int(online) > 0
    assert "model_index.json" in fetched(hub)
    assert set(fetched(hub)).isdisjoint(EXTRA)
    assert len(fetched(hub)) == len(set(fetched(hub)))
    code = "load(VQDiffusionPipeline, 'me/shapes'); load(VQModel, 'me/nothing')"
    offline, missing = python(LOAD + code, "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert offline == online
    assert "Download it once while online" in missing


def test_offline_a_folder_with_only_what_was_needed_is_taken(tmp_path, monkeypatch):
    """As releases of huggingface_hub from 2 on say it, where the tests have an older one, too."""

    def incomplete(*_, **__):
        error = LocalEntryNotFoundError("the cached snapshot is incomplete")
        error.snapshot_path = str(tmp_path)
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", incomplete)
    assert resolve("me/shapes", local_files_only=True) == tmp_path


SAVE = f"""
pipe = VQDiffusionPipeline.from_pretrained({str(MODEL)!r})
pipe.save_pretrained("mine", push_to_hub=True, token={TOKEN!r}, private=True)
pipe.default_settings["guidance_scale"] = 3.0
pipe.save_pretrained("mine", push_to_hub=True, token={TOKEN!r})
"""


def test_a_private_model_is_uploaded_and_comes_back_by_revision(hub, tmp_path):
    python(LOAD + SAVE, hub.address, tmp_path / "a", directory=tmp_path)
    repository = hub.repositories["me/mine"]
    first, second = [commit for commit, files in repository.commits.items() if files]
    assert repository.private and repository.revisions["main"] == second
    code = f"""
for revision in {first!r}, "main":
    pipe = VQDiffusionPipeline.from_pretrained("me/mine", revision=revision, token={TOKEN!r})
    print(pipe.default_settings["guidance_scale"], pipe.transformer.num_parameters())
load(VQDiffusionPipeline, "me/mine", revision="nowhere", token={TOKEN!r})
load(VQDiffusionPipeline, "me/mine", force_download=True)
"""
    old, new, nowhere, hidden = python(LOAD + code, hub.address, tmp_path / "b")
    assert new.split()[0] == "3.0" != old.split()[0] and old.split()[1] == new.split()[1]
    assert "me/mine is not a folder here, and the hub answers: 404" in nowhere
    assert "me/mine is not a folder here, and the hub answers: 401" in hidden


def test_a_download_that_broke_goes_on_where_it_was(hub, tmp_path):
    hub.breaks = 1
    code = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 2**12\n"  # else 10 MB at a time
    code += LOAD + "load(VQModel, 'me/shapes', subfolder='vqvae')"
    (line,) = python(code, hub.address, tmp_path)
    if not line.isdigit():  # newer releases of huggingface_hub try again themselves
        assert "the connection broke" in line and "goes on where it ended" in line
        (line,) = python(code, hub.address, tmp_path)
    assert int(line) > 0
    starts = [first for name, first in hub.fetched if name == "vqvae/diffusion_pytorch_model.safetensors"]
    assert len(starts) == 2 and starts[0] == 0 < starts[1]


def test_an_unreachable_hub_is_named(tmp_path):
    (message,) = python(LOAD + "load(VQModel, 'me/shapes')", "http://127.0.0.1:9", tmp_path)
    assert "hub cannot be reached" in message


def test_only_the_wanted_variant_and_format_are_chosen():
    listing = [
        "model_index.json",
        "README.md",
        "vqvae/config.json",
        "vqvae/diffusion_pytorch_model.bin",
        "vqvae/diffusion_pytorch_model.fp16.bin",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder/config.json",
        "tokenizer/merges.txt",
        "unet/config.json",
    ]
    chosen = files_to_download(listing, ["vqvae", "text_encoder", "tokenizer"], "fp16")
    assert sorted(chosen) == [
        "model_index.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "vqvae/config.json",
        "vqvae/diffusion_pytorch_model.fp16.bin",
    ]


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "/no/such/folder", "", "me/shapes!"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(source, tmp_path):
    if source == "":
        source = tmp_path / "absent"
    with pytest.raises(FileNotFoundError, match="not a folder here"):
        resolve(source)


def test_a_file_instead_of_a_folder_and_unknown_options_are_refused():
    with pytest.raises(FileNotFoundError, match="is a file"):
        VQModel.from_pretrained(MODEL / "model_index.json")
    with pytest.raises(TypeError, match="torch_dtype"):
        VQDiffusionPipeline.from_pretrained("me/shapes", torch_dtype="float16")
