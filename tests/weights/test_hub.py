"""Hub ids, against a small hub on this machine."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import mindone_vq
from mindone_vq import VQDiffusionPipeline, VQModel
from mindone_vq.weights.hub import files_to_download, resolve
from tests.shapes32_model import MODEL

COMMIT = "0123456789abcdef0123456789abcdef01234567"
EXTRA = {
    "vqvae/diffusion_pytorch_model.bin": b"a pickle that nobody needs",
    "vqvae/diffusion_pytorch_model.fp16.safetensors": (
        MODEL / "vqvae" / "diffusion_pytorch_model.safetensors"
    ).read_bytes(),
    "safety_checker/model.safetensors": b"not ours",
    "README.md": b"words",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as huggingface_hub needs to list and fetch files."""

    files: dict[str, bytes] = {}
    fetched: list[str] = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.path.startswith("/api/models/me/shapes/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files.items()
            ]
            return self.answer(200, json.dumps(entries).encode())
        if self.path.startswith("/api/models/me/shapes"):
            siblings = [{"rfilename": name} for name in self.files]
            return self.answer(200, json.dumps({"id": "me/shapes", "sha": COMMIT, "siblings": siblings}).encode())
        prefix = "/me/shapes/resolve/"
        name = self.path.removeprefix(prefix).partition("/")[2]
        if not self.path.startswith(prefix) or name not in self.files:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such repository"})
        if self.command == "GET":
            self.fetched.append(name)
        digest = hashlib.sha256(self.files[name]).hexdigest()
        return self.answer(200, self.files[name], {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    Hub.files = {str(p.relative_to(MODEL)): p.read_bytes() for p in MODEL.rglob("*") if p.is_file()} | EXTRA
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def python(code, endpoint, cache, **environment):
    """The lines that ``code`` prints in its own process: huggingface_hub reads its variables when it is imported."""
    root = str(Path(mindone_vq.__file__).parents[1])
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": root}
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
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


def test_one_component_fetches_only_its_folder_and_an_unknown_repository_is_named(hub, tmp_path):
    Hub.fetched = []
    code = "load(VQModel, 'me/shapes', subfolder='vqvae', variant='fp16'); load(VQModel, 'me/nothing')"
    number, message = python(LOAD + code, hub, tmp_path)
    assert int(number) > 0
    assert "me/nothing is not a folder here, and the hub answers: 404" in message
    weights = [name for name in Hub.fetched if name.endswith((".safetensors", ".bin"))]
    assert weights == ["vqvae/diffusion_pytorch_model.fp16.safetensors"]
    assert not [name for name in Hub.fetched if name.startswith("transformer/")]


def test_a_pipeline_comes_from_the_hub_then_from_the_cache(hub, tmp_path):
    Hub.fetched = []
    code = "load(VQDiffusionPipeline, 'me/shapes', revision='main')\n"
    code += "load(VQDiffusionPipeline, 'me/shapes', local_files_only=True)"
    online, local = python(LOAD + code, hub, tmp_path)
    assert online == local and int(online) > 0
    assert "model_index.json" in Hub.fetched
    assert set(Hub.fetched).isdisjoint(EXTRA)
    assert len(Hub.fetched) == len(set(Hub.fetched))
    code = "load(VQDiffusionPipeline, 'me/shapes'); load(VQModel, 'me/nothing')"
    offline, missing = python(LOAD + code, "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert offline == online
    assert "Download it once while online" in missing


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
