"""Any number of pictures, a batch at a time, by any number of workers."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from PIL import Image
from tqdm import tqdm

from mindone_vq.pipelines.picture_folder import Picture, PictureFolder
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline

MEMORY = 4 << 30  # bytes that the numbers of one step may take
LARGEST_BATCH = 64
OUT_OF_MEMORY = re.compile("out of memory|not enough|isn't enough|alloc", re.IGNORECASE)


def default_batch_size(transformer: Mapping[str, Any]) -> int:
    """How many pictures to make at a time: as many as are estimated to need 4 GB beside the weights, 64 at most.

    The estimate counts, for each pixel of the grid with and without the prompt, eight numbers for each class (logits,
    probabilities, their sums ...), sixteen for each channel, and two rows of attention for each head. It looks at the
    model only, so that the same command makes the same batches everywhere.

    Args:
        transformer: the denoiser's config, complete.
    """
    heads, pixels = transformer["num_attention_heads"], transformer["sample_size"] ** 2
    width = heads * transformer["attention_head_dim"]
    numbers = 2 * pixels * (8 * transformer["num_vector_embeds"] + 16 * width + 2 * heads * pixels)
    return max(1, min(LARGEST_BATCH, MEMORY // (4 * numbers)))


def share(count: int, batch_size: int, rank: int = 0, workers: int = 1) -> list[range]:
    """The batches of one worker: every ``workers``-th of those that pictures 0 to ``count`` make.

    A picture has the same place in the same batch whoever makes it, and whatever is made already: its numbers are then
    rounded in the same way, too.
    """
    size = min(batch_size, count)
    return [range(start, min(start + size, count)) for start in range(0, count, size)][rank::workers]


def generate_missing(
    pipe: VQDiffusionPipeline,
    folder: PictureFolder,
    batches: Sequence[range],
    batch_size: int,
    done: Collection[int],
    settings: Mapping[str, Any],
    title: str = "",
) -> None:
    """Makes what is not there yet of ``batches``, and saves each batch when it is made.

    Args:
        batches: as ``share`` gives them.
        batch_size: every batch is filled up to this, so that nothing compiles again.
        done: numbers of the pictures that are there.
        settings: arguments of the pipeline's call.
        title: stands before the progress bar.

    Raises:
        MemoryError: a batch does not fit; what was made before stays.
    """
    pipe.set_progress_bar_config(disable=True)
    size = min(batch_size, len(folder.pictures))
    missing = [[number for number in batch if number not in done] for batch in batches]
    total = sum(map(len, batches))
    with tqdm(total=total, initial=total - sum(map(len, missing)), desc=title or None, unit="picture") as bar:
        for batch, wanted in zip(batches, missing):
            if not wanted:
                continue
            images = _generate(pipe, [folder.pictures[number] for number in batch], size, settings)
            for number in wanted:
                folder.save(number, images[number - batch.start])
            bar.update(len(wanted))


def _generate(
    pipe: VQDiffusionPipeline, pictures: Sequence[Picture], size: int, settings: Mapping[str, Any]
) -> list[Image.Image]:
    empty = size - len(pictures)
    prompts = [picture.prompt for picture in pictures] + [""] * empty
    seeds = [picture.seed for picture in pictures] + [0] * empty
    try:
        return pipe(prompts, generator=seeds, **settings)[0]
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            raise MemoryError(
                f"A batch of {size} does not fit into memory: give a smaller batch size. What was made stays. ({error})"
            ) from error
        raise
