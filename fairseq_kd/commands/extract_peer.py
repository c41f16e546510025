"""The command ``fairseq-kd extract-peer``."""

import argparse

from fairseq_kd.commands.user_dir import add_user_dir, register_models
from fairseq_kd.flag_types import Range, file_path, one_line

DESCRIPTION = """\
Writes a peer of --criterion mutual_learning as a checkpoint of its own, for fairseq-generate,
fairseq-validate, CTranslate2 and as a teacher. Dictionaries are read from the data folder that the
training used, as for any checkpoint."""


def add_parser(subcommands: argparse._SubParsersAction) -> None:
    """Adds the command to the command line."""
    parser = subcommands.add_parser(
        "extract-peer",
        help="write a peer of a mutual learning as a checkpoint of its own",
        description=DESCRIPTION,
    )
    parser.add_argument(
        "checkpoint",
        type=one_line,
        metavar="CKPT",
        help="a checkpoint of a training with mutual_learning",
    )
    parser.add_argument(
        "--peer",
        type=Range(int, 1, 99),
        default=1,
        metavar="N",
        help="which one, counted from 1; the model of the run is CKPT itself (default: 1)",
    )
    parser.add_argument(
        "--out", required=True, type=file_path, metavar="P.pt", help="the checkpoint to write"
    )
    add_user_dir(parser)
    parser.set_defaults(run=run, kept="CKPT is as it was")


def run(args: argparse.Namespace) -> int:
    """Writes the checkpoint and says how large it is."""
    register_models(args)
    from fairseq_kd.models.peers import write_peer

    parameters = write_peer(args.checkpoint, args.peer, args.out)
    print(f"peer {args.peer}: {parameters:,} parameters, in {args.out}")
    return 0
