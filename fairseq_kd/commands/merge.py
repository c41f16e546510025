"""The command ``fairseq-kd merge``: joins the shards of ``translate --shard``."""

from fairseq_kd.command_line import Subcommand
from fairseq_kd.decoding.options import MergeOptions


def run(options: MergeOptions) -> int:
    """Merges the shards, or prints that they are merged."""
    from fairseq_kd.decoding.decode import merge_shards

    merge_shards(options.folder)
    return 0


SUBCOMMAND = Subcommand(
    MergeOptions,
    run,
    help="join shards of translate that were decoded on other machines",
    description="Joins the shards of fairseq-kd translate --shard to OUT/hypotheses.txt, the "
    "file that an undivided run writes, bit for bit. The last shard to end does so by itself. "
    "Use this command for shards that were decoded on other machines and copied together.",
    kept="the shards are kept",
)
