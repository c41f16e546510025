"""The command ``fairseq-kd extract-peer``: writes a peer of a mutual learning as a checkpoint."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Optional

from fairseq_kd.command_line import Options, Subcommand, user_dir_field
from fairseq_kd.flag_types import Range, file_path, number_field, one_line, option_field

DESCRIPTION = """\
Writes a peer of --criterion mutual_learning as a checkpoint of its own, for fairseq-generate,
fairseq-validate, CTranslate2 and as a teacher. Dictionaries are read from the data folder that the
training used, as for any checkpoint."""


@dataclass(frozen=True, kw_only=True)
class ExtractPeerOptions(Options):
    """The peer, and its file."""

    COMMAND = "extract-peer"
    checkpoint: str = option_field(
        MISSING,
        "a checkpoint of a training with mutual_learning",
        read=one_line,
        positional=True,
        metavar="CKPT",
    )
    peer: int = number_field(
        1,
        Range(int, 1, 99),
        "number of the peer, counted from 1; CKPT itself is the model of the run (default: 1)",
        metavar="N",
    )
    out: Path = option_field(MISSING, "the checkpoint to write", read=file_path, metavar="P.pt")
    user_dir: Optional[str] = user_dir_field()


def run(options: ExtractPeerOptions) -> int:
    """Writes the checkpoint and prints its size."""
    from fairseq_kd.models.peers import write_peer
    from fairseq_kd.plugin import import_user_dir

    import_user_dir(options.user_dir)
    parameters = write_peer(options.checkpoint, options.peer, options.out)
    print(f"peer {options.peer}: {parameters:,} parameters, in {options.out}")
    return 0


SUBCOMMAND = Subcommand(
    ExtractPeerOptions,
    run,
    help="write a peer of a mutual learning as a checkpoint of its own",
    description=DESCRIPTION,
    kept="CKPT is unchanged",
)
