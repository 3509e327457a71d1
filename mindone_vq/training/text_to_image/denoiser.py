"""What training a text-to-image pipeline and distilling one have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, nn
from PIL import Image

from mindone_vq.pictures import grid
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.training.run import Training
from mindone_vq.training.text_to_image.loss import TextToImageLoss
from mindone_vq.training.update.updates import Update, Updates

PREVIEWS_OF_A_PROMPT = 4


class DenoiserTraining(Training):
    """Changes the denoiser, and if wanted the text encoder, of a pipeline.

    A subclass sets ``pipe`` and ``prompts`` (of the previews), makes ``updates`` by ``_make_updates``, and gives
    ``advance``, ``call_settings`` and ``training_notes``.
    """

    pipe: VQDiffusionPipeline
    prompts: list[str]

    @property
    def call_settings(self) -> dict[str, Any]:
        """How the pipeline samples by default, and for the previews but for their steps."""
        raise NotImplementedError

    @property
    def training_notes(self) -> str:
        """For the model card."""
        raise NotImplementedError

    def _make_updates(self, loss: nn.Cell) -> Updates:
        """Updates by ``loss``, of the denoiser's output."""
        pipe, settings = self.pipe, self.settings
        if settings.recompute:
            pipe.transformer.enable_gradient_checkpointing()
        null_text = pipe.learned_classifier_free_sampling_embeddings
        whole = TextToImageLoss(pipe.text_encoder, null_text, pipe.transformer, loss, settings.train_text_encoder)
        return Updates(whole, self._trained(), settings, self.devices)

    def _trained(self) -> list[Parameter]:
        cells = [self.pipe.transformer, self.pipe.learned_classifier_free_sampling_embeddings]
        cells += [self.pipe.text_encoder] if self.settings.train_text_encoder else []
        return [parameter for cell in cells for parameter in cell.trainable_params()]

    def _update(self, batch: Sequence[np.ndarray]) -> tuple[Update, list[np.ndarray]]:
        """One update, by the arguments of the loss for the whole batch; and what the loss reports, two of (batch,)."""
        # each part of the batch is shared by all devices
        columns = (np.split(array, self.settings.accumulation) for array in batch)
        parts = [tuple(map(self.devices.part, part)) for part in zip(*columns)]
        update = self.updates(self.step, self.learning_rate.at(self.step), parts)
        reports = [
            np.concatenate([self.devices.gather(report[i].asnumpy()) for report in update.reports]) for i in range(2)
        ]
        return update, reports

    def previews(self) -> dict[str, Image.Image]:
        """Four pictures of each prompt."""
        columns = PREVIEWS_OF_A_PROMPT
        with self.updates:
            pictures = self.pipe(
                self.prompts,
                num_images_per_prompt=columns,
                generator=list(range(columns * len(self.prompts))),
                **{**self.call_settings, **self._preview_settings()},
            )[0]
        rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
        return {"prompts": grid(rows, self.prompts)}

    def _preview_settings(self) -> dict[str, Any]:
        """What previews have beside or in place of ``call_settings``."""
        return {}

    def save(self, folder: Path) -> None:
        """The pipeline, as ``VQDiffusionPipeline.from_pretrained`` reads it."""
        self.pipe.default_settings.update(self.call_settings)
        self.pipe.training_notes = self.training_notes
        with self.updates:
            self.pipe.save_pretrained(folder)
