"""Distils a text-to-image pipeline into a student that needs a few steps and no guidance.

    python examples/distill.py PIPELINE --prompts prompts.txt --student-steps 4 --output outputs/student
    python examples/text_to_image.py "a prompt" --model outputs/student

The teacher draws pictures of the prompts; a copy of it learns to draw them in a few steps. --config FILE reads any of
the options below from YAML. --output becomes a pipeline folder, whose calls take the student's steps by default;
--resume continues a run that was cut off, in either part.
"""

import common

from mindone_vq.training.distillation.settings import DistillationSettings
from mindone_vq.training.distillation.training import DistillationTraining

if __name__ == "__main__":
    common.run_training(DistillationSettings, DistillationTraining, __doc__)
