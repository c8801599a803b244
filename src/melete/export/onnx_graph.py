"""ONNX: a model and its head as one graph of plain tensors, for any number of texts of any length."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from melete.console import say
from melete.data.batch import Batch
from melete.errors import InputError
from melete.export.precision import cast
from melete.models.base import Network
from melete.models.checkpoint import CONFIG, GENERATION, TOKENIZER_FILES

PACKAGES = ("onnxscript", "onnxruntime")
FILE = "model.onnx"

# task -> names of the answers, as the ecosystem has them, and how they come from hidden states
_OUTPUTS: dict[str, tuple[tuple[str, ...], Callable[[Any, Tensor, Batch], tuple[Tensor, ...]]]] = {
    "text-generation": (("logits",), lambda model, hidden, batch: (model.logits(hidden),)),
    "fill-mask": (("logits",), lambda model, hidden, batch: (model.mlm_logits(hidden),)),
    "text-classification": (("logits",), lambda model, hidden, batch: (model.class_logits(hidden, batch),)),
    "token-classification": (("logits",), lambda model, hidden, batch: (model.tag_logits(hidden),)),
    "question-answering": (
        ("start_logits", "end_logits"),
        lambda model, hidden, batch: model.span_logits(hidden).unbind(-1),
    ),
    "electra pretraining": (("logits",), lambda model, hidden, batch: (model.rtd_logits(hidden),)),
    "bert pretraining": (
        ("prediction_logits", "seq_relationship_logits"),
        lambda model, hidden, batch: (model.mlm_logits(hidden), model.nsp_logits(hidden, batch)),
    ),
}
# how far the answers may be from the model's, as a share of the largest
_TOLERANCE = {"float32": 1e-4, "float16": 5e-2}


def check(folder: Path, family: str, task: str, precision: str) -> None:
    """Raises InputError: a task without such a graph, or numbers that ONNX Runtime cannot multiply on a CPU."""
    if _key(family, task) not in _OUTPUTS:
        raise InputError(f"a {family} model for {task} has no ONNX form", where=str(folder))
    if precision not in _TOLERANCE:
        raise InputError(
            f"ONNX Runtime does not compute in {precision}",
            expected=" or ".join(_TOLERANCE),
            where="--precision",
        )


def write(model: Network, folder: Path, target: Path, precision: str) -> float:
    """Write model.onnx, and beside it the config and the tokenizer's files; open it, and compare answers.

    Returns:
        The largest difference from the model's answers in float32, on texts of other number and length than traced.
    """
    names, _ = _OUTPUTS[_key(model.family, model.task)]
    graph = Graph(model)
    # lengths that the trace has not seen, of which one is a single token
    others = graph.inputs([min(length, model.config.max_position_embeddings) for length in (11, 1, 6)])
    expected = [answer.numpy() for answer in graph(*others.values())]
    state = {name: cast(name, weight, precision) for name, weight in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    target.mkdir()
    _trace(graph, names, target / FILE)
    for name in (CONFIG, GENERATION, *TOKENIZER_FILES):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    answers = run(target / FILE, {name: value.numpy() for name, value in others.items()})
    return _largest_difference(answers, expected, others["attention_mask"].numpy() > 0, precision)


class Graph(nn.Module):
    """A model from plain tensors to the answers of its task."""

    def __init__(self, model: Network) -> None:
        super().__init__()
        self.model = model
        self.with_types = hasattr(model.config, "type_vocab_size")

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Answers of the task, named as in `_OUTPUTS`.

        Args:
            input_ids: int64 (B, T).
            attention_mask: int64 (B, T), 1 at tokens and 0 at padding, which may stand on either side.
            token_type_ids: int64 (B, T), for families that tell the texts of a pair apart.
        """
        positions = (attention_mask.cumsum(1) - 1).clamp_min(0)  # (B, T)
        first = attention_mask.argmax(1)  # (B,)
        starts = torch.stack([torch.arange(first.shape[0], device=first.device), first], dim=1)  # (B, 2)
        batch = Batch(
            input_ids, attention_mask.to(torch.int32), positions, starts, token_type_ids=token_type_ids
        )
        _, answer = _OUTPUTS[_key(self.model.family, self.model.task)]
        return answer(self.model, self.model.encode(batch), batch)

    def inputs(self, lengths: list[int]) -> dict[str, Tensor]:
        """Texts of random tokens of these lengths, padded on the right, by the names of the graph's inputs."""
        generator = torch.Generator().manual_seed(0)
        shape = (len(lengths), max(lengths))
        ids = torch.randint(self.model.config.vocab_size, shape, generator=generator)
        mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
        found = {"input_ids": ids, "attention_mask": mask}
        return found | ({"token_type_ids": torch.zeros_like(ids)} if self.with_types else {})


def run(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The answers of ONNX Runtime on the CPU, in the order of the graph's outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(answer) for answer in session.run(None, dict(inputs))]


def _trace(graph: Graph, names: tuple[str, ...], path: Path) -> None:
    longest = graph.model.config.max_position_embeddings
    inputs = graph.inputs([min(7, longest), min(5, longest)])
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=longest)}
    say("tracing the graph: some seconds, more for a large model")
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(names),
            dynamic_shapes=tuple(axes for _ in inputs),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own remarks, which tell a person of Melete nothing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _largest_difference(
    answers: list[np.ndarray], expected: list[np.ndarray], real: np.ndarray, precision: str
) -> float:
    """Over the tokens that are no padding, or over the texts.

    Raises:
        InputError: the model needs more than this precision.
    """
    largest = 0.0
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.shape == wanted.shape
        where = real if answer.shape[:2] == real.shape else slice(None)
        apart = float(np.abs(answer[where].astype(np.float32) - wanted[where]).max())
        limit = _TOLERANCE[precision] * max(1.0, float(np.abs(wanted[where]).max()))
        if precision != "float32" and not apart <= limit:
            raise InputError(f"in {precision} its answers differ by {apart:g}", do="use --precision float32")
        assert apart <= limit, f"the graph's answers differ by {apart:g}, more than {limit:g}"
        largest = max(largest, apart)
    return largest


def _key(family: str, task: str) -> str:
    return f"{family} {task}" if task == "pretraining" else task
