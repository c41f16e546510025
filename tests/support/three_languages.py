"""A third language for the small corpus: xx, which is Spanish with its words backwards."""

import shutil

from forks import run_forked

PIVOT = ["--task", "pivot_translation", "--kd-pivot-lang", "es", "--source-lang", "xx"]
PIVOT += ["--target-lang", "en"]


def write_backwards(prepared, folder):
    """Writes SET.xx, .es, .en and .links for every set, and returns the prefix of all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "valid", "test"):
        for language in ("es", "en"):
            shutil.copy(prepared / "bpe" / f"{name}.{language}", folder)
        lines = [line.split() for line in (folder / f"{name}.es").read_text().splitlines()]
        backwards = "".join(" ".join(reversed(words)) + "\n" for words in lines)
        (folder / f"{name}.xx").write_text(backwards)
        links = (" ".join(f"{i}-{len(w) - 1 - i}" for i in range(len(w))) for w in lines)
        (folder / f"{name}.links").write_text("".join(f"{each}\n" for each in links))
    return folder


def preprocess(text, out, source, target, dictionary, *flags, sets=("train", "valid", "test")):
    """Runs fairseq-preprocess with the one dictionary that all three languages share."""
    prefixes = [word for name in sets for word in (f"--{name}pref", text / name)]
    dictionaries = ["--srcdict", dictionary, "--tgtdict", dictionary]
    pair = ["--source-lang", source, "--target-lang", target]
    run_forked("fairseq-preprocess", *pair, *prefixes, *dictionaries, "--destdir", out, *flags)


def binarise_three_ways(prepared, out):
    """xx-en and es-en of the same sentences in one folder, and the alignment of xx and es."""
    text, dictionary = write_backwards(prepared, out.parent / "text"), prepared / "bin/dict.en.txt"
    preprocess(text, out, "xx", "en", dictionary)
    preprocess(text, out, "es", "en", dictionary)
    preprocess(text, out, "xx", "es", dictionary, "--align-suffix", "links")
    return out
