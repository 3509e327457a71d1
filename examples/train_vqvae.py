"""Trains the VQ-VAE, pictures to codes and back, from scratch.

    python examples/train_vqvae.py DATA --output outputs/vqvae

DATA is a folder of pictures (with or without metadata.jsonl), or MindRecord. --config FILE reads any of the options
below from YAML. The model is written into --output at the end; --resume continues a run that was cut off.

With the defaults two cores of a CPU take about a day, and 5 GB of memory. For a first try, of some 20 minutes:

    python examples/train_vqvae.py DATA --config examples/configs/shapes_vqvae.yaml --output outputs/vqvae
"""

import common

from mindone_vq.training.vqvae.training import VQVAESettings, VQVAETraining

if __name__ == "__main__":
    common.run_training(VQVAESettings, VQVAETraining, __doc__)
