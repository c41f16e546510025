"""The chunked loss against the plain formulation: time and memory of forward and backward.

usage: python benchmarks/loss.py [--tokens 2048] [--width 256] [--teacher-width 256]
           [--vocab-size 32000] [--chunk N ...] [--dtype float32] [--temperature 4] [--rounds 7]

Both project student and teacher states to the vocabulary, and add up label-smoothed cross-entropy
and forward KL. Figures are appended to benchmarks/results.csv.
"""

import argparse
from typing import Callable, Dict

import torch
from measuring import interleaved_seconds, peak_mib, ratios, record
from torch import Tensor

from fairseq_kd.losses import (
    DIVERGENCES,
    LossOptions,
    TeacherStates,
    TopK,
    chunked_loss,
)

SMOOTHING, ALPHA, BETA, TOPK = 0.1, 0.8, 0.2, 64


def plain(hidden: Tensor, weight: Tensor, gold: Tensor, teacher: TeacherStates, t: float) -> Tensor:
    """The loss as fairseq and a direct implementation of the formula compute it."""
    z = hidden @ weight.T
    log_q = torch.log_softmax(z, dim=-1, dtype=torch.float32)
    nll, smooth = -log_q.gather(-1, gold[:, None]).sum(), -log_q.sum()
    others = SMOOTHING / (z.size(-1) - 1)
    ce = (1 - SMOOTHING - others) * nll + others * smooth
    with torch.no_grad():
        taught = teacher.states @ teacher.weight.T
    real = torch.ones(1, len(z), dtype=torch.bool, device=z.device)
    return ALPHA * DIVERGENCES["forward_kl"].summed(z[None], taught[None], real, t) + BETA * ce


def cases(args: argparse.Namespace) -> Dict[str, Callable[[], None]]:
    """The compared implementations, by name."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(1)

    def normal(*shape: int, scale: float) -> Tensor:
        made = torch.randn(*shape, generator=generator, device=device) * scale
        return made.to(getattr(torch, args.dtype))

    hidden = normal(args.tokens, args.width, scale=1.0).requires_grad_()
    weight = normal(args.vocab_size, args.width, scale=args.width**-0.5).requires_grad_()
    states = normal(args.tokens, args.teacher_width, scale=1.0)
    live = TeacherStates(
        states, normal(args.vocab_size, args.teacher_width, scale=args.teacher_width**-0.5)
    )
    gold = torch.randint(args.vocab_size, (args.tokens,), generator=generator, device=device)
    parts = [live[i : i + 64].logits for i in range(0, args.tokens, 64)]
    kept = [TopK.of_logits(part, TOPK) for part in parts]
    fields = ("ids", "log_p", "log_tail")
    stored = TopK(
        *(torch.cat([getattr(part, f) for part in kept]) for f in fields), args.vocab_size
    )

    def run(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def forward_and_backward() -> None:
            hidden.grad = weight.grad = None
            loss().backward()

        return forward_and_backward

    def chunked(teacher, divergence="forward_kl", **other):
        options = LossOptions(ALPHA, BETA, SMOOTHING, args.temperature, divergence, **other)
        return run(lambda: chunked_loss(hidden, weight, None, gold, [teacher], options).loss)

    made = {"plain": run(lambda: plain(hidden, weight, gold, live, args.temperature))}
    made["chunked"] = chunked(live)
    made["chunked, store"] = chunked(stored)
    made["compiled"] = chunked(live, compiled=True)
    made["compiled, store"] = chunked(stored, compiled=True)
    for name in list(DIVERGENCES)[1:]:
        made[f"chunked, {name}"] = chunked(live, name)
        made[f"compiled, {name}"] = chunked(live, name, compiled=True)
    return made | {f"chunked by {size}": chunked(live, chunk_tokens=size) for size in args.chunk}


def warm(run: Callable[[], None]) -> Callable[[], None]:
    """The same, after a first run, which may compile."""
    run()
    return run


def main() -> None:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--teacher-width", type=int, default=256)
    parser.add_argument("--vocab-size", type=int, default=32000)
    parser.add_argument("--chunk", type=int, nargs="*", default=[])
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    shape = f"{args.tokens} x {args.vocab_size}, {args.width} <- {args.teacher_width}, {args.dtype}"
    shape += f", T={args.temperature:g}"
    names = ["plain", "chunked", "chunked, store", "compiled", "compiled, store"]
    memory = {name: peak_mib(lambda name=name: warm(cases(args)[name])) for name in names}
    compared = cases(args)
    times = interleaved_seconds(compared, args.rounds)
    for name in compared:
        record("loss", f"{name}: {shape}", "ms", [1000 * t for t in times[name]])
    for name in list(compared)[1:]:
        speedup = ratios(times, "plain", name)
        record("loss", f"plain / {name}: {shape}", "time ratio", speedup)
    for name in names:
        record("loss", f"{name}: {shape}", "peak MiB", [memory[name]])
        if name != "plain":
            record(
                "loss", f"plain / {name}: {shape}", "memory ratio", [memory["plain"] / memory[name]]
            )


if __name__ == "__main__":
    main()
