"""How well the VQ-VAE of the emoji model reconstructs pictures that it was not trained on: PSNR and SSIM.

    pip install -e ".[benchmarks]"
    python benchmarks/emoji_codec.py GOOGLE EMOJIBASE [--model FOLDER]

The folders are those that examples/emoji_data.py reads. Both measures are means over pictures of 64 x 64 pixels on
white; SSIM is that of the paper (doi 10.1109/TIP.2003.819861), by scikit-image, as a mean over the channels.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from turns import table

from mindone_vq import VQModel
from mindone_vq.demo import EMOJI_MODEL
from mindone_vq.demo.emoji import SIDE, read
from mindone_vq.demo.emoji_evaluation import Codec

PAPER = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("google", type=Path)
    parser.add_argument("emojibase", type=Path)
    parser.add_argument("--model", type=Path, default=EMOJI_MODEL / "vqvae", help="a VQModel [%(default)s]")
    options = parser.parse_args()
    codec, rows = Codec(VQModel.from_pretrained(options.model), SIDE, SIDE), []
    emoji = read(options.google, options.emojibase)
    unseen = [each for each in emoji if each.is_held_out]
    trained = [each for each in emoji if each.cell and not each.is_held_out]
    others = [each for each in emoji if not each.cell]
    for name, group in (("cells held out", unseen), ("other cells", trained), ("other emoji", others)):
        pixels = np.stack([np.asarray(each.picture()) for each in group])
        pairs = list(zip(pixels, codec.reconstructions(pixels)))
        psnr = statistics.fmean(peak_signal_noise_ratio(*pair) for pair in pairs)
        ssim = statistics.fmean(structural_similarity(*pair, channel_axis=-1, **PAPER) for pair in pairs)
        rows.append([name, str(len(group)), f"{psnr:.1f} dB", f"{ssim:.3f}"])
    print(table(["", "pictures", "PSNR", "SSIM"], rows))


if __name__ == "__main__":
    main()
