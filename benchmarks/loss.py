"""The loss against the plain formulation: time and memory of forward and backward.

usage: python benchmarks/loss.py [--tokens 2048] [--width 256] [--teacher-width 256]
           [--vocab-size 32000] [--chunk N ...] [--dtype float32] [--temperature 4] [--rounds 7]
       python benchmarks/loss.py --gpu [--dtype float16] [--temperature 1] [--rounds 7]

All project student and teacher states to the vocabulary, and add up label-smoothed cross-entropy
and forward KL. ``--gpu`` measures the six sizes of ``GPU_SIZES``, with liger-kernel's distillation
loss where it is installed: at T = 1, which has no cross-entropy, and is compared with ours without
it. Figures are appended to benchmarks/results.csv.
"""

import argparse
import importlib.util
from typing import Callable, Dict, List

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
GPU_TOKENS = 8192
GPU_SIZES = (  # V, width of the student, width of the teacher
    *((32_000, 256, 512), (32_000, 512, 1024), (64_000, 512, 1024)),
    *((128_000, 512, 1024), (256_000, 512, 1024), (256_000, 1024, 1024)),
)


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

    def chunked(teacher, divergence="forward_kl", alpha=ALPHA, beta=BETA, **other):
        options = LossOptions(alpha, beta, SMOOTHING, args.temperature, divergence, **other)
        return run(lambda: chunked_loss(hidden, weight, None, gold, [teacher], options).loss)

    def plain_loss(function: Callable[..., Tensor]) -> Callable[[], None]:
        return run(lambda: function(hidden, weight, gold, live, args.temperature))

    made = {"plain": plain_loss(plain), "chunked": chunked(live, fused=False)}
    made["chunked, store"] = chunked(stored, fused=False)
    if args.gpu:
        made["plain, compiled"] = plain_loss(torch.compile(plain))
        made |= {"kernel": chunked(live), "kernel, store": chunked(stored)}
        if importlib.util.find_spec("liger_kernel") is not None and args.temperature == 1:
            made["liger, KL alone"] = run(lambda: liger(hidden, weight, gold, live))
            made["kernel, KL alone"] = chunked(live, alpha=1.0, beta=0.0)
        return made
    made["compiled"] = chunked(live, compiled=True, fused=False)
    made["compiled, store"] = chunked(stored, compiled=True, fused=False)
    for name in list(DIVERGENCES)[1:]:
        made[f"chunked, {name}"] = chunked(live, name)
        made[f"compiled, {name}"] = chunked(live, name, compiled=True)
    return made | {f"chunked by {size}": chunked(live, chunk_tokens=size) for size in args.chunk}


def liger(hidden: Tensor, weight: Tensor, gold: Tensor, teacher: TeacherStates) -> Tensor:
    """The distillation loss of liger-kernel as forward KL: the mean over tokens at T = 1."""
    from liger_kernel.ops.fused_linear_jsd import LigerFusedLinearJSDFunction

    forward_kl = 0.0
    return LigerFusedLinearJSDFunction.apply(
        hidden, weight, teacher.states, teacher.weight, gold, forward_kl, -100, 1.0
    )


def warm(run: Callable[[], None]) -> Callable[[], None]:
    """The same, after a first run, which may compile."""
    run()
    return run


def fitting(runs: Dict[str, Callable[[], None]]) -> Dict[str, Callable[[], None]]:
    """Those that fit in the memory of the GPU, each after a first run."""
    kept = {}
    for name, run in runs.items():
        try:
            kept[name] = warm(run)
        except torch.OutOfMemoryError:
            print(f"{name}: out of memory")
            torch.cuda.empty_cache()
    return kept


def measure(args: argparse.Namespace) -> None:
    """Measures and records one size."""
    shape = f"{args.tokens} x {args.vocab_size}, {args.width} <- {args.teacher_width}, {args.dtype}"
    shape += f", T={args.temperature:g}"
    names: List[str] = ["plain", "chunked", "chunked, store"]
    names += ["kernel", "kernel, store"] if args.gpu else ["compiled", "compiled, store"]
    if args.gpu:
        compared = fitting(cases(args))
        names = [name for name in names if name in compared]
        memory = {name: peak_mib(lambda name=name: compared[name]) for name in names}
    else:
        memory = {name: peak_mib(lambda name=name: warm(cases(args)[name])) for name in names}
        compared = cases(args)
    times = interleaved_seconds(compared, args.rounds)
    for name in compared:
        record("loss", f"{name}: {shape}", "ms", [1000 * t for t in times[name]])
    for name in compared:
        if name != "plain" and "plain" in compared:
            speedup = ratios(times, "plain", name)
            record("loss", f"plain / {name}: {shape}", "time ratio", speedup)
    for name in names:
        record("loss", f"{name}: {shape}", "peak MiB", [memory[name]])
        if name != "plain" and "plain" in memory:
            less = [memory["plain"] / memory[name]]
            record("loss", f"plain / {name}: {shape}", "memory ratio", less)


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
    parser.add_argument("--gpu", action="store_true", help="measure the sizes of GPU_SIZES")
    args = parser.parse_args()
    for size in GPU_SIZES if args.gpu else [(args.vocab_size, args.width, args.teacher_width)]:
        args.vocab_size, args.width, args.teacher_width = size
        args.tokens = GPU_TOKENS if args.gpu else args.tokens
        measure(args)


if __name__ == "__main__":
    main()
