"""`ciao convert-encoder`: weights in other layouts as an encoder's folder."""

from __future__ import annotations

import argparse


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds `convert-encoder`."""
    convert = commands.add_parser(
        "convert-encoder",
        help="make a vggface2 folder from a file of VGG16 or VGGFace weights",
        description="Converts VGG16 weights (PyTorch state dict, safetensors or Keras HDF5) into a vggface2 encoder, "
        "checked against a forward pass of the source's own layout.",
    )
    convert.add_argument("source", metavar="SOURCE", help="a file of weights")
    convert.add_argument("folder", metavar="FOLDER", help="where the encoder goes")
    convert.add_argument(
        "--layout",
        default="auto",
        choices=["auto", "torchvision", "vggface", "keras"],
        help="how the source names and orders its tensors (default: found out)",
    )
    convert.add_argument(
        "--channel-order",
        default="auto",
        choices=["auto", "rgb", "bgr"],
        help="of the pixels that the source was trained on (default: what the layout is known for)",
    )
    convert.add_argument(
        "--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="subtracted from the pixels, from 0 to 255"
    )
    convert.add_argument(
        "--std",
        type=float,
        nargs=3,
        metavar=("R", "G", "B"),
        help="what they are divided by then, from 1 to 255 (58.395 where others write 0.229)",
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
    fed = read_json(folder / PREPROCESSOR_FILE)
    facts = read_json(folder / "config.json")["training"]["converted_from"]
    print(f"layout         {facts['layout']}")
    turned = ", first convolution turned to rgb" if facts["channel_order"] == "bgr" else ""
    print(f"channel order  {facts['channel_order']}{turned}")
    mean, std = (" ".join(f"{255 * value:.7g}" for value in fed[key]) for key in ("image_mean", "image_std"))
    print(f"pixels         minus {mean}, divided by {std}")
    print(f"left out       {len(facts['left_out'])} tensors")
    print(f"same answers   within {facts['largest_difference_of_answers']:.1e} of the largest")
    print(f"load it with   load_encoder('vggface2', weights={str(folder)!r})")
