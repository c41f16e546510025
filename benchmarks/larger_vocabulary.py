"""Continues a student with another vocabulary, such as a larger one, for shortlist_bleu.py.

    fairseq-kd prepare --text data/bible.es-en --source es --target en --merges 32000 --out OUT
    codes=data/teacher.es-en/codes student=data/teacher.es-en/distilled.pt
    python benchmarks/larger_vocabulary.py --data OUT/bin --codes $codes $student student.pt

The embedding of a new token begins as the mean of the embeddings of its parts by the old merges.
The softmax of a batch runs over its own tokens and 1,500 random ones, which makes an update of a
large vocabulary many times as fast. Input and output embeddings must be shared.
"""

import argparse
from pathlib import Path
from typing import Iterator, List

import numpy as np
import torch
from subword_nmt.apply_bpe import BPE
from torch import Tensor, nn

import fairseq_kd.plugin  # noqa: F401  (the architectures of the models)
from fairseq_kd.decoding.subset import Subset
from fairseq_kd.decoding.translation_model import Checkpoint, load_checkpoint, read_subset
from fairseq_kd.evaluation.systems import sample_of
from fairseq_kd.progress import ProgressLine
from fairseq_kd.teachers.compatibility import language_pair

NEGATIVES, BATCH_TOKENS, WARM_UP = 1500, 1500, 100


def main() -> None:
    """Trains, and writes the checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="binarised with the new merges")
    parser.add_argument("--codes", required=True, type=Path, help="the student's merges")
    parser.add_argument("--updates", type=int, default=1400)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("student", metavar="S.pt")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(1)
    student = load_checkpoint(args.student, "S.pt")
    training = read_subset(args.data, "train", language_pair(student.task))
    weight = nn.Parameter(embeddings(student, training, args.codes))
    model = student.model.requires_grad_(True).train()
    for side in (model.encoder, model.decoder):
        side.embed_tokens = nn.Embedding(*weight.shape, side.padding_idx)
        side.embed_tokens.weight = weight
    model.decoder.output_projection = nn.Linear(*weight.shape[::-1], bias=False)
    model.decoder.output_projection.weight = weight
    train(model, weight, training, args)
    state = torch.load(args.student, map_location="cpu", weights_only=False)
    weights = model.state_dict()
    state["model"] = {
        name: weights[name].detach().to(before.dtype) for name, before in state["model"].items()
    }
    state["cfg"]["task"]["data"] = str(args.data)
    torch.save(state, args.out)


def embeddings(student: Checkpoint, training: Subset, codes: Path) -> Tensor:
    """(V, C) the initial embeddings of the new vocabulary."""
    old, known = student.model.encoder.embed_tokens.weight.detach(), student.task.target_dictionary
    with codes.open(encoding="utf-8") as file:
        bpe = BPE(file)
    rows = [old[token] for token in range(known.nspecial)]
    for symbol in training.target_dictionary.symbols[known.nspecial :]:
        parts = bpe.process_line(symbol.removesuffix("@@")).split()
        if symbol.endswith("@@"):
            parts[-1] += "@@"
        rows.append(old[[known.index(part) for part in parts]].mean(dim=0))
    return torch.stack(rows)


def train(
    model: nn.Module, weight: nn.Parameter, training: Subset, args: argparse.Namespace
) -> None:
    """Trains with Adam; the learning rate falls to 0."""
    optimiser = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    batches, pad = batches_of(training), training.target_dictionary.pad()
    with ProgressLine("training", args.updates, "updates") as progress:
        for update in range(args.updates):
            rate = min(1, (update + 1) / WARM_UP) * (1 - update / args.updates)
            optimiser.param_groups[0]["lr"] = args.lr * rate
            sample = sample_of(training, next(batches))
            real = sample["target"].ne(pad)
            target = sample["target"][real]  # (N,)
            states = model(**sample["net_input"], features_only=True)[0][real]  # (N, C)
            drawn = torch.randint(4, len(weight), (NEGATIVES,))
            chosen, places = torch.unique(torch.cat((target, drawn)), return_inverse=True)
            loss = nn.functional.cross_entropy(
                states @ weight[chosen].T, places[: len(target)], label_smoothing=0.1
            )
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            progress.add(1, f"loss {loss.item():.3f}")


def batches_of(training: Subset) -> Iterator[List[int]]:
    """The sentences of each batch, which are of similar length, epoch after epoch."""
    lengths, draw = training.source_lengths, np.random.default_rng(1)
    while True:
        order = np.argsort(lengths + draw.uniform(0, 6, len(lengths)), kind="stable").tolist()
        batches = []
        while order:
            count = max(1, BATCH_TOKENS // int(lengths[order[-1]] + 6))
            batches.append(order[-count:])
            del order[-count:]
        for index in draw.permutation(len(batches)):
            yield batches[index]


if __name__ == "__main__":
    main()
