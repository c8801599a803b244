"""What an encoder-decoder says of rows that grow token by token, in compiled code: see `nn/writer.cpp`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from melete.data.batch import Batch
from melete.data.datasets import cache_folder
from melete.generation.reading import WritingModel, answering, finite
from melete.models.postnorm import DecoderBlock, PostNorm
from melete.nn.linear import Linear
from melete.nn.writer import Texts, Writer, library

_FAMILIES = ("marian", "bart")
# Of each model, and what it was made of: weights that have changed since are packed again.
_writers: WeakKeyDictionary[PostNorm, tuple[Any, Writer]] = WeakKeyDictionary()


def writer_of(model: WritingModel) -> Writer | None:
    """The decoder of a model in compiled code; None where it has none.

    That is Marian and BART in float32 on a processor with AVX-512, beside a C++ compiler.

    Raises:
        InputError: its weights are not numbers.
    """
    if not isinstance(model, PostNorm) or model.family not in _FAMILIES:
        return None
    weights = [model.head_bias, *model.decoder.parameters(), model.head_weight]
    if any(weight.dtype != torch.float32 or weight.device.type != "cpu" for weight in weights):
        return None
    layers = [layer for layer in model.decoder.modules() if isinstance(layer, torch.nn.Linear)]
    compiled = library(cache_folder() / "native")
    if compiled is None or not all(type(layer) is Linear for layer in layers):
        return None
    made_of = [(weight.data_ptr(), weight._version) for weight in weights]
    kept = _writers.get(model)
    if kept is None or kept[0] != made_of:
        finite(torch.stack([weight.detach().sum() for weight in weights]))
        config = model.config
        parts = [_parts(block) for block in model.decoder.layers]  # pyright: ignore[reportArgumentType]
        head = (model.head_weight, model.head_bias)
        writer = Writer(compiled, parts, config.num_attention_heads, config.activation_function, head)
        _writers[model] = kept = (made_of, writer)
    return kept[1]


def _parts(block: DecoderBlock) -> tuple[list[tuple[Tensor, Tensor]], list[Any]]:
    own, across, inner = block.attention, block.cross_attention, block.feed_forward
    joined = [own.query, own.key, own.value]
    layers = [own.output, across.query, across.output, inner.up, inner.down]
    matrices = [(layer.weight, layer.bias) for layer in layers]
    first = torch.cat([layer.weight for layer in joined]), torch.cat([layer.bias for layer in joined])
    return [first, *matrices], [block.attention_norm, block.cross_attention_norm, block.feed_forward_norm]


class CompiledReading:
    """As `Reading`, of an encoder-decoder whose rows have begun with equally many tokens.

    Keys and values stay where they were written, and each row knows where its own stand: nothing is copied when beams
    move or end.

    Args:
        writer: see `writer_of`.
        prompts: token ids of each prompt.
        room: tokens that each row will be given, at most.
        sources: what the encoder reads for each prompt.
        beams: rows of each prompt, side by side.
    """

    def __init__(
        self,
        writer: Writer,
        model: PostNorm,
        prompts: Sequence[Sequence[int]],
        room: int,
        sources: Sequence[Sequence[int]],
        beams: int,
    ) -> None:
        self._writer, self._model, self._beams = writer, model, beams
        self.vocab_size = writer.vocab_size
        self.device, self.attended = torch.device("cpu"), torch.empty(0)
        # What is not read yet, (R, T), then (R * n, 1).
        self._newest = torch.tensor(prompts, dtype=torch.int64)
        rows, room = len(prompts) * beams, self._newest.shape[1] + room
        with answering(model):
            source = model.read(Batch.from_rows(sources))
        self._texts = Texts(
            0,
            torch.empty(model.config.num_decoder_layers, room, rows, 2, model.config.hidden_size),
            torch.zeros(len(prompts), room, dtype=torch.int32),
            torch.arange(len(prompts), dtype=torch.int32),
            (source.doc_ids > 0).sum(1, dtype=torch.int32),
            [torch.stack(pair, 1).permute(0, 3, 1, 2, 4).flatten(3) for pair in source.layers],
        )

    def __len__(self) -> int:
        """Rows, those of a prompt counted once while they are equal."""
        return len(self._newest)

    def next_logits(self) -> Tensor:
        """Scores of the next token of each row, float32 (R * n, V), without dropout."""
        return self._read(lambda x: (self._writer.logits(self._texts, x),))[0]

    def best(self, count: int, forbidden: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and ids of the likeliest next tokens of each row, (R * n, count) each, best first.

        Args:
            forbidden: tokens that are left out.
        """
        scores, tokens = self._read(lambda x: self._writer.best(self._texts, x, count, forbidden))
        return scores, tokens

    def append(self, tokens: Sequence[int]) -> None:
        """Give each row its next token."""
        self._newest = torch.tensor(tokens)[:, None]

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order: of each prompt that is left all, in which a row may repeat."""
        chosen = torch.tensor(rows)
        place, source = self._texts.place[chosen], self._texts.source[chosen]
        self._texts = self._texts._replace(place=place, source=source)

    def _read(self, say: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Read what is new; what is said of each row."""
        found: tuple[Tensor, ...] = ()
        for ids in self._newest.unbind(1):
            texts = self._texts
            with answering(self._model):
                x = self._model.begin(ids[:, None], torch.full_like(ids, texts.length)[:, None])  # (B, 1, D)
            found = say(x.flatten(0, 1).contiguous())
            texts.place[:, texts.length] = torch.arange(len(ids), dtype=torch.int32)
            self._texts = texts._replace(length=texts.length + 1)
        if self._newest.shape[1] == self._texts.length:  # what begins all rows of a prompt was read once
            each = self._beams
            place, source = (x.repeat_interleave(each, 0) for x in (self._texts.place, self._texts.source))
            self._texts = self._texts._replace(place=place, source=source)
            found = tuple(part.repeat_interleave(each, 0) for part in found)
        return found
