from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "mindone_vq" / "__init__.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)

setup(
    name="mindone_vq",
    version=VERSION,
    description="VQ-Diffusion on MindSpore: text to image over the codes of a VQ-VAE, for Ascend NPUs and CPU",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mindone_vq", "mindone_vq.*"]),
    package_data={
        "mindone_vq": ["py.typed"],
        "mindone_vq.demo": ["*_held_out.txt", "*64*/*", "*64*/*/*"],  # the bundled models
        "mindone_vq.device_check": ["reference.npz"],
    },
    python_requires=">=3.9,<3.13",
    install_requires=[
        "mindspore>=2.7.0",  # an Ascend server keeps the release that fits its driver
        "numpy<2",  # MindSpore is compiled for numpy 1; with 2 parts of it fail at run time
        "safetensors>=0.4.5",  # weight files
        "huggingface_hub>=0.25",  # models by hub id
        "tokenizers>=0.19",  # byte-pair encoding of prompts
        "pillow",  # pictures
        "tqdm>=4.57",  # progress bars; from this release on with log messages above them
        "pyyaml",  # configs of original checkpoints
        "scipy",  # parts of pictures and confidence intervals of the demo data's scores; MindSpore needs it, too
        "packaging",  # versions in mindone_vq.doctor; MindSpore needs it, too
    ],
    extras_require={
        # The release that is good on a CPU: in 2.9 and 2.10 a convolution there is far slower.
        "cpu": ["mindspore==2.8.0"],
        "train": [
            "jsonargparse>=4.49",  # settings from YAML and the command line, checked by their types
            "tensorboardX>=2.6",  # TensorBoard's files of a training run; without it there is log.jsonl alone
        ],
        # The web page, examples/web.py.
        "web": ["gradio>=6.31"],
        # The endpoint, and examples/generate_batch.py --ray.
        "serve": [
            "ray[serve]>=2.60",  # replicas, and tasks on a cluster; it brings FastAPI
            "python-multipart>=0.0.20",  # forms with pictures
        ],
        # The documentation site.
        "docs": [
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=1.0",  # the reference, from docstrings
        ],
        # The tests of the three; a browser is needed, too: Debian's package chromium.
        "test-web": [
            "pytest>=8",
            "openai>=3",  # the client that the endpoint is made for
            "httpx>=0.28",
            "playwright>=1.60",  # drives the browser
        ],
        "benchmarks": [
            "matplotlib",  # curves
            "scikit-image",  # structural similarity of pictures
        ],
        # mindnlp's text encoder. It runs with these versions together and, of those tried, with no others; use
        # an environment of its own.
        "mindnlp": [
            "mindnlp==0.5.1",
            "mindspore==2.7.0",
            "transformers==4.55.4",
            "accelerate==1.6.0",
            "peft==0.15.2",
            "diffusers==0.34.0",
            "datasets==3.6.0",
            "pyarrow<20",
            "pandas<2.3",
            "torch==2.13.0",
        ],
        # The tests compare with PyTorch, live.
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",  # the tests in as many processes as there are cores
            "ruff==0.17.5",
            "jsonargparse>=4.49",  # training
            "tensorboardX>=2.6",  # its files are read back
            "torch==2.13.0",
            "diffusers==0.35.2",  # the last release whose VQ-Diffusion parts were checked to run
            "transformers==4.57.1",
        ],
    },
)
