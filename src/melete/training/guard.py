"""What stands between a bad batch and the weights.

A loss or a gradient that is not finite never reaches the weights, and one that is far from what is usual is left
out. Non-finite values never enter the window either: one NaN costs one step, not a window of steps.
"""

from __future__ import annotations

import math
from collections import deque

from melete.errors import MeleteError


class Guard:
    """Judges each step by its loss and gradient norm beside those of the steps before it.

    A spike is a value more than `sigma` standard deviations above the mean of the window, once the window is half
    full (OLMo 2, section 3.3, skips such steps).

    Args:
        window: how many accepted steps are remembered.
        sigma: 0 switches spikes off; non-finite values are always refused.
        rollback_after: refused steps in a row before `judge` asks for a rollback.
    """

    def __init__(self, window: int, sigma: float, rollback_after: int, max_rollbacks: int) -> None:
        self.sigma, self.rollback_after, self.max_rollbacks = sigma, rollback_after, max_rollbacks
        self.losses: deque[float] = deque(maxlen=window)
        self.norms: deque[float] = deque(maxlen=window)
        self.refused_in_a_row = 0
        self.rollbacks = 0

    def judge(self, loss: float, norm: float) -> str | None:
        """None if the step may be taken, else why it must not be."""
        reason = self._fault("loss", loss, self.losses) or self._fault("gradient norm", norm, self.norms)
        if reason is None:
            self.losses.append(loss)
            self.norms.append(norm)
            self.refused_in_a_row = 0
            if len(self.losses) == self.losses.maxlen:
                self.rollbacks = 0  # a window of steps since the last one: that trouble is over
        else:
            self.refused_in_a_row += 1
        return reason

    def _fault(self, what: str, value: float, window: deque[float]) -> str | None:
        if not math.isfinite(value):
            return f"{what} is {value}"
        if self.sigma and window.maxlen and len(window) >= max(1, window.maxlen // 2):
            mean = sum(window) / len(window)
            deviation = math.sqrt(sum((x - mean) ** 2 for x in window) / len(window))
            limit = mean + self.sigma * max(deviation, 1e-3 * abs(mean))
            if value > limit:
                return (
                    f"{what} {value:.4g} is above {limit:.4g} ({self.sigma:g} sigma over {len(window)} steps)"
                )
        return None

    @property
    def must_roll_back(self) -> bool:
        return self.refused_in_a_row >= self.rollback_after

    def rolled_back(self) -> None:
        """Count a rollback.

        Raises:
            MeleteError: there were more than `max_rollbacks`, and never a window of good steps between them.
        """
        self.rollbacks += 1
        self.forget()
        if self.rollbacks > self.max_rollbacks:
            raise MeleteError(
                f"training went back {self.max_rollbacks} times and keeps failing",
                do="lower optimizer.learning_rate, or look at the skipped steps in events.jsonl",
            )

    def forget(self) -> None:
        """Learn anew what is usual."""
        self.refused_in_a_row = 0
        self.losses.clear()
        self.norms.clear()

    def state(self) -> dict[str, object]:
        """Plain values for the checkpoint."""
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "refused_in_a_row": self.refused_in_a_row,
            "rollbacks": self.rollbacks,
        }

    def load(self, state: dict) -> None:
        """Take up what `state` gave."""
        self.losses.clear()
        self.losses.extend(state["losses"])
        self.norms.clear()
        self.norms.extend(state["norms"])
        self.refused_in_a_row, self.rollbacks = state["refused_in_a_row"], state["rollbacks"]
