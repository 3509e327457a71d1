"""Pictures for many callers at a time: a queue, batches of requests with equal settings, and one thread that draws."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor
from PIL import Image
from scipy.ndimage import distance_transform_edt

from mindone_vq.diffusion.options import SamplingOptions
from mindone_vq.pictures import cover_masked
from mindone_vq.pipelines.canvas import to_mask, to_pixels
from mindone_vq.pipelines.editing import VQDiffusionImg2ImgPipeline, VQDiffusionInpaintPipeline
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.serving.request import (
    IMAGE_TO_IMAGE,
    INPAINT,
    TEXT_TO_IMAGE,
    VARIATIONS,
    Busy,
    Cancelled,
    ImageRequest,
)

BATCH_SIZES = (1, 4, 16)
MOST_WAITING = 64
LINGER = 0.1  # of the time that a batch takes


@dataclass(frozen=True)
class Progress:
    """``step`` of ``steps`` are done; ``pictures`` shows x_t with masked codes gray, where previews were asked for."""

    step: int
    steps: int
    pictures: Optional[list[Image.Image]]


class Job:
    """A request in the engine.

    Attributes:
        pictures: a future of the list of pictures; ``Cancelled`` after ``cancel``.
    """

    def __init__(
        self, request: ImageRequest, options: SamplingOptions, preview_every: int, on_progress: Callable
    ) -> None:
        self.request, self.options = request, options
        self.preview_every, self.on_progress = preview_every, on_progress
        self.pictures: Future[list[Image.Image]] = Future()
        self.pictures.set_running_or_notify_cancel()  # the engine alone ends it: asyncio cancels futures that it wraps
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ends the request: at once where it waits, within a step where it is drawn."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def key(self) -> tuple:
        """What requests of one batch have in common."""
        strength = self.request.strength if self.request.kind in (IMAGE_TO_IMAGE, VARIATIONS) else None
        return self.request.kind, strength, self.options

    def __len__(self) -> int:
        return len(self.request.seeds)


class Engine:
    """Draws for many callers with one pipeline.

    A batch takes the request that has waited longest, and those with the same settings; it is filled up to one of a few
    sizes, so that nothing compiles after ``warm_up``.

    Args:
        pipe: all its use is by this engine's thread.
        batch_sizes: those that are compiled.
        most_waiting: pictures in the queue, beyond which ``submit`` refuses.
    """

    def __init__(
        self, pipe: VQDiffusionPipeline, batch_sizes: Sequence[int] = BATCH_SIZES, most_waiting: int = MOST_WAITING
    ) -> None:
        pipe.set_progress_bar_config(disable=True)
        self.pipe, self.batch_sizes, self.most_waiting = pipe, sorted(batch_sizes), most_waiting
        self._inpaint, img2img = VQDiffusionInpaintPipeline.from_pipe(pipe), VQDiffusionImg2ImgPipeline.from_pipe(pipe)
        self._calls: dict[str, Callable] = {
            TEXT_TO_IMAGE: pipe,
            INPAINT: self._inpaint,
            IMAGE_TO_IMAGE: img2img,
            VARIATIONS: img2img.variations,
        }
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._closed, self._warm_ups = False, []
        self._seconds = 1.0  # of a picture, as a running mean
        self._linger = 0.0  # seconds that a batch waits for another request
        self._thread = threading.Thread(target=self._work, name="mindone_vq engine", daemon=True)
        self._thread.start()

    @property
    def largest(self) -> int:
        """Pictures in a batch, and in a request."""
        return self.batch_sizes[-1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self._inpaint.size

    def warm_up(self, **options: Any) -> Future:
        """Compiles in the background what calls with ``options`` need, for every batch size, and for edits."""
        done: Future[None] = Future()
        with self._changed:
            self._warm_ups.append((done, options))
            self._changed.notify()
        return done

    def submit(
        self,
        request: ImageRequest,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        preview_every: int = 0,
    ) -> Job:
        """Puts a request into the queue.

        Args:
            request: is checked at once.
            on_progress: called by the engine's thread after every step.
            preview_every: steps between two previews; 0: none.

        Raises:
            TypeError, ValueError: the request is not what it must be; the message says how.
            Busy: too many pictures are waiting.
        """
        if not 1 <= len(request.seeds) <= self.largest:
            raise ValueError(f"{len(request.seeds)} pictures are asked for; 1 to {self.largest} can be.")
        if request.image is None and request.mask is not None:
            raise ValueError("a mask is given without the image that it belongs to.")
        job = Job(request, self._checked(request), preview_every, on_progress)
        with self._changed:
            waiting = sum(map(len, self._waiting))
            if waiting + len(job) > self.most_waiting:
                raise Busy(waiting, max(1.0, waiting * self._seconds))
            if self._closed:
                raise RuntimeError("the engine is closed.")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def place(self, job: Job) -> int:
        """How many requests are drawn before this one; 0 when it is drawn itself, or done."""
        with self._changed:
            return self._waiting.index(job) + 1 if job in self._waiting else 0

    def close(self) -> None:
        """Draws what waits, and ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _checked(self, request: ImageRequest) -> SamplingOptions:
        """How the request is sampled; refuses what a call would refuse, before others wait for it."""
        if not 0 <= request.strength <= 1:
            raise ValueError(f"strength is {request.strength}; it must be from 0 to 1.")
        known = {each.name for each in fields(SamplingOptions)}
        if unknown := [name for name in request.options if name not in known]:
            raise TypeError(f"there is no option {', '.join(unknown)}; there are {', '.join(sorted(known))}.")
        options = self.pipe.sampling_options(**request.options)
        self.pipe.prepare_text(prompt=request.prompt, **_arguments(options))
        return options

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._warm_ups or self._closed)
                if not self._waiting and not self._warm_ups:
                    return
                self._wait_for_more()
                warm_up = self._warm_ups.pop(0) if self._warm_ups else None
                jobs = [] if warm_up else self._next_batch()
            if warm_up:
                self._warm_up(*warm_up)
            elif jobs:
                self._draw(jobs)

    def _wait_for_more(self) -> None:
        """Lets those who just got their pictures ask again, while they do: half a batch costs as much as a whole."""
        before = 0
        while self._linger and before < (waiting := sum(map(len, self._waiting))) < self.largest:
            before = waiting
            self._changed.wait(self._linger)

    def _next_batch(self) -> list[Job]:
        """Takes requests out of the queue: the first, and those that fit beside it."""
        for job in [each for each in self._waiting if each.is_cancelled]:
            self._waiting.remove(job)
            job.pictures.set_exception(Cancelled())
        batch: list[Job] = []
        for job in list(self._waiting):
            if batch and (job.key != batch[0].key or sum(map(len, batch)) + len(job) > self.largest):
                continue
            batch.append(job)
            self._waiting.remove(job)
        return batch

    def _draw(self, jobs: list[Job]) -> None:
        began = time.perf_counter()
        try:
            pictures = self._generate(jobs)
        except BaseException as error:  # the callers' futures raise it; the thread goes on
            for job in jobs:
                job.pictures.set_exception(error)
            return
        count, seconds = sum(map(len, jobs)), time.perf_counter() - began
        self._seconds += 0.2 * (seconds / count - self._seconds)
        self._linger = LINGER * seconds if len(jobs) > 1 else 0.0  # one who asks alone waits for nobody
        for job in jobs:
            own, pictures = pictures[: len(job)], pictures[len(job) :]
            if job.is_cancelled:
                job.pictures.set_exception(Cancelled())
            else:
                job.pictures.set_result(own)

    def _generate(self, jobs: list[Job]) -> list[Image.Image]:
        requests = [(job.request, seed) for job in jobs for seed in job.request.seeds]
        size = next(size for size in self.batch_sizes if size >= len(requests))
        requests += [(requests[-1][0], 0)] * (size - len(requests))
        kind, strength, options = jobs[0].key
        arguments = {**_arguments(options), "prompt": [request.prompt for request, _ in requests]}
        if kind != TEXT_TO_IMAGE:
            arguments["image"] = np.concatenate([to_pixels(each.image, *self.size) for each, _ in requests])
        if kind == INPAINT:
            arguments["mask"] = np.concatenate([to_mask(each.mask, *self.size) for each, _ in requests])
        if strength is not None:
            arguments["strength"] = strength
        if kind == VARIATIONS:
            del arguments["prompt"], arguments["guidance_scale"]
        steps = options.num_inference_steps if strength is None else round(strength * options.num_inference_steps)

        def after_step(i: int, timestep: int, x_t: Tensor) -> None:
            if all(job.is_cancelled for job in jobs):
                raise Cancelled
            wants = [job.preview_every > 0 and (i + 1) % job.preview_every == 0 for job in jobs]
            previews, first = self._previews(x_t) if any(wants) else [], 0
            for job, wanted in zip(jobs, wants):
                own = previews[first : first + len(job)]
                job.on_progress(Progress(i + 1, steps, own if wanted else None))
                first += len(job)

        seeds = [seed for _, seed in requests]
        return self._calls[kind](generator=seeds, callback=after_step, **arguments)[0]

    def _previews(self, x_t: Tensor) -> list[Image.Image]:
        """x_t as pictures; masked codes are decoded as the nearest code that is there, and then covered with gray."""
        height, width = self.pipe.transformer.height, self.pipe.transformer.width
        codes = x_t.asnumpy().reshape(-1, height, width)
        masked = codes == self.pipe.scheduler.mask_class
        filled = [_filled(*each) for each in zip(codes, masked)]
        pictures = self.pipe.decode_latents(Tensor(np.stack(filled).reshape(len(codes), -1), ms.int32))
        return [cover_masked(picture, each) for picture, each in zip(pictures, masked)]

    def _warm_up(self, done: Future, options: dict[str, Any]) -> None:
        blank = np.zeros((*self.size, 3), np.uint8)
        try:
            self.pipe.warm_up(self.batch_sizes, **options)
            for size in self.batch_sizes:  # every request brings a picture of its own: one for each prompt
                self._inpaint.encode_pictures(np.stack([blank] * size))
        except BaseException as error:  # the caller's future raises it
            done.set_exception(error)
        else:
            done.set_result(None)


def _arguments(options: SamplingOptions) -> dict[str, Any]:
    """Options as arguments of a call."""
    return {each.name: getattr(options, each.name) for each in fields(options)}


def _filled(codes: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """(height, width) codes, those that are masked replaced by the nearest that is not."""
    if masked.all():
        return np.zeros_like(codes)
    return codes[tuple(distance_transform_edt(masked, return_distances=False, return_indices=True))]
