"""Training encoders on ragged text beside a `transformers` loop: the same weights, the same examples, the same masks.

python benchmarks/encoder_training.py                         # sentences, headlines and documents
python benchmarks/encoder_training.py sst2 --model electra:small --json

Each step is one batch of texts, hidden alike on both sides. The peer pads them to the longest, as a collator does;
ours cuts the same texts into micro-batches of like length. Tokens are real ones: padding is not counted.

Each side has a process of its own and the allocator as it runs: ours keeps freed memory, as `melete pretrain` does; the
peer has glibc's defaults, since with ours its logits of many lengths took 20 GiB in twenty steps (2026-11-22).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from melete import config as configs
from melete.config import RunConfig
from melete.console import Progress, say
from melete.data.batch import Batch, Example
from melete.data.batching import like_lengths
from melete.data.corruption import Vocabulary
from melete.data.datasets import resolve
from melete.data.encoder_text import EncoderText, Samples
from melete.data.sampling import rng_for
from melete.data.streams import open_bytes
from melete.data.tokenizers import Tokenizer
from melete.machine import keep_freed_memory, usable_cores
from melete.models import build_encoder
from melete.models.checkpoint import save_model
from melete.models.electra import Model as Electra
from melete.models.electra_pair import GENERATOR, build_generator, save_pair
from melete.objectives.masked_lm import MaskedLM
from melete.objectives.replaced_token import DISCRIMINATOR_WEIGHT, ReplacedToken
from melete.training.log import EventLog
from melete.training.precision import choose_kernels
from melete.training.trainer import Trainer

CONTEXT, BUDGET = 256, 1024
CHUNK = 10  # steps of one side before the other's turn
RATE, DECAY, BETAS, CLIP = 3e-4, 0.01, (0.9, 0.999), 1.0
TEXTS = {"sst2": 32, "thucnews_title": 32, "wikitext-2": 8}  # of a step
MOST = 20_000  # texts read
DATA = Path(os.environ.get("MELETE_DATA", "data"))


@dataclass
class Steps:
    """The examples of each step, the same for both sides."""

    samples: Samples
    texts: int  # of a step
    seed: int

    def examples(self, step: int) -> list[Example]:
        numbers = np.random.default_rng((self.seed, step)).integers(len(self.samples.runs), size=self.texts)
        keys = [(self.seed, step, number) for number in numbers.tolist()]
        return [Example(key, self.samples.sample(key[2], rng_for(key))) for key in keys]

    def micro_batches(self, step: int) -> list[list[Example]]:
        """Cut into batches of like length."""
        examples = self.examples(step)
        lengths = np.array([len(example.data.ids) + 2 for example in examples])
        return [
            [examples[i] for i in part] for part in like_lengths(np.arange(len(lengths)), lengths, BUDGET)
        ]


class Peer:
    """A model of `transformers` as its own Trainer drives it: autocast, fused AdamW, clipping."""

    def __init__(self, folder: Path, objective: MaskedLM | ReplacedToken, steps: Steps, narrow: bool) -> None:
        self.objective, self.steps, self.narrow = objective, steps, narrow
        self.model = BertLoss(folder) if isinstance(objective, MaskedLM) else ElectraLoss(folder)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=RATE, betas=BETAS, weight_decay=DECAY, fused=True
        )

    def step(self, step: int) -> tuple[float, int]:
        """One update; the mean loss, and the real tokens read."""
        batch: Batch = self.objective.prepare(self.steps.examples(step), rng_for)  # padded to the longest
        with torch.autocast("cpu", torch.bfloat16, enabled=self.narrow):
            loss = self.model(
                batch.labels["mlm"],
                input_ids=batch.input_ids,
                attention_mask=(batch.doc_ids > 0).long(),
                token_type_ids=batch.token_type_ids,
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach()), batch.tokens


class BertLoss(nn.Module):
    """`BertForMaskedLM`."""

    def __init__(self, folder: Path) -> None:
        from transformers import BertForMaskedLM

        super().__init__()
        self.model: Any = BertForMaskedLM.from_pretrained(folder).train()

    def forward(self, labels: Tensor, **inputs: Tensor | None) -> Tensor:
        return self.model(**inputs, labels=labels).loss


class ElectraLoss(nn.Module):
    """`ElectraForMaskedLM` and `ElectraForPreTraining` over the same embeddings, trained as the paper has it."""

    def __init__(self, folder: Path) -> None:
        from transformers import ElectraForMaskedLM, ElectraForPreTraining

        super().__init__()
        self.generator: Any = ElectraForMaskedLM.from_pretrained(folder / GENERATOR).train()
        self.discriminator: Any = ElectraForPreTraining.from_pretrained(folder).train()
        self.generator.electra.embeddings = self.discriminator.electra.embeddings
        self.generator.tie_weights()

    def forward(self, labels: Tensor, input_ids: Tensor, **inputs: Tensor | None) -> Tensor:
        hidden = labels != -100  # (B, T)
        out = self.generator(input_ids=input_ids, **inputs, labels=labels)
        logits = out.logits.detach()[hidden].float()  # (M, V)
        drawn = (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)
        ids = input_ids.masked_scatter(hidden, drawn)
        replaced = hidden & (ids != labels)
        told = self.discriminator(input_ids=ids, **inputs, labels=replaced.long())
        return out.loss + DISCRIMINATOR_WEIGHT * told.loss


class Ours:
    """Melete's trainer."""

    def __init__(self, folder: Path, objective: MaskedLM | ReplacedToken, steps: Steps, count: int) -> None:
        config = configs.change(
            RunConfig(),
            {
                "optimizer.name": "adamw",
                "optimizer.learning_rate": RATE,
                "optimizer.weight_decay": DECAY,
                "optimizer.betas": BETAS,
                "schedule.name": "constant",
                "training.steps": count,
                "training.device": "cpu",
                "training.precision": "bfloat16",
                "training.clip_norm": CLIP,
                "guard.sigma": 0.0,
            },
        )
        (folder / "checkpoints").mkdir(parents=True)
        self.log = EventLog(folder / "events.jsonl")
        self.trainer = Trainer(config, objective, steps, folder=folder, log=self.log)
        self.path = folder / "events.jsonl"

    def step(self, step: int) -> tuple[float, int]:
        """One update; the mean loss, and the real tokens read."""
        before = self.trainer.counters.tokens
        self.trainer.step()
        with self.path.open("rb") as file:
            *_, last = file
        return json.loads(last)["loss"], self.trainer.counters.tokens - before


def read(name: str) -> list[str]:
    """Sentences, headlines or documents of a named set."""
    if name == "wikitext-2":
        lines = "".join(document.text for document in resolve(name).train).split("\n")
        return [line.strip() for line in lines if line.strip() and not line.startswith(" =")]
    files = {"sst2": "train_phrases_glue.tsv", "thucnews_title": "train_subset.txt"}
    path = next((DATA / name).glob(f"{files[name]}*"))
    with open_bytes(str(path)) as stream:
        return [line.decode().split("\t")[0] for line in stream]


SIDES = ("transformers, bf16", "transformers, float32", "melete, bf16")


def prepared(name: str, spec: str, seed: int) -> tuple[Tokenizer, Steps, MaskedLM | ReplacedToken]:
    """The text of a named set in steps, and a new model over it: the same in every process."""
    vocabulary = "bert-base-chinese" if name == "thucnews_title" else "bert-base-uncased"
    tokenizer = Tokenizer.load(DATA / "tokenizers" / vocabulary)
    text = EncoderText.tokenise(list(islice(read(name), MOST)), tokenizer)
    steps = Steps(Samples(text, CONTEXT - 2), TEXTS[name], seed)
    model = build_encoder(spec, vocab_size=tokenizer.vocab_size, seed=seed, hidden_dropout=0.1)
    words = Vocabulary.of(tokenizer)
    if isinstance(model, Electra):
        return tokenizer, steps, ReplacedToken(model, build_generator(model, seed=seed), words)
    return tokenizer, steps, MaskedLM(model, words)


def work(pipe: Connection, side: str, name: str, spec: str, seed: int, count: int) -> None:
    """Be one side: for each (first, last) that comes, the seconds, real tokens and losses of these steps."""
    torch.set_num_threads(usable_cores())
    _, steps, objective = prepared(name, spec, seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if side == "melete, bf16":
            keep_freed_memory()
            choose_kernels("auto", "cpu", "bfloat16")
            runner: Ours | Peer = Ours(folder / "run", objective, steps, count)
        else:
            if isinstance(objective, MaskedLM):
                save_model(folder / "start", objective.model, tokenizer=None)
            else:
                save_pair(folder / "start", objective.model, objective.generator, tokenizer=None)
            runner = Peer(folder / "start", objective, steps, narrow=side.endswith("bf16"))
        pipe.send(None)
        while (asked := pipe.recv()) is not None:
            begun = time.perf_counter()
            done = [runner.step(step) for step in range(*asked)]
            pipe.send((time.perf_counter() - begun, sum(tokens for _, tokens in done), [x for x, _ in done]))


def compare(name: str, spec: str, count: int, seed: int, chunk: int = CHUNK) -> dict[str, Any]:
    """Chunks of steps in turn; medians of real tokens a second, and the loss of the last 50 steps of both."""
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    for side in SIDES:
        pipes[side], theirs = spawn.Pipe()
        spawn.Process(target=work, args=(theirs, side, name, spec, seed, count), daemon=True).start()
        pipes[side].recv()  # it has loaded
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    losses: dict[str, list[float]] = {side: [] for side in SIDES}
    with Progress(name, "steps", count) as progress:
        for first in range(0, count, chunk):
            for side, pipe in pipes.items():
                # float32 is slow, and only its speed is asked for
                last = first + (chunk if side != "transformers, float32" else 1)
                pipe.send((first, min(last, count)))
                seconds, tokens, found = pipe.recv()
                losses[side] += found
                if first:  # the first chunk warms up
                    rates[side].append(tokens / seconds)
            progress.advance(chunk)
    for pipe in pipes.values():
        pipe.send(None)
    tokenizer, steps, _ = prepared(name, spec, seed)
    medians = {side: statistics.median(values) for side, values in rates.items()}
    ours, peer, wide = (
        medians["melete, bf16"],
        medians["transformers, bf16"],
        medians["transformers, float32"],
    )
    ends = [statistics.fmean(losses[side][-50:]) for side in ("melete, bf16", "transformers, bf16")]
    lengths = [len(example.data.ids) + 2 for step in range(20) for example in steps.examples(step)]
    return {
        "text": name,
        "texts_a_step": TEXTS[name],
        "model": f"{spec}, vocabulary {tokenizer.vocab_size:,}",
        "mean_length": round(statistics.fmean(lengths), 1),
        "longest": max(lengths),
        "tokens_per_second": {side: round(value) for side, value in medians.items()},
        "spread": {side: [round(min(values)), round(max(values))] for side, values in rates.items()},
        "beside_bf16": ours / peer,
        "beside_float32": ours / wide,
        "loss": ends,
        "loss_difference": ends[0] / ends[1] - 1,
        "steps": count,
        "rounds": len(rates["melete, bf16"]),
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="*", default=list(TEXTS), metavar=f"{{{','.join(TEXTS)}}}")
    parser.add_argument("--model", default="bert:mini", help="bert or electra, and a preset of it")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--turn", type=int, default=CHUNK, help="steps of one side before the next one's turn"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    say(
        f"{platform.system()} {platform.machine()}, {usable_cores()} threads, torch {torch.__version__}, "
        f"transformers {version('transformers')}; texts of at most {CONTEXT} tokens"
    )
    for name in arguments.texts:
        figures = compare(name, arguments.model, arguments.steps, arguments.seed, arguments.turn)
        if arguments.json:
            print(json.dumps(figures), flush=True)
        else:
            print(
                f"{name}: {figures['tokens_per_second']} tokens/s, spread {figures['spread']}; "
                f"{figures['beside_bf16']:.2f}x its bf16, {figures['beside_float32']:.2f}x its float32; loss of the "
                f"last 50 of {figures['steps']} steps {figures['loss'][0]:.4f} beside {figures['loss'][1]:.4f} "
                f"({figures['loss_difference']:+.2%})"
            )


if __name__ == "__main__":
    main()
