"""A step of decoding as a CUDA graph: what the model does for one new token, launched at once instead of op by op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from melete.console import say
from melete.data.batch import Batch
from melete.models.base import Decoder
from melete.nn.cache import Branches, KVCache

# To capture costs about as much as a few steps: it must pay for that, and rows that are about to end are not worth it.
_FEWEST_STEPS, _PATIENCE = 32, 4
_WARM_UPS = 2


class Step:
    """One new token of each row, in tensors whose shape and place never change, as a graph needs them.

    Attention looks at all positions that the cache has room for, and a mask hides those that nothing was written to.
    Nothing in it waits for the device or copies to it, but for the one copy of `__call__`. Without a graph it computes
    the same, op by op.

    Args:
        model: in evaluation mode; what it does is recorded, so that neither it nor the cache may be replaced.
        cache: of a decoder, without branches; it is written to at each call.
    """

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        rows, device = cache.doc_ids.shape[0], cache.doc_ids.device
        self.cache, self._model = cache, model
        # Weights of 0 would not hide what is no number, and memory that was never written may hold that.
        cache.keys[:, :, :, cache.length :].zero_()
        cache.values[:, :, :, cache.length :].zero_()
        self._inputs = torch.zeros(2 * rows + 1, dtype=torch.int64, device=device)
        ids, positions, self._place = self._inputs.split([rows, rows, 1])
        self._columns = torch.arange(cache.max_length, device=device)  # (S,)
        starts = torch.zeros((rows, 2), dtype=torch.int64, device=device)
        doc_ids = torch.ones((rows, 1), dtype=torch.int32, device=device)
        self._batch = Batch(ids[:, None], doc_ids, positions[:, None], starts)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits = torch.empty(0)

    def __call__(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Scores of what follows these tokens, float32 (B, V); the cache has taken them in."""
        self.prepare(tokens, positions)
        if self._graph is None:
            self.run()
        else:
            self._graph.replay()
        self.cache.length += 1
        return self._logits.clone()  # the next call writes to the same place

    def prepare(self, tokens: Sequence[int], positions: Sequence[int]) -> None:
        """Put tokens, their positions and their place in the cache where `run` finds them."""
        assert self.cache.length < self.cache.max_length
        self._inputs.copy_(torch.tensor([*tokens, *positions, self.cache.length]))

    def capture(self) -> None:
        """Record the graph, on the tokens that were prepared.

        Raises:
            RuntimeError: something in it cannot be recorded.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._inputs.device):  # streams are those of the current one
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            # Libraries take memory at their first call, which must not be recorded.
            with torch.cuda.stream(side):
                for _ in range(_WARM_UPS):
                    self.run()
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                self.run()
        self._graph = graph

    def run(self) -> None:
        """What is recorded; to do it twice for one token changes nothing."""
        cache = self.cache
        cache.doc_ids.index_fill_(1, self._place, 1)
        seen = (cache.doc_ids == 1) & (self._columns <= self._place)  # (B, S); guesses that failed lie behind
        cache.place, cache.branches = self._place, Branches(seen[:, None], self._columns.expand_as(seen))
        try:
            hidden = self._model.encode(self._batch, cache)  # (B, 1, D)
        finally:
            cache.place = cache.branches = None
        self._logits = self._model.logits(hidden[:, -1]).float()


class Steps:
    """Decides when a step is worth a graph, for rows that grow one token a step; only CUDA devices have graphs."""

    def __init__(self, model: object, device: torch.device) -> None:
        self._model = model if isinstance(model, Decoder) and device.type == "cuda" else None
        self._step: Step | None = None
        self._seen = 0

    def forget(self) -> None:
        """Rows or cache are others now."""
        self._step, self._seen = None, 0

    def ready(
        self, cache: KVCache, tokens: Sequence[int], positions: Sequence[int], left: int
    ) -> Step | None:
        """The step for these tokens; None: read them without.

        Args:
            left: tokens that are still to come, at most.
        """
        self._seen += 1
        if self._model is None or self._step is not None:
            return self._step
        left = min(left, cache.max_length - cache.length)
        if self._seen <= _PATIENCE or left < _FEWEST_STEPS:
            return None
        step = Step(self._model, cache)
        try:
            step.prepare(tokens, positions)
            step.capture()
        except RuntimeError as error:
            say(f"decoding without a CUDA graph, at a fraction of the speed: {str(error).splitlines()[0]}")
            self._model = None
            return None
        self._step = step
        return step
