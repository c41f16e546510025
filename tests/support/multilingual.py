"""fairseq's own commands with models of several languages; and tiny ones, trained.

``python multilingual.py fairseq-train|fairseq-generate ARGUMENTS`` is that command with one defect
of fairseq mended: ``translation_from_pretrained_bart`` reads ``self.args``, which it no longer has.
"""

import sys

from harness import run

SIZE = ["--optimizer", "adam", "--lr", "0.01", "--max-tokens", "1000", "--seed", "3", "--cpu"]
SIZE += ["--no-epoch-checkpoints", "--log-format", "json", "--data-buffer-size", "0"]
SIZE += ["--criterion", "label_smoothed_cross_entropy", "--max-update", "40"]
for _side in ("encoder", "decoder"):
    SIZE += [f"--{_side}-layers", "1", f"--{_side}-embed-dim", "16"]
    SIZE += [f"--{_side}-ffn-embed-dim", "32", f"--{_side}-attention-heads", "2"]
PAIRS = ["--lang-pairs", "es-en,en-es"]
DECODER, REPLACING = ["--decoder-langtok"], ["--lang-tok-replacing-bos-eos"]
MULTI = ["--task", "translation_multi_simple_epoch", *PAIRS, *DECODER]
SEPARATE = ["--task", "multilingual_translation", *PAIRS, *DECODER]
TASKS = {  # by kind of model: what names its task to fairseq-train and to fairseq-generate
    "m2m": [*MULTI, "--langs", "es,en,fr", "--encoder-langtok", "src"],
    "replacing": [*MULTI, "--langs", "en,es", "--encoder-langtok", "tgt", *REPLACING],
    "mbart": ["--task", "translation_from_pretrained_bart", "--langs", "es,fr,en"],
    "separate": [
        "--task",
        "multilingual_translation",
        *PAIRS,
        "--encoder-langtok",
        "tgt",
        *DECODER,
    ],
}
SHARED, SHARED_PARTS = "--share-all-embeddings", ["--share-encoders", "--share-decoders"]
MODELS = {
    "m2m": ["--arch", "transformer", SHARED],
    "replacing": ["--arch", "transformer", SHARED],
    "mbart": ["--arch", "mbart_base", "--source-lang", "es", "--target-lang", "en"],
    "separate": ["--arch", "multilingual_transformer", *SHARED_PARTS, SHARED],
}


def train(kind, data, folder):
    """Trains a tiny model of a kind, by fairseq-train."""
    run(
        *(sys.executable, __file__, "fairseq-train", data, *TASKS[kind], *MODELS[kind], *SIZE),
        *("--save-dir", folder),
    )


def generate(kind, data, checkpoint, *flags):
    """What fairseq-generate makes of the validation set, by sentence, on the model's own task."""
    own = (sys.executable, __file__, "fairseq-generate", data, *TASKS[kind], "--path", checkpoint)
    pair = ("--source-lang", "es", "--target-lang", "en", "--gen-subset", "valid", "--cpu")
    lines = run(*own, *pair, "--batch-size", "1", *flags).stdout.splitlines()
    hypotheses = (line.split("\t") for line in lines if line.startswith("H-"))
    return {int(number[2:]): tokens for number, _, tokens in hypotheses}


def main():
    """Runs the named command."""
    from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask
    from fairseq_cli import generate as decoding
    from fairseq_cli import train as training

    from fairseq_kd import plugin  # noqa: F401  (torch reads fairseq's checkpoints)

    cfg = property(lambda self: self.cfg, lambda self, value: None)
    TranslationFromPretrainedBARTTask.args = cfg
    command = sys.argv.pop(1)
    (training if command == "fairseq-train" else decoding).cli_main()


if __name__ == "__main__":
    main()
