"""`ciao convert-encoder`: makes an encoder's folder from weights in other layouts."""

from __future__ import annotations

import argparse

from .flags import add_flag


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `convert-encoder`."""
    convert = commands.add_parser(
        "convert-encoder",
        help="make a vggface2 folder from a file of VGG16 or VGGFace weights",
        description="Converts VGG16 weights (PyTorch state dict, safetensors or Keras HDF5) into a vggface2 encoder "
        "and checks it against a forward pass in the source's own layout.",
    )
    convert.add_argument("source", metavar="SOURCE", help="the file of weights")
    convert.add_argument("folder", metavar="FOLDER", help="the folder to write the encoder to")
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
