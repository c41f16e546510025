"""The speed of a student with a lexical shortlist in CTranslate2, against the whole vocabulary.

usage: python benchmarks/shortlist.py [--vocab-size 32000] [--rounds 5]

Of transformer_kd_student (6+6 layers, 256 wide), untrained, with random sentences of 25 tokens and
random candidates: the time depends on their number alone. int8, beam 5, one thread, every
translation 25 tokens long. Appends to benchmarks/results.csv.
"""

import argparse
import random
import shutil
import tempfile
from pathlib import Path
from typing import Callable, Dict, List

import ctranslate2
import training
from ctranslate2.converters import FairseqConverter
from measuring import interleaved_seconds, ratios, record

LENGTH, SENTENCES, ALONE = 25, 64, 16
SHORTLISTS = {"850": (100, 30), "1,800": (300, 60)}  # of every sentence, and of each source token


def with_shortlist(model: Path, words: List[str], everywhere: int, each: int) -> Path:
    """A copy of a model with random candidates."""
    folder = Path(shutil.copytree(model, model.with_name(f"{everywhere}-{each}")))
    lines = [f"\t{' '.join(['</s>', *random.sample(words, everywhere)])}\n"]
    lines += [f"{word}\t{' '.join(random.sample(words, each))}\n" for word in words]
    (folder / "vmap.txt").write_text("".join(lines))
    return folder


def translation(folder: Path, sentences: List[List[str]], batch: int) -> Callable[[], None]:
    """Translates the sentences, so many at a time."""
    model = ctranslate2.Translator(str(folder), compute_type="int8", intra_threads=1)
    use_vmap = (folder / "vmap.txt").exists()

    def run() -> None:
        for start in range(0, len(sentences), batch):
            model.translate_batch(
                sentences[start : start + batch],
                beam_size=5,
                use_vmap=use_vmap,
                min_decoding_length=LENGTH,
                max_decoding_length=LENGTH,
            )

    return run


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-size", type=int, default=32000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    random.seed(1)
    with tempfile.TemporaryDirectory() as name:
        data, checkpoint, whole = (Path(name) / each for each in ("data", "student.pt", "whole"))
        data.mkdir()
        training.make_data(data, args.vocab_size, 20)
        flags = ("label_smoothed_cross_entropy", "--no-save-optimizer-state")
        made = training.quietly(lambda: training.Training(data, training.SIZES[1], "fp32", *flags))
        made.trainer.save_checkpoint(str(checkpoint), {})
        converter = FairseqConverter(str(checkpoint), str(data), source_lang="de", target_lang="en")
        converter.convert(str(whole), quantization="int8")
        words = made.task.target_dictionary.symbols[4:]
        folders = {"whole": whole}
        for size, counts in SHORTLISTS.items():
            folders[size] = with_shortlist(whole, words, *counts)
        sentences = [random.choices(words, k=LENGTH) for _ in range(SENTENCES)]
        for batch, count in ((1, ALONE), (32, SENTENCES)):
            runs: Dict[str, Callable[[], None]] = {
                size: translation(folder, sentences[:count], batch)
                for size, folder in folders.items()
            }
            times = interleaved_seconds(runs, args.rounds)
            for size in SHORTLISTS:
                case = f"{size} candidates a sentence, V={args.vocab_size}, batches of {batch}"
                record("shortlist", case, "time ratio", ratios(times, "whole", size))


if __name__ == "__main__":
    main()
