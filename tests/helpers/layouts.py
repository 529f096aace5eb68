"""The datasets as they lie on disk once they are unpacked, with painted faces in place of the released ones."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ciao_peft.data import paint_face
from ciao_peft.data.affectnet import COLUMNS
from ciao_peft.data.votes import VOTES

# -- JAFFE -------------------------------------------------------------------------------------------------------------


JAFFE_SUBJECTS = ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")
JAFFE_CODES = ("AN", "DI", "FE", "HA", "NE", "SA", "SU")
FOUR = {"KA-FE", "KA-HA", "KL-DI", "KM-HA", "KM-SA", "YM-FE"}
TWO = {"KM-DI", "KR-HA", "NM-DI"}
MISSING_NUMBERS = {8, 12, 21, 76, 108, 183}


def jaffe_names():
    """The 213 names with the cells, gaps and odd repetitions of the released set."""
    numbers = iter(number for number in range(1, 220) if number not in MISSING_NUMBERS)
    for subject in JAFFE_SUBJECTS:
        for code in JAFFE_CODES:
            cell = f"{subject}-{code}"
            repetitions = [1, 2, 3, 4] if cell in FOUR else [1, 3] if cell in TWO else [1, 2, 3]
            if cell == "KM-SA":
                repetitions[-1] = 5
            for repetition in repetitions:
                yield f"{subject}.{code}{repetition}.{next(numbers)}.tiff"


def write_jaffe(folder, names=None, size=32):
    """Drawn faces under JAFFE's names: grey, and palette files where the released ones are."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names or jaffe_names()):
        image = paint_face(seed=index, size=size).convert("L")
        if name.startswith("KM.") or name == "KA.AN1.1.tiff":
            grey = image
            image = Image.new("P", grey.size)
            image.putpalette([value for level in range(256) for value in (level, level, level)])
            image.putdata(list(grey.tobytes()))
        image.save(folder / name)
    return folder


# -- AffectNet ---------------------------------------------------------------------------------------------------------


def affectnet_entries(count=22):
    """Face i has expression i % 11; the last two classes have no arousal and valence."""
    found = []
    for i in range(count):
        expression = i % 11
        valence, arousal = (-2.0, -2.0) if expression >= 9 else (round(-0.9 + 0.08 * i, 2), round(0.9 - 0.07 * i, 2))
        found.append((f"{i % 3 + 1}/{i:056x}.png", expression, valence, arousal))
    return found


def affectnet_picture(index):
    """40x30: a face of 20x20 at x = 12, y = 4 on black."""
    image = Image.new("RGB", (40, 30))
    image.paste(paint_face(seed=index, size=20), (12, 4))
    return image


def write_affectnet(
    folder, rows, split="training", header=True, images="Manually_Annotated_Images", lists="", columns=COLUMNS
):
    place = folder / images
    for index, (name, *_) in enumerate(rows):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        affectnet_picture(index).save(place / name)
    landmarks = ";".join(str(float(i)) for i in range(136))
    lines = [",".join(columns)] if header else []
    for name, expression, valence, arousal in rows:
        values = dict(zip(COLUMNS, (name, 12, 4, 20, 20, landmarks, expression, valence, arousal), strict=True))
        lines.append(",".join(str(values[column]) for column in columns))
    (folder / lists).mkdir(parents=True, exist_ok=True)
    (folder / lists / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


# -- EmoReact ----------------------------------------------------------------------------------------------------------


def centre(image):
    """A detector that takes the middle of every picture for a face."""
    height, width = image.shape[:2]
    return [(width // 2 - 24, height // 2 - 24, 48, 48)]


def write_video(path, shades, size=(96, 64)):
    """One frame per shade of grey, with a face in the middle."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for shade in shades:
            image = Image.new("RGB", size, (shade, shade, shade))
            image.paste(paint_face(seed=2, size=48), (size[0] // 2 - 24, size[1] // 2 - 24))
            for packet in stream.encode(av.VideoFrame.from_image(image)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


# Name as on disk, as MATLAB quotes it, labels, valence.
EMOREACT_CLIPS = {
    "Train": [
        ("80'sTOYS105_2.mp4", "'80''sTOYS105_2.mp4'", [1, 0, 0, 1, 0, 0, 0, 0], "3.3333"),
        ("ZOMBIES12_1.mp4", "'ZOMBIES12_1.mp4'", [0] * 8, "4"),
        ("ALPHA1_1.mp4", "'ALPHA1_1.mp4'", [1, 1, 1, 1, 1, 1, 1, 0], "6.6667"),
    ],
    "Validation": [("BETA_1.mp4", "'BETA_1.mp4'", [0, 0, 0, 0, 0, 0, 1, 0], "1")],
    "Test": [("GAMMA_1.mp4", "'GAMMA_1.mp4'", [0, 1, 0, 0, 0, 0, 0, 1], "7")],
}
EMOREACT_FILES = {"Train": ("Train_names.txt", "train_labels.text"), "Validation": ("Val_names.txt", "val_labels.text")}
EMOREACT_FILES["Test"] = ("Test_names.txt", "test_labels.text")


def write_emoreact(folder, *, frames=12, names_in="", videos_in=None, strip_apostrophes=False):
    for split, clips in EMOREACT_CLIPS.items():
        names, labels = (folder / names_in / EMOREACT_FILES[split][0], folder / "Labels" / EMOREACT_FILES[split][1])
        for path in (names, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        # As released: no newline at the end of Train and Test, an empty line at the end of Val.
        names.write_text("\n".join(quoted for _, quoted, _, _ in clips) + ("\n\n" if split == "Validation" else ""))
        labels.write_text("\n".join(",".join(map(str, [*signs, valence])) for _, _, signs, valence in clips))
        for number, (name, *_) in enumerate(clips):
            name = name.replace("'", "") if strip_apostrophes else name
            shades = [60 + 10 * number + step for step in range(frames)]
            write_video(folder / "Data" / (videos_in or split) / name, shades)
    return folder


# -- FER2013 and FER+ --------------------------------------------------------------------------------------------------


FER_USAGES = ["Training", "PublicTest", "PrivateTest"]


def grey_face(seed):
    """(48, 48) uint8"""
    return np.asarray(paint_face(seed=seed, size=48).convert("L"))


def pixel_text(seed):
    return " ".join(map(str, grey_face(seed).ravel().tolist()))


def fer2013_rows(count=12):
    """(emotion, usage, pixels): face number i has emotion i % 7 and usage i % 3"""
    return [(i % 7, FER_USAGES[i % 3], pixel_text(i)) for i in range(count)]


def write_fer2013(folder, entries, name="fer2013.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    if name == "fer2013.csv":
        lines = ["emotion,pixels,Usage"] + [f"{emotion},{pixels},{usage}" for emotion, usage, pixels in entries]
    elif name == "icml_face_data.csv":
        lines = ["emotion, Usage, pixels"] + [f"{emotion},{usage},{pixels}" for emotion, usage, pixels in entries]
    else:
        lines = ["emotion,pixels"] + [f"{emotion},{pixels}" for emotion, _, pixels in entries]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def votes(**counts):
    """`votes(happiness=6, fear=4)`: ten numbers in the order of the columns."""
    return [counts.get(name, 0) for name in VOTES]


def write_ferplus(folder, answers, usages=None, pixels="fer2013.csv", names=None):
    """fer2013new.csv and its pixels: row i shows face i."""
    folder.mkdir(parents=True, exist_ok=True)
    usages = usages or [FER_USAGES[i % 3] for i in range(len(answers))]
    names = names or [f"fer{i:07d}.png" for i in range(len(answers))]
    lines = ["Usage,Image name," + ",".join(VOTES)]
    lines += [f"{u},{n}," + ",".join(map(str, a)) for u, n, a in zip(usages, names, answers, strict=True)]
    (folder / "fer2013new.csv").write_text("\n".join(lines) + "\n")
    texts = [pixel_text(i) for i in range(len(answers))]
    if pixels == "fer2013.csv":
        lines = ["emotion,pixels,Usage"] + [f"0,{text},{usage}" for text, usage in zip(texts, usages, strict=True)]
    else:
        lines = ["emotion, Usage, pixels"] + [f"0,{usage},{text}" for text, usage in zip(texts, usages, strict=True)]
    (folder / pixels).write_text("\n".join(lines) + "\n")
    return folder


FERPLUS_ANSWERS = [
    votes(happiness=9, neutral=1),
    votes(anger=6, disgust=4),
    votes(fear=6, surprise=4),
    votes(sadness=5, neutral=4, contempt=1),
    votes(contempt=8, neutral=2),
    votes(neutral=10),
    votes(surprise=4, fear=3, happiness=3),
    votes(disgust=10),
    votes(sadness=9),  # one row sums to nine
]
