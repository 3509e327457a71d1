"""Captioned pictures of Noto Emoji, 64 x 64 on white, from two npm packages.

    npm pack emoji-datasource-google@16.0.0 emojibase-data@16.0.3
    mkdir google emojibase
    tar xzf emoji-datasource-google-16.0.0.tgz -C google --strip-components 1
    tar xzf emojibase-data-16.0.3.tgz -C emojibase --strip-components 1
    python examples/emoji_data.py google emojibase data/emoji

Writes PNG files and metadata.jsonl (file_name, text), several captions for each picture. The combinations of role,
gender and tone in mindone_vq/demo/emoji_held_out.txt are left out; --held-out writes only these, with one caption each.
--people writes only combinations of role, gender and tone, without the captions that name the tone alone.
The pictures are Noto Emoji, Apache-2.0; names and tags are emojibase's, MIT.
"""

import argparse
from pathlib import Path

import common
from tqdm import tqdm

from mindone_vq.demo.emoji import read


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("google", type=Path, metavar="GOOGLE", help="the unpacked package emoji-datasource-google")
    parser.add_argument("emojibase", type=Path, metavar="EMOJIBASE", help="the unpacked package emojibase-data")
    parser.add_argument("folder", type=Path, metavar="DIR", help="is created; must not contain metadata.jsonl")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--held-out", action="store_true", help="only combinations that are held out")
    which.add_argument("--people", action="store_true", help="only combinations of role, gender and tone")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    emoji = read(options.google, options.emojibase)
    chosen = [each for each in emoji if each.is_held_out == options.held_out and (each.cell or not options.people)]
    most = 1 if options.held_out else 4 if options.people else None
    pictures = ((f"{each.code.lower()}.png", each.picture(), each.captions[:most]) for each in tqdm(chosen))
    captions = common.write_image_folder(options.folder, pictures)
    print(f"Wrote {len(chosen)} pictures with {captions} captions to {options.folder}.")


if __name__ == "__main__":
    common.run(main)
