"""Training a decoder beside nanoGPT's step and the `transformers` Trainer: the same weights, tokens and settings.

python benchmarks/training.py                          # 6 layers x 384, 16 rows of 256
python benchmarks/training.py gpt2 --steps 300         # GPT-2 124M, one row of 1,024
python benchmarks/training.py mini --side nanogpt-bf16 --json
python benchmarks/training.py mini-gpu gpt2-gpu        # the same on one NVIDIA GPU, larger steps

Each side has a process of its own, in turns, all with the same allocator settings: freed memory is kept. nanoGPT's step
is stated again from its published configuration (no biases, no dropout, AdamW with betas 0.9 and 0.95, clipping at 1,
autocast to bfloat16, all logits at once; on a GPU also compiled, as published). FLOP/s count the products of matrices,
and of attention the half that a causal mask leaves; beside them stands the fastest product of two bfloat16 matrices
that was measured here, and on a GPU the peak of its data sheet: MFU is the share of that.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from _device import SHAPES as PRODUCTS
from _device import ceiling, described, peak_of
from _nanogpt import BETAS, CLIP, DECAY, PlainGPT, Sizes, optimizer_of, take_step
from _turns import Seen, Turns, take_turns
from melete import config as configs
from melete.config import RunConfig
from melete.console import say
from melete.data.batch import Example
from melete.data.datasets import STDLIB, resolve
from melete.data.sampling import PackedRow
from melete.data.tokenizers import Tokenizer
from melete.machine import keep_freed_memory, usable_cores
from melete.models import build
from melete.models.checkpoint import load_model, save_model
from melete.objectives.causal_lm import CausalLM
from melete.training.log import EventLog
from melete.training.precision import choose_kernels
from melete.training.trainer import Trainer

RATE = 1e-3
WARM_UP = 10  # steps in which the rate rises; without, the first updates make small differences large
VOCABULARY = 8192
DOCUMENTS = 400  # of this Python's standard library


@dataclass(frozen=True)
class Shape:
    """A model, the rows of a step, and where they are computed."""

    preset: str
    vocabulary: int
    rows: int
    context: int
    sides: tuple[str, ...]
    rate: float = RATE
    device: str = "cpu"
    documents: int = DOCUMENTS

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.rows * self.context

    def rate_at(self, step: int) -> float:
        """Of a step, counted from 0: a straight rise, then the same for ever."""
        return self.rate * min(1.0, (step + 1) / (WARM_UP + 1))


ON_GPU = ("melete", "nanogpt-bf16", "nanogpt-compiled", "trainer-bf16")
SHAPES = {
    "mini": Shape("mini", VOCABULARY, 16, 256, ("melete", "nanogpt-bf16", "trainer-bf16", "trainer-float32")),
    "gpt2": Shape("gpt2", 50257, 1, 1024, ("melete", "trainer-bf16"), 3e-4),
    # What it costs to keep less, and what it saves.
    "recompute": Shape("gpt2", 50257, 4, 1024, ("melete", "melete-recompute"), 3e-4),
    "mini-gpu": Shape("mini", VOCABULARY, 128, 256, ON_GPU, device="cuda"),
    # nanoGPT's vocabulary, a multiple of 64.
    "gpt2-gpu": Shape("gpt2", 50304, 16, 1024, ON_GPU, 3e-4, "cuda"),
    # Not a measurement: whether it works.
    "tiny": Shape("nano", 512, 2, 32, ("melete", "nanogpt-bf16", "trainer-bf16"), documents=10),
}
USUAL = ("mini", "gpt2")


@dataclass(frozen=True)
class Rows:
    """The rows of each step: the same for all sides, cut from one stream at random places."""

    ids: np.ndarray
    shape: Shape

    def of(self, step: int) -> np.ndarray:
        """(rows, context + 1)."""
        rng = np.random.default_rng(step)
        starts = rng.integers(len(self.ids) - self.shape.context, size=self.shape.rows)
        return np.stack([self.ids[start : start + self.shape.context + 1] for start in starts])

    def micro_batches(self, step: int) -> list[list[Example]]:
        """As our trainer reads them: one document a row, as for the others."""
        none = np.empty(0, dtype=np.int64)
        return [[Example((0, step, i), PackedRow(row, none)) for i, row in enumerate(self.of(step))]]


# ---------------------------------------------------------------------- the sides


def melete(turns: Turns, folder: Path, rows: Rows, count: int, recompute: str = "auto") -> None:
    """Our trainer, as `melete pretrain` runs it."""
    _same_for_all()
    run = folder / f"melete-{recompute}"
    (run / "checkpoints").mkdir(parents=True)
    losses: list[float] = []

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            losses.append(event["loss"])

    config = configs.change(
        RunConfig(),
        {
            "optimizer.name": "adamw",
            "optimizer.learning_rate": rows.shape.rate,
            "optimizer.weight_decay": DECAY,
            "optimizer.betas": BETAS,
            "schedule.name": "constant",
            "schedule.warmup_steps": WARM_UP,
            "training.steps": count,
            "training.device": rows.shape.device,
            "training.precision": "bfloat16",
            "training.recompute": recompute,
            "training.clip_norm": CLIP,
            "guard.sigma": 0.0,
        },
    )
    choose_kernels("auto", rows.shape.device, "bfloat16")
    objective = CausalLM(load_model(folder / "start").train())
    trainer = Trainer(config, objective, rows, folder=run, log=EventLog(run / "events.jsonl", note))
    turns.ready()
    while turns.wait():
        trainer.step()
        turns.done(rows.shape.tokens, losses[-1])


def _plain(folder: Path) -> PlainGPT:
    """nanoGPT's model with the weights that all start from."""
    start = load_model(folder)
    sizes, state = start.config, start.state_dict()
    model = PlainGPT(
        Sizes(
            sizes.vocab_size,
            sizes.max_position_embeddings,
            sizes.hidden_size,
            sizes.num_hidden_layers,
            sizes.num_attention_heads,
        )
    )
    names = {
        "wte": "token_embeddings",
        "wpe": "position_embeddings",
        "h.": "layers.",
        "ln_f": "norm",
        "ln_1": "attention_norm",
        "ln_2": "feed_forward_norm",
        "c_attn": "attention.query_key_value",
        "attn_proj": "attention.output",
        "c_fc": "feed_forward.up",
        "mlp_proj": "feed_forward.down",
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for theirs, ours in names.items():
                name = name.replace(theirs, ours)
            parameter.copy_(state[name])
    return model


def nanogpt(turns: Turns, folder: Path, rows: Rows, count: int, compiled: bool) -> None:
    """The step of nanoGPT's `train.py`."""
    _same_for_all()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    device = rows.shape.device
    model: nn.Module = _plain(folder / "start").train().to(device)
    optimizer = optimizer_of(model, rows.shape.rate)
    if compiled:
        model.compile()
    turns.ready()
    step = 0
    while turns.wait():
        _set_rate(optimizer, rows.shape.rate_at(step))
        loss = take_step(model, optimizer, rows.of(step), device)
        step += 1
        turns.done(rows.shape.tokens, loss)


def hugging_face(turns: Turns, folder: Path, rows: Rows, count: int, narrow: bool) -> None:
    """`GPT2LMHeadModel` in the `transformers` Trainer."""
    from transformers import (
        AutoModelForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        default_data_collator,
        logging,
    )

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    _same_for_all()

    class Timed(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            loss = super().training_step(*args, **kwargs)
            losses.append(loss.detach())
            return loss

    class Waiting(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.ready()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not turns.wait():
                raise StopIteration
            _set_rate(kwargs["optimizer"], rows.shape.rate_at(state.global_step))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            turns.done(rows.shape.tokens, losses[-1])

    class Dataset(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return (count + 1) * rows.shape.rows  # its own end never comes

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            step, row = divmod(index, rows.shape.rows)
            ids = torch.from_numpy(of(step)[row])
            # Labels that it shifts itself would be one fewer a row than it divides their sum by.
            return {"input_ids": ids[:-1], "labels": ids[1:], "shift_labels": ids[1:]}

    losses: list[Tensor] = []
    of = lru_cache(maxsize=1)(rows.of)  # it is asked for them one by one
    arguments = TrainingArguments(
        output_dir=str(folder / "peer"),
        max_steps=count + 1,
        per_device_train_batch_size=rows.shape.rows,
        train_sampling_strategy="sequential",
        learning_rate=rows.shape.rate,
        lr_scheduler_type="constant",
        weight_decay=DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP,
        bf16=narrow,
        use_cpu=rows.shape.device == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=rows.shape.device == "cuda",
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "start")
    with suppress(StopIteration):  # how the last turn ends
        Timed(model, arguments, default_data_collator, Dataset(), callbacks=[Waiting()]).train()


SIDES = {
    "melete": (melete, ()),
    "melete-recompute": (melete, ("on",)),
    "nanogpt-bf16": (nanogpt, (False,)),
    "nanogpt-compiled": (nanogpt, (True,)),
    "trainer-bf16": (hugging_face, (True,)),
    "trainer-float32": (hugging_face, (False,)),
}


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _same_for_all() -> None:
    keep_freed_memory()
    torch.set_num_threads(usable_cores())
    torch.manual_seed(0)


# ---------------------------------------------------------------------- measuring


def compare(name: str, count: int, length: int, sides: tuple[str, ...] = ()) -> dict[str, Any]:
    """All sides in turns; medians of tokens a second, ratios, the loss of the last turns, FLOP/s and memory.

    Args:
        count: steps of each side in bfloat16; float32 is slow, and takes one step a turn.
        length: steps of a turn.
        sides: left out: those of the shape.
    """
    shape = SHAPES[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fields: dict[str, Any] = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
        model = build(f"gpt2:{shape.preset}", vocab_size=shape.vocabulary, **fields)
        save_model(folder / "start", model, tokenizer=None)
        texts = [document.text for document in islice(resolve(STDLIB).train, shape.documents)]
        tokenizer = Tokenizer.train(texts, "byte-bpe", min(shape.vocabulary, VOCABULARY))
        rows = Rows(np.concatenate(tokenizer.encode_batch(texts)).astype(np.int64), shape)
        chosen = sides or shape.sides
        turns = [
            {side: 1 if side.endswith("float32") else length for side in chosen}
            for _ in range(count // length)
        ]
        work = {side: (SIDES[side][0], (folder, rows, count, *SIDES[side][1])) for side in chosen}
        seen = take_turns(name, work, turns)
    sizes = model.config
    # The output matrix is the embedding; positions meet no matrix.
    products = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    products -= sizes.max_position_embeddings * sizes.hidden_size
    flops = 6 * products + 6 * sizes.num_hidden_layers * sizes.hidden_size * shape.context
    return {
        "model": f"gpt2:{shape.preset}, vocabulary {shape.vocabulary:,}",
        "shape": f"{shape.rows} x {shape.context}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": len(seen[chosen[0]].losses),
        "turns": len(turns) - 1,
        "device": described(shape.device),
        "sides": {side: _figures(found, seen["melete"], flops) for side, found in seen.items()},
        # A small product will do where nothing is measured.
        "ceiling": ceiling(shape.device, PRODUCTS["cpu"][1:2] if name == "tiny" else ()),
        "peak": peak_of(shape.device),
    }


def _figures(found: Seen, ours: Seen, flops: float) -> dict[str, Any]:
    last = min(50, len(found.losses))
    # The same steps of ours: float32 took fewer.
    mean = statistics.fmean(ours.losses[len(found.losses) - last : len(found.losses)])
    return {
        "tokens_per_second": round(found.rate),
        "spread": [round(min(found.rates)), round(max(found.rates))],
        "ours_beside_it": round(ours.rate / found.rate, 2),
        "flops": found.rate * flops,
        "loss": statistics.fmean(found.losses[-last:]),
        "our_loss_beside_it": mean / statistics.fmean(found.losses[-last:]) - 1,
        "peak_gib": round(found.memory / 2**30, 2),
        "our_memory_beside_it": round(ours.memory / found.memory, 2),
    }


def _share(flops: float, figures: dict[str, Any]) -> str:
    """FLOP/s, and what share that is of what is possible."""
    said = f"{flops / 1e9:,.0f} GFLOP/s ({flops / figures['ceiling']:.1%} of the fastest product"
    return said + (f", MFU {flops / figures['peak']:.1%})" if figures["peak"] else ")")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shapes", nargs="*", default=USUAL, metavar=f"{{{','.join(SHAPES)}}}")
    parser.add_argument("--side", action="append", choices=list(SIDES), help="beside ours; default: all")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--turn", type=int, default=10, help="steps of one side before the next one's turn")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    say(f"torch {torch.__version__}, transformers {version('transformers')}, bfloat16 unless it says float32")
    for name in asked.shapes:
        sides = ("melete", *asked.side) if asked.side else ()
        figures = compare(name, asked.steps, asked.turn, sides)
        if asked.json:
            print(json.dumps(figures), flush=True)
            continue
        peak = f", its data sheet: {figures['peak'] / 1e9:,.0f}" if figures["peak"] else ""
        print(
            f"{figures['model']}, {figures['shape']}, {figures['steps']} steps in turns of {asked.turn}, on "
            f"{figures['device']}; the fastest product: {figures['ceiling'] / 1e9:,.0f} GFLOP/s{peak}"
        )
        for side, found in figures["sides"].items():
            low, high = found["spread"]
            print(
                f"  {side}: {found['tokens_per_second']:,} tokens/s ({low:,} to {high:,}), "
                f"{_share(found['flops'], figures)}, {found['peak_gib']} GiB, loss {found['loss']:.4f}; ours beside "
                f"it: {found['ours_beside_it']:.2f}x, memory {found['our_memory_beside_it']:.2f}x, loss "
                f"{found['our_loss_beside_it']:+.2%}"
            )


if __name__ == "__main__":
    main()
