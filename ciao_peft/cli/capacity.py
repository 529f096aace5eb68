"""`ciao plan-capacity`: what a number of faces costs in disk, hours and machines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import ConfigError
from .flags import add_flag

_FACES = (287_651, 10**8, 10**9)  # AffectNet's training set with labels, and two that are not there yet


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `plan-capacity`."""
    plan = commands.add_parser(
        "plan-capacity",
        help="what more faces cost in disk, hours and machines",
        description="Measures for some seconds what one face costs on this machine, and says what many cost: the disk "
        "for their features, the hours to store them and to train worlds on them, and the machines for it.",
    )
    plan.add_argument("--encoder", default="small-face", help="as `load_encoder` takes it (default: %(default)s)")
    plan.add_argument("--faces", type=_whole, nargs="+", default=_FACES, help="how many, such as 287651 1e8 1e9")
    plan.add_argument(
        "--worlds", type=_whole, nargs="+", default=(1, 16), help="adapters trained on them (default: 1 16)"
    )
    plan.add_argument("--views", type=_whole, default=2, help="stored views of each face (default: %(default)s)")
    plan.add_argument("--epochs", type=_whole, default=12, help="of each training (default: %(default)s)")
    plan.add_argument("--cores", type=_whole, default=16, help="of each machine (default: %(default)s)")
    plan.add_argument("--days", type=float, help="in which all must be done (default: one machine, however long)")
    plan.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="of the features (default: float32's)"
    )
    add_flag(plan, "include_excitation", action="store_true", help="store u as well")
    add_flag(plan, "num_probe", type=_whole, default=128, help="faces that are measured (default: %(default)s)")
    plan.add_argument("--rates", metavar="FILE", help="rates that were measured elsewhere; nothing is measured then")
    add_flag(plan, "save_rates", metavar="FILE", help="write the rates, for --rates")
    plan.add_argument("--json", action="store_true", help="print the result as JSON")
    plan.set_defaults(run=_plan)


def _whole(text: str) -> int:
    number = float(text)
    if not 1 <= number <= 1e15 or number != int(number):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number, 1 or more")
    return int(number)


def _plan(options: argparse.Namespace) -> None:
    from ..capacity import Rates, capacity_table, measure_rates, plan_capacity
    from ..door import read_json
    from ..encoders import load_encoder
    from ..saving.files import refusals_told, to_json, write_file

    if options.rates:
        rates = Rates.from_dict(read_json(Path(options.rates).expanduser(), error=ConfigError))
    else:
        rates = measure_rates(
            load_encoder(options.encoder),
            faces=max(options.num_probe, 4),
            dtype=options.dtype,
            include_excitation=options.include_excitation,
        )
    if options.save_rates:
        with refusals_told(ConfigError, options.save_rates, "Give another file."):
            write_file(options.save_rates, to_json(rates.to_dict()))
    plans = [
        plan_capacity(
            rates,
            faces,
            worlds=worlds,
            views=options.views,
            epochs=options.epochs,
            cores=options.cores,
            days=options.days,
        )
        for faces in options.faces
        for worlds in options.worlds
    ]
    if options.json:
        print(json.dumps({"rates": rates.to_dict(), "plans": [vars(plan) for plan in plans]}, indent=2))
        return
    print(
        f"{rates.encoder}: {rates.feature_bytes:,} bytes of features a face; milliseconds of one core to decode it "
        f"{1000 * rates.decode_seconds:.2f}, to store it {1000 * rates.trunk_seconds:.2f}, for a step "
        f"{1000 * rates.step_seconds:.2f}. {options.views} views, {options.epochs} epochs, machines of "
        f"{options.cores} cores.\n"
    )
    print(capacity_table(plans))
