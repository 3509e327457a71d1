"""Compiling what a call needs before the call."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Union

from mindone_vq.diffusion.options import check_positive_integer
from mindone_vq.pipelines.generation import Call

# What has no influence on the graphs of a call, and must not be used up or called by a warm-up.
NEUTRAL = {"generator": 0, "callback": None, "callback_on_step_end": None}


class WarmUp:
    """The method ``warm_up`` of the pipelines."""

    _warms_up = False

    def warm_up(self, batch_size: Union[int, Sequence[int], None] = None, **options: Any) -> None:
        """Compiles every graph that a call with the same settings needs, and changes nothing else.

        It runs such calls on placeholders, with one step for each graph, so that the first real call does not compile:
        text encoder, condition, denoising steps, decoder; in pipelines that edit pictures also the encoder.

        Args:
            batch_size: prompts (or classes, or pictures) of a call, or a list of several numbers. None: 1.
            options: arguments of a call, such as ``guidance_scale``, ``sampler`` or ``num_images_per_prompt``. An
                argument that is left out and has no default is filled in: empty prompts, class 0, black pictures, each
                prompt with its own and one for all. Give ``prompt`` in place of ``batch_size`` for weighted prompts.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        given_sizes = 1 if batch_size is None else batch_size
        sizes = given_sizes if isinstance(given_sizes, (list, tuple)) else [given_sizes]
        for size in sizes:
            check_positive_integer(size, "batch_size")
        pipe = copy.copy(self)  # with the same graphs
        pipe._warms_up = True
        pipe.set_progress_bar_config(disable=True)
        for size in sizes:
            for placeholders in self.placeholders(size):
                given = [name for name in placeholders if name in options]
                if given and batch_size is not None:
                    raise ValueError(f"batch_size is {batch_size}, which {given[0]} says, too: leave one of them out.")
                pipe(**{**placeholders, **options, **NEUTRAL})

    def placeholders(self, batch_size: int) -> list[dict[str, Any]]:
        """For each kind of call, the required arguments of ``batch_size`` prompts, as ``warm_up`` gives them."""
        raise NotImplementedError


def one_step_of_each_graph(call: Call) -> Call:
    """``call`` with one of the steps with guidance, and one of those without."""
    steps = {call.options.guidance_scale_at(step.time) == 1: step for step in call.steps}
    return replace(call, steps=list(steps.values()))
