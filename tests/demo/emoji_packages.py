"""Small stand-ins for the two npm packages that the emoji come from."""

import hashlib
import json
from pathlib import Path

from PIL import Image

SKINS = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}


def entry(label, code, tones=True, **others):
    """An emoji as emojibase-data has it; the tone follows the first code point."""
    first, *rest = code.split("-")
    skins = [{"label": label, "hexcode": "-".join([first, skin, *rest])} for skin in SKINS] if tones else []
    return {"label": label, "hexcode": code, "skins": skins, **others}


ENTRIES = [
    entry("firefighter", "1F9D1-200D-1F692", tags=["fire"]),
    entry("man firefighter", "1F468-200D-1F692"),
    entry("woman firefighter", "1F469-200D-1F692"),
    entry("person running", "1F3C3"),
    entry("man running", "1F3C3-200D-2642-FE0F"),
    entry("woman running", "1F3C3-200D-2640-FE0F"),
    entry("person: blond hair", "1F471"),
    entry("man: blond hair", "1F471-200D-2642-FE0F"),
    entry("woman: blond hair", "1F471-200D-2640-FE0F"),
    entry("prince", "1F934"),  # in one gender only
    entry("OK hand", "1F44C", tags=["ok", "sweet"]),
    entry("red apple", "1F34E", tones=False, tags=["apple", "fruit", "ripe", "diet", "food"]),
    {
        **entry("men holding hands", "1F46C", tones=False),
        "skins": [{"label": "", "hexcode": "1F468-1F3FB-200D-1F91D-200D-1F468-1F3FF"}],
    },
]


def write_packages(folder: Path) -> tuple[Path, Path]:
    """Both packages, unpacked: the left half of a picture has a colour of its own, the right half is transparent."""
    google, emojibase = folder / "google", folder / "emojibase"
    (google / "img/google/64").mkdir(parents=True)
    (emojibase / "en").mkdir(parents=True)
    (emojibase / "en/data.json").write_text(json.dumps(ENTRIES))
    index = []
    for each in ENTRIES:
        codes = [each["hexcode"], *(skin["hexcode"] for skin in each["skins"])]
        images = [{"unified": code, "image": f"{code.lower()}.png"} for code in codes]
        index.append({**images[0], "skin_variations": {str(i): image for i, image in enumerate(images[1:])}})
        for image in images:
            picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
            picture.paste((*colour(image["unified"]), 255), (0, 0, 32, 64))
            picture.save(google / "img/google/64" / image["image"])
    (google / "emoji.json").write_text(json.dumps(index))
    return google, emojibase


def colour(code: str) -> tuple[int, int, int]:
    """Of the picture with these code points."""
    return tuple(hashlib.sha256(code.encode()).digest()[:3])
