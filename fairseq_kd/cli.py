"""The command ``fairseq-kd VERB``; every verb has its own ``--help``."""

import argparse
import logging
import sys
from typing import List, Optional

from fairseq_kd.verbs import (
    diagnose,
    distill_data,
    evaluate,
    export,
    extract_peer,
    flags,
    inherit,
    merge,
    plan,
    progressive,
    stage,
    step,
    store,
    store_merge,
    translate,
)

DESCRIPTION = (
    "Knowledge distillation for fairseq. Training itself is fairseq-train ... --user-dir user_dir."
)
VERBS = (  # in the order of --help
    *(plan, inherit, store, store_merge, translate, merge, distill_data),
    *(extract_peer, progressive, stage, step, diagnose, evaluate, export, flags),
)


def main(argv: Optional[List[str]] = None) -> int:
    """Runs a verb; a mistake of the user's ends in one sentence and status 2."""
    args = parser().parse_args(argv)
    for library in ("fairseq", "matplotlib"):  # they tell of themselves
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        return args.run(args)
    except (OSError, ValueError) as error:
        print(f"fairseq-kd {args.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nfairseq-kd {args.verb}: interrupted; the same command goes on", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line of all verbs."""
    top = argparse.ArgumentParser(prog="fairseq-kd", description=DESCRIPTION)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_parser(verbs)
    top.set_defaults(parser=top)  # for the verb that tries the command lines of others
    return top


if __name__ == "__main__":
    sys.exit(main())
