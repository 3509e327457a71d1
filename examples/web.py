"""A web page: pictures form before one's eyes.

    pip install -e ".[cpu,web]"
    python examples/web.py --model shapes

Tabs for text to image, inpainting with a drawn mask, image to image and variations, and a comparison of samplers. Many
people can use it at a time: prompts that wait with equal settings are drawn in one batch. It listens on this machine
alone unless --host says otherwise; nothing is sent elsewhere, and no picture is kept longer than an hour.
"""

import argparse
import collections
import queue
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Optional

import common
import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image

from mindone_vq import VQDiffusionPipeline
from mindone_vq.batch import described
from mindone_vq.demo import MODELS
from mindone_vq.diffusion.samplers import SAMPLERS
from mindone_vq.diffusion.spacing import SPACINGS
from mindone_vq.pictures import enlarge, grid
from mindone_vq.serving.engine import Engine, Job
from mindone_vq.serving.request import Busy, Cancelled, ImageRequest
from mindone_vq.weights.pretrained import FLOAT_TYPES

MOST_STEPS, MOST_PICTURES, MOST_KEPT, MOST_CHARACTERS = 100, 4, 60, 500
PREVIEWS = 20  # of a call, at most
SHOWN_SIDE = 256
HOUR = 3600
COMPARED = (4, 8, 16, 25)  # steps
SHAPES = (
    "One or two coloured shapes on a plain background. Its words: small, large; red, green, blue, yellow, purple, "
    "orange, cyan, pink; circle, square, triangle, cross, ring, diamond; to the left of, to the right of, above, "
    "below; on a black, gray or white background.",
    [
        "a large red circle on a white background",
        "a small cyan ring on a black background",
        "a small green triangle to the left of a large orange cross on a gray background",
        "a large purple square above a small yellow diamond on a white background",
    ],
)
KNOWN = {  # what a bundled model knows, and prompts to click
    "shapes": SHAPES,
    "shapes-student": SHAPES,
    "emoji": (
        "One person on white: a role (firefighter, astronaut, cook, running, surfing, and some 70 more) as a person, "
        "man or woman, and optionally light, medium-light, medium, medium-dark or dark skin tone.",
        [
            "woman firefighter, medium-dark skin tone",
            "man surfing, light skin tone",
            "person running, dark skin tone",
            "woman cook",
        ],
    ),
}
CSS = ".strip img { image-rendering: pixelated; } footer { display: none !important; }"


class Page:
    """What the buttons of the page do.

    Args:
        engine: draws for everybody.
        ready: done when everything is compiled.
    """

    def __init__(self, engine: Engine, ready: Future) -> None:
        self.engine, self.ready = engine, ready
        self.jobs: dict[str, list[Job]] = collections.defaultdict(list)  # by the session that waits for them

    def state(self) -> str:
        if not self.ready.done():
            return "Compiling: this takes about a minute. Prompts that are sent now are drawn when it is done."
        error = self.ready.exception()
        return f"Not ready: {error}" if error else "Ready."

    def draw(
        self,
        prompt: str,
        steps: int,
        sampler: str,
        spacing: str,
        guidance: float,
        seed: float,
        count: int,
        kept: list,
        request: gr.Request,
        image: Optional[Image.Image] = None,
        mask: Optional[Image.Image] = None,
        strength: float = ImageRequest.strength,
    ) -> Iterator[tuple]:
        """Yields pictures as they form, the state in words, all pictures of the session, and files to download."""
        first = random.randrange(2**32) if seed is None or seed < 0 else int(seed)
        options = dict(num_inference_steps=int(steps), sampler=sampler, spacing=spacing, guidance_scale=guidance)
        _check(prompt, steps, count, needs_prompt=image is None or mask is not None)
        asked = ImageRequest(prompt, tuple(range(first, first + int(count))), options, image, mask, strength)
        pictures: list[Image.Image] = []
        for pictures, said in self._drawn(asked, request.session_hash):
            yield _shown(pictures), said, kept, None
        if not pictures:
            return
        about = [{"prompt": prompt, "seed": each, **options} for each in asked.seeds]
        captions = [f"{prompt or 'a variation'} | seed {each}, {int(steps)} steps, {sampler}" for each in asked.seeds]
        kept = [*map(list, zip(_shown(pictures), captions)), *kept][:MOST_KEPT]
        yield _shown(pictures), f"{said} Seed {first}.", kept, _files(pictures, about)

    def compare(
        self, prompt: str, samplers: list[str], spacing: str, guidance: float, seed: float, request: gr.Request
    ) -> Iterator[tuple]:
        """Yields a grid of samplers and numbers of steps, with what is drawn so far."""
        if not samplers:
            raise gr.Error("Choose at least one sampler.")
        _check(prompt, max(COMPARED), 1)
        first = 0 if seed is None or seed < 0 else int(seed)
        blank = Image.new("RGB", self.engine.size[::-1], "lightgray")
        cells = {(sampler, steps): blank for sampler in samplers for steps in COMPARED}
        for sampler, steps in cells:
            options = dict(num_inference_steps=steps, sampler=sampler, spacing=spacing, guidance_scale=guidance)
            for pictures, said in self._drawn(ImageRequest(prompt, (first,), options), request.session_hash):
                cells[sampler, steps] = pictures[0] if pictures else blank
                rows = [[enlarge(cells[each, n], 128) for n in COMPARED] for each in samplers]
                yield grid(rows, [f"{each}: {', '.join(map(str, COMPARED))} steps" for each in samplers]), said
            if not pictures:
                return

    def cancel(self, request: gr.Request) -> None:
        """Ends what this session waits for, within a step."""
        for job in self.jobs.pop(request.session_hash, []):
            job.cancel()

    def _drawn(self, asked: ImageRequest, session: str) -> Iterator[tuple[list[Image.Image], str]]:
        """The pictures so far and the state in words; no pictures at the end of what was cancelled."""
        progress: queue.Queue = queue.Queue()
        every = max(1, asked.options["num_inference_steps"] // PREVIEWS)
        began, pictures = None, []
        try:
            job = self.engine.submit(asked, progress.put, every)
        except (Busy, TypeError, ValueError) as error:
            raise gr.Error(f"{error}") from error
        self.jobs[session].append(job)
        try:
            while not job.pictures.done():
                try:
                    now = progress.get(timeout=0.2)
                except queue.Empty:
                    yield pictures, self._waiting(job, began)
                    continue
                began = began or time.monotonic()
                pictures = now.pictures or pictures
                each = (time.monotonic() - began) / max(1, now.step - 1)
                if now.pictures:
                    yield pictures, f"Step {now.step} of {now.steps}; {each * (now.steps - now.step):.0f} s left."
            yield job.pictures.result(), f"Done in {time.monotonic() - (began or time.monotonic()):.1f} s."
        except Cancelled:
            yield [], "Cancelled."
        except Exception as error:
            raise gr.Error(f"{error}") from error
        finally:
            job.cancel()  # of somebody who closed the page; without effect on what is done
            if job in self.jobs.get(session, []):
                self.jobs[session].remove(job)

    def _waiting(self, job: Job, began: Optional[float]) -> str:
        if began:
            return "Drawing."
        if not self.ready.done():
            return self.state()
        place = self.engine.place(job)
        return f"Waiting: {place} before this one." if place else "Beginning."


def _check(prompt: str, steps: int, count: int, needs_prompt: bool = True) -> None:
    """The limits of the page also hold for those who ask without it."""
    if needs_prompt and not prompt.strip():
        raise gr.Error("Write what the picture shows.")
    if len(prompt) > MOST_CHARACTERS or not 1 <= steps <= MOST_STEPS or not 1 <= count <= MOST_PICTURES:
        raise gr.Error(f"At most {MOST_CHARACTERS} characters, {MOST_STEPS} steps and {MOST_PICTURES} pictures.")


def _shown(pictures: list[Image.Image]) -> list[Image.Image]:
    """Small pictures enlarged, with their pixels as they are."""
    return [enlarge(each, SHOWN_SIDE, Image.NEAREST) for each in pictures]


def _files(pictures: list[Image.Image], about: list[dict[str, Any]]) -> list[str]:
    """PNGs to download, with prompt and settings inside, where the page removes them after an hour."""
    folder = Path(tempfile.mkdtemp(dir=get_upload_folder()))
    paths = [folder / f"{text['seed']}.png" for text in about]
    for path, picture, text in zip(paths, pictures, about):
        picture.save(path, pnginfo=described(text))
    return list(map(str, paths))


def drawn_mask(editor: dict[str, Any]) -> tuple[Image.Image, Image.Image]:
    """The picture of an image editor, and the mask of what was painted on it."""
    if editor is None or editor.get("background") is None:
        raise gr.Error("Upload a picture, or draw one first, and paint over what is to change.")
    background = editor["background"]
    painted = np.zeros((background.height, background.width), bool)
    for layer in editor["layers"]:
        painted |= np.asarray(layer.convert("RGBA"))[..., 3] > 0
    if not painted.any():
        raise gr.Error("Paint over what is to change.")
    return background.convert("RGB"), Image.fromarray(painted.astype(np.uint8) * 255)


def build(page: Page, model: str, defaults: dict[str, float]) -> gr.Blocks:
    """The page. Elements have ids, by which the tests find them."""
    knows, examples = KNOWN.get(model, ("", []))
    with gr.Blocks(title="mindone_vq", analytics_enabled=False, delete_cache=(600, HOUR)) as blocks:
        gr.Markdown(f"# VQ-Diffusion: {model}\n{knows}")
        state, timer = gr.Markdown(page.state(), elem_id="state"), gr.Timer(1.0)
        timer.tick(lambda: (page.state(), gr.Timer(active=not page.ready.done())), None, [state, timer])
        kept = gr.State([])
        prompt = gr.Textbox(label="Prompt", elem_id="prompt", max_length=MOST_CHARACTERS, autofocus=True)
        if examples:
            gr.Examples(examples, prompt)
        with gr.Accordion("Settings", open=False), gr.Row():
            steps = gr.Slider(1, MOST_STEPS, 50, step=1, label="Steps", elem_id="steps")
            sampler = gr.Dropdown(list(SAMPLERS), value="ancestral", label="Sampler", elem_id="sampler")
            spacing = gr.Dropdown(list(SPACINGS), value="square", label="Spacing of the timesteps")
            guidance = gr.Slider(1, 10, defaults["guidance_scale"], step=0.1, label="Guidance scale")
            seed = gr.Number(-1, label="Seed (-1: random)", precision=0, elem_id="seed")
            count = gr.Slider(1, MOST_PICTURES, 1, step=1, label="Pictures", elem_id="count")
        settings = [prompt, steps, sampler, spacing, guidance, seed, count, kept]
        strip = dict(object_fit="contain", format="png", fit_columns=False, elem_classes="strip", show_label=False)

        def results(name: str, button: str) -> tuple[gr.Button, list]:
            """A button that draws, one that cancels, and where the pictures, the state and the files appear."""
            with gr.Row():
                draw = gr.Button(button, variant="primary", elem_id=f"{name}-draw")
                gr.Button("Cancel", elem_id=f"{name}-cancel").click(page.cancel, None, None, queue=False)
            said = gr.Markdown("", elem_id=f"{name}-said")
            gallery = gr.Gallery(elem_id=f"{name}-pictures", columns=MOST_PICTURES, **strip)
            files = gr.Files(label="Download, with prompt and settings inside", elem_id=f"{name}-files")
            return draw, [gallery, said, kept, files]

        with gr.Tab("Text to image"):
            draw, shown = results("text", "Draw")
            again = gr.Button("Again with another seed", elem_id="text-again")
            for event in (draw.click, prompt.submit):
                event(page.draw, settings, shown)
            again.click(lambda: -1, None, seed).then(page.draw, settings, shown)
        with gr.Tab("Inpaint", elem_id="inpaint-tab"):
            editor = gr.ImageEditor(
                type="pil", label="Picture; paint over what is to change", elem_id="editor", transforms=(), format="png"
            )
            draw, shown = results("inpaint", "Paint")

            def inpaint(editor: dict, request: gr.Request, *given: Any) -> Iterator[tuple]:
                yield from page.draw(*given, request, *drawn_mask(editor))

            draw.click(inpaint, [editor, *settings], shown)
        with gr.Tab("Image to image", elem_id="change-tab"):
            gr.Markdown("Changes the picture towards the prompt; without a prompt, a variation of the picture.")
            image = gr.Image(type="pil", label="Picture", elem_id="image", format="png")
            strength = gr.Slider(0, 1, 0.6, step=0.05, label="Strength: 0 keeps the picture")
            draw, shown = results("change", "Change")

            def change(image: Any, strength: float, request: gr.Request, *given: Any) -> Iterator[tuple]:
                if image is None:
                    raise gr.Error("Upload a picture first.")
                yield from page.draw(*given, request, image.convert("RGB"), None, strength)

            draw.click(change, [image, strength, *settings], shown)
        with gr.Tab("Compare samplers", elem_id="compare-tab"):
            samplers = gr.CheckboxGroup(list(SAMPLERS), value=list(SAMPLERS), label="Samplers")
            draw, said = gr.Button("Compare", variant="primary", elem_id="compare-draw"), gr.Markdown("")
            compared = gr.Image(format="png", elem_id="compare-picture", show_label=False)
            draw.click(page.compare, [prompt, samplers, spacing, guidance, seed], [compared, said])
        with gr.Accordion("Pictures of this session", open=True):
            session = gr.Gallery(elem_id="session", columns=6, **strip)
            kept.change(lambda pictures: [tuple(each) for each in pictures], kept, session)
    return blocks


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = " or ".join(MODELS)
    parser.add_argument("--model", default="shapes", help=f"{names}, a pipeline folder or a hub id [%(default)s]")
    parser.add_argument("--dtype", choices=FLOAT_TYPES, default="float32", help="of the weights [%(default)s]")
    parser.add_argument("--device", choices=["CPU", "Ascend"], help="[MindSpore's choice]")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: of all networks [%(default)s]"
    )
    parser.add_argument("--port", type=int, default=7860, help="[%(default)s]")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    if options.device:
        common.choose_device(options.device)
    pipe = VQDiffusionPipeline.from_pretrained(common.source(options), mindspore_dtype=FLOAT_TYPES[options.dtype])
    engine = Engine(pipe)
    page = Page(engine, engine.warm_up(spacing="square"))
    blocks = build(page, options.model, pipe.default_settings)
    blocks.queue(default_concurrency_limit=32, max_size=128, api_open=False)
    blocks.launch(
        server_name=options.host, server_port=options.port, share=False, max_file_size="5mb", css=CSS, footer_links=[]
    )


if __name__ == "__main__":
    common.run(main)
