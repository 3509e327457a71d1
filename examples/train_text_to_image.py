"""Trains text to image on captioned pictures: from scratch around a VQ-VAE, or an existing pipeline further.

    python examples/train_text_to_image.py DATA --vqvae outputs/vqvae --output outputs/my_model
    python examples/train_text_to_image.py DATA --model-from PIPELINE --output outputs/my_model
    msrun --worker_num 8 --local_worker_num 8 examples/train_text_to_image.py DATA ...

DATA is an image folder with metadata.jsonl (file_name, text), or MindRecord. --config FILE reads any of the options
below from YAML. --output becomes a pipeline folder; --resume continues a run that was cut off.

With the defaults, around a VQ-VAE of the defaults, two cores of a CPU take some 16 hours; for a first try, of some 40
minutes, add --config examples/configs/shapes_text_to_image.yaml.
"""

import common

from mindone_vq.training.text_to_image.training import TextToImageSettings, TextToImageTraining

if __name__ == "__main__":
    common.run_training(TextToImageSettings, TextToImageTraining, __doc__)
