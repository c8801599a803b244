"""nanoGPT, stated again from its published configuration: the model, its step, and a whole training.

python benchmarks/_nanogpt.py recipes/speedrun/train.toml --rate 2e-3    # ten minutes, planned from its own pace
python benchmarks/_nanogpt.py recipes/speedrun/train.toml --rate 2e-3 --steps 100

No biases, no dropout, AdamW with betas 0.9 and 0.95, clipping at 1, autocast to bfloat16, all logits at once. It reads
the tokens of one of our recipes, and its loss is that over the whole validation text, in rows as long as it trains on.
Neither start-up nor the evaluation is in its seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from melete import config as configs
from melete.console import Progress, say
from melete.data.corpus import Corpus
from melete.data.sampling import PackedRows
from melete.machine import keep_freed_memory, usable_cores
from melete.training.prepare import prepare_data

DECAY, BETAS, CLIP = 0.1, (0.9, 0.95), 1.0
ROWS = 16  # of a step
_WARM_UP, _LAST = 0.05, 0.1  # share of the steps in which the rate rises; where its cosine ends, as a share
_TIMED = 20  # steps by which the pace is measured, after a few


@dataclass(frozen=True)
class Sizes:
    """Of the model; those here are of the reference."""

    vocabulary: int = 8192
    positions: int = 256
    width: int = 384
    layers: int = 6
    heads: int = 6


class PlainBlock(nn.Module):
    """A block of GPT-2, with the modules of torch and no biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.c_attn, self.attn_proj = (nn.Linear(width, n * width, bias=False) for n in (3, 1))
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.mlp_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = self.c_attn(self.ln_1(x)).split(width, dim=2)
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in split)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(seen.transpose(1, 2).contiguous().view(batch, length, width))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x))))


class PlainGPT(nn.Module):
    """GPT-2 as nanoGPT builds it: tied head, all logits at once."""

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        super().__init__()
        self.wte = nn.Embedding(sizes.vocabulary, sizes.width)
        self.wpe = nn.Embedding(sizes.positions, sizes.width)
        self.h = nn.ModuleList(PlainBlock(sizes.width, sizes.heads) for _ in range(sizes.layers))
        self.ln_f = nn.LayerNorm(sizes.width, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            if p.dim() >= 2:
                adds = name.endswith("_proj.weight")
                nn.init.normal_(p, 0.0, 0.02 / math.sqrt(2 * sizes.layers) if adds else 0.02, generator)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.flatten(), ignore_index=-1)


def optimizer_of(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """AdamW, whose decay leaves vectors alone."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True)


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, rows: np.ndarray, device: str = "cpu"
) -> Tensor:
    """One update by rows (N, T + 1) of tokens; their mean loss, on the device."""
    ids = torch.from_numpy(rows)
    if device == "cuda":
        ids = ids.pin_memory().to(device, non_blocking=True)
    with torch.autocast(device, torch.bfloat16):
        loss = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


# ---------------------------------------------------------------------- a whole training


def share_of_rate(step: int, steps: int) -> float:
    """A short linear rise, then a cosine down to a tenth at the last step."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / (rise + 1)
    progress = (step - rise) / max(1, steps - rise)
    return _LAST + (1.0 - _LAST) * 0.5 * (1.0 + math.cos(math.pi * progress))


def draw(corpus: Corpus, seed: int, step: int, context: int) -> np.ndarray:
    """The rows of a step, (ROWS, T + 1), cut from the stream at random places."""
    rng = np.random.default_rng((seed, step))
    starts = rng.integers(len(corpus) - context - 1, size=ROWS)
    return np.stack([corpus.read(start, start + context + 1) for start in starts])


def pace(corpus: Corpus, sizes: Sizes) -> float:
    """Seconds of a step, once it is warm."""
    model = PlainGPT(sizes)
    optimizer = optimizer_of(model, 1e-4)
    seconds = []
    for step in range(_TIMED + 5):
        begun = time.perf_counter()
        take_step(model, optimizer, draw(corpus, 0, step, sizes.positions))
        seconds.append(time.perf_counter() - begun)
    return sum(seconds[5:]) / _TIMED


def train(corpus: Corpus, sizes: Sizes, rate: float, steps: int, seed: int) -> tuple[PlainGPT, float]:
    """The trained model, and the seconds that its steps took."""
    torch.manual_seed(seed)
    model = PlainGPT(sizes, seed)
    optimizer, begun = optimizer_of(model, rate), time.perf_counter()
    with Progress("nanoGPT", "steps", steps) as progress:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * share_of_rate(step, steps)
            take_step(model, optimizer, draw(corpus, seed, step, sizes.positions))
            progress.advance(1)
    return model, time.perf_counter() - begun


@torch.no_grad()
def validation_loss(model: PlainGPT, corpus: Corpus, context: int) -> float:
    """Nats per token over the rows of `training.context` that our trainer validates on."""
    available = (len(corpus) - 1) // context
    rows, total, count = PackedRows(corpus, context, available, ROWS, shuffle=False), 0.0, 0
    for examples in rows.micro_batches(0):
        ids = torch.from_numpy(np.stack([example.data.ids for example in examples]))  # (B, T + 1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        total, count = total + float(loss) * len(examples), count + len(examples)
    return total / count


def run(recipe: Path, rate: float, seed: int, steps: int, minutes: float) -> dict[str, Any]:
    """Train and evaluate; without steps, as many as fit into the minutes."""
    keep_freed_memory()
    torch.set_num_threads(usable_cores())
    config = configs.load(recipe)
    data = prepare_data(config)
    sizes = Sizes(data.tokenizer.vocab_size, config.training.context)
    steps = steps or max(1, int(60 * minutes / pace(data.train, sizes)))
    say(f"nanoGPT: {steps:,} steps of {ROWS} x {sizes.positions} tokens, rate {rate:g}, seed {seed}")
    model, seconds = train(data.train, sizes, rate, steps, seed)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "tokens": steps * ROWS * sizes.positions,
        "loss": validation_loss(model, data.valid, sizes.positions),
        "seconds": seconds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="one of ours: its data, tokenizer and context are taken")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak of the learning rate [1e-3]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="default: planned from --minutes")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training [10]")
    asked = parser.parse_args(arguments)
    print(json.dumps(run(asked.recipe, asked.rate, asked.seed, asked.steps, asked.minutes)))


if __name__ == "__main__":
    main()
