"""Re-run the measured promises of fine-tuning, and say of each what was asked and what came out.

python benchmarks/bars_tasks.py                       # a chosen half, up to 75 minutes on 2 cores
python benchmarks/bars_tasks.py sst2 cmrc2018         # any of them

Each set is fine-tuned by its recipe, from a model that has read English or Chinese text without labels, once for all
sets of the language. Its bars: the wall clock of both; the lower end of the paired 95 % interval of the difference to
the linear column of the same run; and the figure itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from _bars import MELETE, ROOT, Bar, main, read_first, run
from melete import config as configs

HALF = ("trec", "ag_news", "ud_english_ewt", "resume_ner", "chnsenticorp")


class Promise(NamedTuple):
    """What is asked of a set.

    Attributes:
        minutes: of pretraining and fine-tuning together.
        ahead: what the model is to be better by than the linear column, at least; None: not asked.
        least: what its figure is to be, at least; None: not asked.
    """

    minutes: int
    ahead: float | None = None
    least: float | None = None


PROMISES = {
    "sst2": Promise(30, ahead=0.010),
    "chnsenticorp": Promise(30, ahead=0.005),
    "ag_news": Promise(15, ahead=0.0),
    "thucnews_title": Promise(30, ahead=0.003),
    "trec": Promise(10, ahead=0.015),
    "resume_ner": Promise(20, least=0.935),
    "wnut17": Promise(20),
    "weibo_ner": Promise(20),
    "ud_english_ewt": Promise(30, least=0.940),
    "sts_b": Promise(30),
    "mrpc": Promise(20),
    "cmrc2018": Promise(60),
}


def task(name: str, scratch: Path) -> list[Bar]:
    """The bars of a set."""
    promise, recipe = PROMISES[name], ROOT / "recipes" / name / "finetune.toml"
    language = Path(configs.load(recipe).model.source).name
    reading = read_first(ROOT / "recipes" / language / "pretrain.toml", scratch)
    card, tuning = run([*MELETE, "train", str(recipe), "--json"], scratch)
    metric, (model, *baselines) = card["metric"], card["table"]
    linear = max(baselines, key=lambda row: row[metric])
    ahead, low, high = linear["difference"]
    figure = f"{name}, {metric}"
    own = f"{model[metric]:.4f} ({model['low']:.4f} to {model['high']:.4f})"
    beside = f"{ahead:+.4f} ({low:+.4f} to {high:+.4f}) to {linear['name']}, {linear[metric]:.4f}"
    seconds, limit = reading + tuning, 60 * promise.minutes
    bars = [
        Bar(f"{name}, wall clock", f"<= {limit} s", f"{reading:.0f} + {tuning:.0f} s", seconds <= limit),
        Bar(f"{figure}, paired 95 % interval", "lower end > 0", beside, low > 0),
    ]
    if promise.ahead is not None:
        asked = f"{promise.ahead:+.3f} or more"
        bars.append(
            Bar(f"{figure}, beside the linear column", asked, f"{ahead:+.4f}", ahead >= promise.ahead)
        )
    if promise.least is not None:
        bars.append(Bar(figure, f">= {promise.least}", own, model[metric] >= promise.least))
    return bars


BARS: dict[str, Callable[[Path], list[Bar]]] = {name: partial(task, name) for name in PROMISES}

if __name__ == "__main__":
    main(__doc__, BARS, HALF)
