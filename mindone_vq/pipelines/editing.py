"""Editing of pictures: VQDiffusionInpaintPipeline and VQDiffusionImg2ImgPipeline.

Both have the components of a VQDiffusionPipeline and load its folders. ``VQDiffusionInpaintPipeline.from_pipe(pipe)``
makes one that shares the weights of another pipeline.
"""

from dataclasses import replace
from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.options import check_positive_integer
from mindone_vq.pipelines.base import ImagePipelineOutput
from mindone_vq.pipelines.canvas import Pictures, blended, to_mask, to_pixels, unknown_codes
from mindone_vq.pipelines.checks import check_output_type
from mindone_vq.pipelines.generation import Call, KnownCodes
from mindone_vq.pipelines.graphs import PictureEncoding
from mindone_vq.pipelines.text_to_image import Prompt, VQDiffusionPipeline
from mindone_vq.pipelines.texts import Texts, one_each


class EditingPipeline(VQDiffusionPipeline):
    """The base of both."""

    index_name = VQDiffusionPipeline.__name__

    @property
    def factor(self) -> int:
        """Pixels of a picture to a code, along each axis."""
        return self.vqvae.downscale

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures that the model paints."""
        return self.transformer.height * self.factor, self.transformer.width * self.factor

    def placeholders(self, batch_size: int) -> list[dict[str, Any]]:
        (texts,), black = super().placeholders(batch_size), np.zeros((*self.size, 3), np.uint8)
        return [{**texts, "image": [black] * count} for count in sorted({1, batch_size})]

    def encode_pictures(self, pixels: np.ndarray) -> np.ndarray:
        """(batch, H, W, 3) uint8 -> codes (batch, pixels) that the transformer knows.

        A VQ-VAE may have more codes than the transformer: those are read as code 0, as in Microsoft's models.
        """
        graph = self._graphs.get(PictureEncoding, self.vqvae, name="encoder")
        codes = graph(Tensor(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))).asnumpy()
        return np.where(codes < self.scheduler.mask_class, codes, 0)

    def _sampled(self, call: Call, texts: Texts, known: Optional[KnownCodes] = None) -> Tensor:
        """The codes of a call, (batch, pixels) int32."""
        conditioning = self.denoiser.condition(*self.encode_texts(texts), texts.weights)
        for _, x_t in self.sample(call, conditioning, known):
            codes = x_t
        return codes


class VQDiffusionInpaintPipeline(EditingPipeline):
    """Inpainting and outpainting: generates a part of a picture from a prompt."""

    def placeholders(self, batch_size: int) -> list[dict[str, Any]]:
        return [{**each, "mask": np.ones(self.size, bool)} for each in super().placeholders(batch_size)]

    def __call__(
        self,
        image: Pictures,
        mask: Pictures,
        prompt: Prompt,
        resample: int = 1,
        output_type: str = "pil",
        return_dict: bool = True,
        **options: Any,
    ) -> ImagePipelineOutput:
        """Generates pictures that are ``image`` outside of ``mask``.

        Codes none of whose pixels is painted are held, at every step, to what the forward process makes of them. Pixels
        outside the mask are those of the image, exactly; inside, the colours meet them without a seam.

        Args:
            image: a PIL picture or an array, uint8 or float in [0, 1]; a list gives each prompt its own. Another size
                than the model's is resized, with a warning.
            mask: white (or 1, or True) where to paint; one for all, or one for each.
            prompt: what to show.
            resample: how often each step is done, going back between: above 1 the new part fits the old one better, and
                takes as many times longer (RePaint, arXiv 2201.09865).
            output_type: "pil", "np", or "latent": the codes.
            return_dict: accepted, and changes nothing: see ``mindone_vq.outputs``.
            options: the other arguments of ``VQDiffusionPipeline``.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        check_output_type(output_type)
        check_positive_integer(resample, "resample")
        call, texts = self.prepare_text(prompt=prompt, **options)
        pixels, painted = to_pixels(image, *self.size), to_mask(mask, *self.size)
        _check_count(call.batch, pixels, painted)
        codes, is_known = self.encode_pictures(pixels), ~unknown_codes(painted, self.factor)
        known = KnownCodes(*(np.broadcast_to(each, call.x_T.shape) for each in (codes, is_known)), resample)
        noisy = known.at(self.scheduler.num_train_timesteps - 1, self.scheduler, call.generator)
        # start codes would choose another picture than the known codes are from
        start = self.scheduler.mask_class if options.get("latents") is None else call.x_T.asnumpy()
        x_T = Tensor(np.where(known.is_known, noisy, start).astype(np.int32))
        images = self._sampled(replace(call, x_T=x_T), texts, known)
        if output_type != "latent":
            images = self.decode_latents(images, "np")
            pixels, painted = (np.broadcast_to(each, (len(images), *each.shape[1:])) for each in (pixels, painted))
            rows = zip(pixels.astype(np.float32) / 255, images, painted)
            images = np.stack([blended(*row, reach=self.factor) for row in rows])
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        return ImagePipelineOutput(images)


class VQDiffusionImg2ImgPipeline(EditingPipeline):
    """Image to image: changes a whole picture, more or less strongly."""

    def __call__(self, image: Pictures, prompt: Prompt, strength: float = 0.8, **options: Any) -> ImagePipelineOutput:
        """Generates from ``image`` made noisy.

        Args:
            image: as ``VQDiffusionInpaintPipeline`` takes it.
            prompt: what to show.
            strength: the share of the steps that are run, from the picture with the noise of the first of them. 0
                reconstructs the picture with the VQ-VAE; 1 is text to image. Between, the sampler "ancestral" also
                replaces codes that contradict the prompt; the others only change masked codes.
            options: the other arguments of ``VQDiffusionPipeline``; ``latents`` only with a strength of 1.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        return self._changed(image, strength, prompt=prompt, **options)

    def variations(self, image: Pictures, strength: float = 0.5, **options: Any) -> ImagePipelineOutput:
        """Pictures like ``image``: as a call with the null text for a prompt.

        Args:
            image, strength: as in a call.
            options: as in a call, without ``guidance_scale`` and the arguments about prompts.
        """
        null = one_each(self.null_texts(), len(to_pixels(image, *self.size)))
        text = {"prompt": null} if isinstance(null, list) else {"prompt_embeds": Tensor(null, ms.float32)}
        return self._changed(image, strength, **text, guidance_scale=1.0, **options)

    def _changed(self, image: Pictures, strength: float, **options: Any) -> ImagePipelineOutput:
        if not 0 <= strength <= 1:
            raise ValueError(f"strength is {strength}; it must be from 0, the picture, to 1, the prompt alone.")
        if strength < 1 and options.get("latents") is not None:
            raise ValueError(
                f"latents are where the chain starts at strength 1; at strength {strength} it starts at the image: "
                "leave one of the two out."
            )
        call, texts = self.prepare_text(**options)
        pixels = to_pixels(image, *self.size)
        _check_count(call.batch, pixels)
        codes = np.broadcast_to(self.encode_pictures(pixels), call.x_T.shape)
        if strength < 1:
            steps = call.steps[len(call.steps) - round(strength * len(call.steps)) :]
            if steps:
                x_T = self.scheduler.add_noise(codes, steps[0].timestep, call.generator)
            else:
                x_T = Tensor(codes, ms.int32)
            call = replace(call, steps=steps, x_T=x_T)
        return self.decode(self._sampled(call, texts), call.output_type)


def _check_count(batch: int, *given: np.ndarray) -> None:
    """Pictures and masks: one for all, or one for each."""
    for each in given:
        if len(each) not in (1, batch):
            raise ValueError(f"{len(each)} pictures or masks given for {batch} pictures: give one, or one for each.")
