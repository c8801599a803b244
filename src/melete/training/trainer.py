"""The only training loop in the repository. It knows neither which model nor which objective it runs."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from melete.config import RunConfig
from melete.data.batch import Batch
from melete.data.sampling import Source, rng_for
from melete.errors import MeleteError, StorageError
from melete.objectives.base import Context, Objective
from melete.training import state as checkpoints
from melete.training.distributed import World
from melete.training.guard import Guard
from melete.training.log import EventLog
from melete.training.optim import Optimizer
from melete.training.precision import DTYPES, LossScale, MasterWeights
from melete.training.recompute import Recompute
from melete.training.schedule import rate


@torch.no_grad()
def validate(objective: Objective, source: Source, steps: int, device: torch.device) -> dict[str, float]:
    """The weighted mean loss over the batches of a source, `loss`, and what else the objective tells of them.

    The same weights give the same figures: what is random follows from the number of the batch.
    """
    objective.eval()
    objective.take_figures()  # of whatever came before
    sums = dict.fromkeys(objective.weights, 0.0)
    counts = dict.fromkeys(objective.weights, 0.0)
    for step in range(steps):
        for examples in source.micro_batches(step):
            batch = objective.prepare(examples, rng_for)
            ctx = Context(step, 1.0, torch.Generator(device).manual_seed(step))
            for name, count in objective.counts(batch).items():
                counts[name] += float(count)
            for name, part in objective(batch.to(device), ctx).items():
                sums[name] += float(part)
    loss = sum(w * sums[name] / max(counts[name], 1.0) for name, w in objective.weights.items())
    return {"loss": loss, **objective.take_figures()}


class Trainer:
    """Runs an objective over a source for a number of steps, and saves what is needed to go on bit for bit.

    Args:
        config: of the run, with every choice made (`micro_batch_rows`, device, precision, threads).
        objective: what is minimised.
        train: the training examples.
        valid: the batches of one evaluation, read by number; None evaluates nothing.
        valid_steps: how many of them there are.
        folder: the run folder; its `checkpoints/`, `latest.json` and `best.json` are written.
        log: where events go.
        tokenizer: folder of the tokenizer that is saved with each checkpoint.
        sample: makes (prompt, text) pairs from the model as it is.
    """

    def __init__(
        self,
        config: RunConfig,
        objective: Objective,
        train: Source,
        *,
        folder: Path,
        log: EventLog,
        valid: Source | None = None,
        valid_steps: int = 0,
        tokenizer: Path | None = None,
        sample: Callable[[], list[tuple[str, str]]] | None = None,
    ) -> None:
        self.config, self.objective, self.train_source = config, objective, train
        self.valid_source, self.valid_steps = valid, valid_steps
        self.folder, self.checkpoints, self.log = folder, folder / "checkpoints", log
        self.tokenizer, self.sample = tokenizer, sample
        self.world = World.join()
        self.device = torch.device(config.training.device)
        objective.to(self.device)
        dtype = DTYPES[config.training.precision]
        self.masters = MasterWeights(objective, dtype)
        self.optimizer = Optimizer(
            objective, self.masters.named, config.optimizer, dtype == torch.bfloat16, self.masters.narrow
        )
        self.recompute = Recompute(
            config,
            objective,
            grown=lambda: any(part.state for part in self.optimizer.parts),
            tell=lambda text: self.log.write("note", text=text),
        )
        self.ema = (
            {name: p.detach().clone() for name, p in self.masters.named.items()}
            if config.training.ema_decay
            else None
        )
        self.scale = LossScale.of(dtype)
        guard = config.guard
        self.guard = Guard(guard.window, guard.sigma, guard.rollback_after, guard.max_rollbacks)
        self.counters = checkpoints.Counters()
        self.stop_signal: int | None = None
        self._started = time.monotonic()

    # ------------------------------------------------------------------ the loop

    def train(self) -> str:
        """Train to the end, an early stop or a signal.

        Returns:
            Why training ended: `done`, `early stop` or `signal`.

        Raises:
            MeleteError: the guard gave up, or a checkpoint could not be written.
        """
        t = self.config.training
        self._started = time.monotonic() - self.counters.elapsed
        with self._signals():
            while not self._ended():
                self.step()
                last = self.counters.step == t.steps
                if self._due(t.sample_every) and not last:
                    self._write_samples()
                improved = (last or self._due(t.eval_every)) and self._evaluate()
                signalled = self.world.any(self.stop_signal is not None, self.device)
                # All that the end needs is in the last checkpoint: a kill after it loses nothing.
                if improved or signalled or self._ended() or self._due(t.save_every):
                    self.save()
                if signalled and not self._ended():
                    return "signal"
        return "done" if self.counters.step == t.steps else "early stop"

    def _ended(self) -> bool:
        t, counters = self.config.training, self.counters
        return counters.step >= t.steps or 0 < t.patience <= counters.worse_evaluations

    def _due(self, every: int) -> bool:
        return every > 0 and self.counters.step % every == 0

    def step(self) -> None:
        """One optimiser step: all micro-batches, then one update or none."""
        step, begun = self.counters.step, time.monotonic()
        batches = [
            self.objective.prepare(examples, rng_for)
            for examples in self.train_source.micro_batches(step)[self.world.rank :: self.world.size]
        ]
        totals = self._totals(batches)
        sums = self._forward_backward(step, batches, totals)
        if self.world.size > 1:
            self.masters.fill_gradients()
            self.world.sum(self.masters.gradients())
        if self.scale.active:
            torch._foreach_div_(self.masters.gradients(), self.scale.value)
        norm = self.masters.norm()
        terms = {name: float(value) / max(float(totals[name]), 1.0) for name, value in sums.items()}
        loss = sum(self.objective.weights[name] * value for name, value in terms.items())
        ratio = rate(step, self.config.training.steps, **msgspec.to_builtins(self.config.schedule))
        since = step - self._phase(step)
        if since < step:
            ratio *= min(1.0, (since + 1) / (self.config.schedule.warmup_steps + 1))
            if since == 0:
                self.guard.forget()
        self._update(step, loss, norm, ratio)
        real, places = self._sizes(batches)
        self.counters.step += 1
        self.counters.tokens += real
        now = time.monotonic()
        self.counters.elapsed = now - self._started
        self.log.write(
            "step",
            step=step,
            loss=loss,
            terms=terms,
            lr=ratio * self.config.optimizer.learning_rate,
            grad_norm=float(norm),
            tokens=self.counters.tokens,
            tokens_per_second=real / (now - begun),
            seconds=now - begun,
            elapsed=self.counters.elapsed,
            padding=1.0 - real / places,
        )

    def _phase(self, step: int) -> int:
        """The step at which the part of training began that `step` lies in."""
        steps = self.config.training.steps
        return math.ceil(self.objective.phase(step / steps) * steps)

    def _totals(self, batches: list[Batch]) -> dict[str, Tensor]:
        """Items of each term over all micro-batches and ranks, before any backward pass."""
        totals = {name: torch.zeros((), device=self.device) for name in self.objective.weights}
        for batch in batches:
            for name, count in self.objective.counts(batch).items():
                totals[name] += count.to(self.device)
        self.world.sum(list(totals.values()))
        return totals

    def _sizes(self, batches: list[Batch]) -> tuple[int, int]:
        """Real tokens, and places for tokens, over all micro-batches and ranks."""
        real = sum(batch.tokens for batch in batches)
        sizes = torch.tensor([real, sum(batch.places for batch in batches)], device=self.device)
        self.world.sum([sizes])
        return int(sizes[0]), int(sizes[1])

    def _forward_backward(
        self, step: int, batches: list[Batch], totals: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        self.objective.train()
        self.masters.clear()
        steps, seed = self.config.training.steps, self.config.seed
        wide = torch.float64 if self.config.training.precision == "float64" else torch.float32
        sums = {name: torch.zeros((), device=self.device, dtype=wide) for name in self.objective.weights}
        for i, batch in enumerate(batches):
            # Noise follows from (seed, step, rank, micro-batch) alone: a resume draws the same dropout masks.
            noise = int(rng_for((seed, step, (self.world.rank << 32) | i)).integers(2**62))
            torch.manual_seed(noise)
            ctx = Context(step, step / steps, torch.Generator(self.device).manual_seed(noise))
            with self.recompute.around(batch):
                parts = self.objective(batch.to(self.device), ctx)
            weights = self.objective.weights
            shares = [weights[name] * part / totals[name].clamp_min(1.0) for name, part in parts.items()]
            (torch.stack(shares).sum() * self.scale.value).backward()
            self.masters.collect()
            for name, part in parts.items():
                sums[name] += part.detach()
        self.world.sum(list(sums.values()))
        return sums

    def _update(self, step: int, loss: float, norm: Tensor, ratio: float) -> None:
        # A scale that can still fall explains such a gradient; a loss that is not finite is never its doing.
        if self.scale.value > 1.0 and math.isfinite(loss) and not bool(torch.isfinite(norm)):
            self.scale.update(False)
            self.log.write("skip", step=step, reason=f"float16 overflow, loss scale now {self.scale.value:g}")
            return
        reason = self.guard.judge(loss, float(norm))
        if reason is not None:
            self.log.write("skip", step=step, reason=reason)
            if self.guard.must_roll_back:
                self._roll_back(step, spike=math.isfinite(loss) and bool(torch.isfinite(norm)))
            return
        self.scale.update(True)
        limit = self.config.training.clip_norm
        self.optimizer.step(ratio, float((limit / (norm + 1e-6)).clamp(max=1.0)) if limit else 1.0)
        self.masters.publish()
        if self.ema is not None:
            # Early averages must not be dominated by the initial weights.
            weight = 1.0 - min(self.config.training.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(
                list(self.ema.values()), [p.detach() for p in self.masters.named.values()], weight
            )

    def _roll_back(self, step: int, spike: bool) -> None:
        """Weights and optimiser back to the last checkpoint; the data goes on from here."""
        folder = checkpoints.newest(self.checkpoints, lambda text: self.log.write("note", text=text))
        if folder is None and spike:
            self.guard.forget()
            self.log.write("note", text="no checkpoint to go back to: what was unusual is taken as usual now")
            return
        self.guard.rolled_back()
        if folder is None:
            raise MeleteError(
                "the first steps failed and there is no checkpoint to go back to",
                do="lower optimizer.learning_rate, or look at the skipped steps in events.jsonl",
            )
        self.restore(folder)
        self.log.write("rollback", step=step, to=folder.name)

    # ------------------------------------------------------------------ evaluation and samples

    @torch.no_grad()
    def _evaluate(self) -> bool:
        """Write the validation figures; True if the one that decides is the best so far."""
        if self.valid_source is None or not self.valid_steps:
            return False
        figures = self.validation()
        deciding, counters = self.objective.deciding, self.counters
        cost = figures[deciding] if deciding == "loss" else -figures[deciding]
        # Counted figures are often equal: then the loss tells which weights are surer.
        found, best = (cost, figures["loss"]), (counters.best_loss, counters.best_tie)
        improved = all(map(math.isfinite, found)) and (counters.best_loss is None or found < best)
        counters.worse_evaluations = 0 if improved else counters.worse_evaluations + 1
        if improved:
            (counters.best_loss, counters.best_tie), counters.best_step = found, counters.step
        self.log.write("eval", step=counters.step, elapsed=counters.elapsed, metrics=figures)
        begun = self._phase(self.config.training.steps) + self.config.schedule.warmup_steps
        for text in self.objective.take_notes():
            if counters.step > begun:
                self.log.write("note", text=f"step {counters.step:,}: {text}")
        return improved

    def validation(self) -> dict[str, float]:
        """The figures of `validate` over the validation batches, by the averaged weights where there are any."""
        assert self.valid_source is not None
        with self._averaged():
            return validate(self.objective, self.valid_source, self.valid_steps, self.device)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model computes with the averaged weights inside this block."""
        if self.ema is None:
            yield
            return
        kept = {name: p.detach().clone() for name, p in self.masters.named.items()}
        self.masters.load(self.ema)
        try:
            yield
        finally:
            self.masters.load(kept)

    def _write_samples(self) -> None:
        if self.sample is not None and self.world.is_main:
            self.objective.eval()
            with self._averaged():
                for prompt, text in self.sample():
                    self.log.write("sample", step=self.counters.step, prompt=prompt, text=text)

    # ------------------------------------------------------------------ saving and going on

    def save(self) -> None:
        """Write a checkpoint of this step, point `latest` and `best` at what they mean, remove old ones."""
        if self.world.is_main:
            begun, step = time.monotonic(), self.counters.step
            name = checkpoints.name_of(step)
            checkpoints.write_folder(self.checkpoints / name, self._fill)
            fault = checkpoints.verify(self.checkpoints / name)
            if fault is not None:
                raise StorageError(f"the checkpoint just written does not read back: {fault}", where=name)
            self.log.write("checkpoint", step=step, path=name, seconds=time.monotonic() - begun)
            checkpoints.point(self.folder / "latest.json", name)
            if self.counters.best_step == step:
                checkpoints.point(self.folder / "best.json", name)
            newest = checkpoints.steps_in(self.checkpoints)
            kept = {*newest[-self.config.training.keep :], *self.steps_to_average(), self.counters.best_step}
            checkpoints.rotate(self.checkpoints, [there for there in kept if there is not None])
        self.world.wait()

    def steps_to_average(self) -> list[int]:
        """The last scheduled checkpoints; not those of a signal, so that a stop changes no average."""
        t, now = self.config.training, self.counters.step
        there = checkpoints.steps_in(self.checkpoints)
        scheduled = [step for step in there if self._scheduled(step) or (step == now and self._ended())]
        return scheduled[-t.average_last :] if t.average_last else []

    def _scheduled(self, step: int) -> bool:
        every = self.config.training.save_every
        return every > 0 and step % every == 0

    def weights(self) -> dict[str, Tensor]:
        """What is evaluated: the averaged weights where there are any, else the masters; float32, on the CPU."""
        tensors = self.masters.named if self.ema is None else self.ema
        return {name: tensor.detach().float().cpu() for name, tensor in tensors.items()}

    def _fill(self, folder: Path) -> None:
        masters = {name: p.detach().float().cpu() for name, p in self.masters.named.items()}
        self.objective.save(folder, masters, self.tokenizer)
        tensors = {f"optimizer/{name}": tensor for name, tensor in self.optimizer.tensors().items()}
        if self.config.training.precision == "float64":  # the model's own file is float32
            tensors |= {f"masters/{name}": p for name, p in self.masters.named.items()}
        if self.ema is not None:
            tensors |= {f"ema/{name}": tensor for name, tensor in self.ema.items()}
        values: dict[str, Any] = {
            "counters": asdict(self.counters),
            "guard": self.guard.state(),
            "loss_scale": asdict(self.scale),
            "events_offset": self.log.sync(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        checkpoints.save_state(folder, tensors, values)

    def resume(self, folder: Path) -> None:
        """Take up a checkpoint of this run: the steps that follow are those of a run that was never stopped.

        What came after it is forgotten: events, and checkpoints (damaged ones, where this is the newest whole one).
        """
        values = self.restore(folder)
        self.counters = checkpoints.Counters(**values["counters"])
        self.guard.load(values["guard"])
        self.scale = LossScale(**values["loss_scale"])
        self.log.cut(values["events_offset"])
        if self.world.is_main:
            there = checkpoints.steps_in(self.checkpoints)
            checkpoints.rotate(self.checkpoints, [step for step in there if step <= self.counters.step])
        here = {"threads": torch.get_num_threads(), "torch": torch.__version__}
        for what, now in here.items():
            if values[what] != now:
                self.log.write(
                    "note",
                    text=f"saved with {what} {values[what]}, now {now}: equal up to rounding, not bit for bit",
                )

    def restore(self, folder: Path) -> dict[str, Any]:
        """Weights, averages and optimiser of a checkpoint; the step and the data go on. Returns its plain values."""
        tensors, values = checkpoints.load_state(folder)
        parts: dict[str, dict[str, Tensor]] = {"optimizer": {}, "ema": {}, "masters": {}}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            parts[kind][name] = tensor.to(self.device)
        self.masters.load(parts["masters"] or self.objective.load(folder))
        self.optimizer.load(parts["optimizer"])
        if self.ema is not None:
            self.ema = {name: parts["ema"][name] for name in self.ema}
        return values

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends the run at the next step's end, saved; the second at once."""

        def note(number: int, _frame: object) -> None:
            if self.stop_signal is not None:
                raise KeyboardInterrupt
            self.stop_signal = number
            # Unbuffered: the signal may have come in the middle of a print.
            os.write(2, b"\nstopping after this step and saving; once more to quit at once\n")

        # Handlers can only be set in the main thread; elsewhere the caller's own stay.
        try:
            before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
