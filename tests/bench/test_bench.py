"""What `melete bench` says: each kind of work of a model, beside what the machine can do, and nothing left behind."""

from __future__ import annotations

import json
import mmap
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import commands
import kit
from melete.bench import measuring, sides, steps
from melete.bench.measuring import Report, bench
from melete.bench.sides import Sizes
from melete.cli.bench import _next
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.machine import forget_peak, peak_memory
from melete.models import build
from melete.models.checkpoint import save_model
from melete.objectives.causal_lm import CausalLM
from melete.training import ceilings

SIZES = Sizes(rows=2, context=16, batches=(1, 2))
TEXT = (
    'def near(a, b):\n    """Whether two numbers are close.\n\n    As close as it gets. Yes, so close."""\n\n'
    * 9
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One piece of work a turn, small products, two short texts; temporary files where they are looked for."""
    monkeypatch.setattr(sides, "texts", lambda: [TEXT, TEXT.upper()])
    monkeypatch.setattr(sides, "precisions", lambda device: ["float32"])
    monkeypatch.setattr(measuring, "TURN", 0.0)
    monkeypatch.setattr(ceilings, "SHAPES", {"cpu": ((64, 64, 64),)})
    monkeypatch.setattr(ceilings, "read_speed", lambda device: 1e10)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A decoder with a context of 32 tokens."""
    Tokenizer.train([TEXT], "byte-bpe", 280).save(tmp_path / "model")
    model = build("qwen3:nano", vocab_size=280, max_position_embeddings=32, **kit.SIZES["qwen3"])
    save_model(tmp_path / "model", model, tokenizer=None)
    return tmp_path / "model"


def kinds(report: Report) -> list[tuple[str, str, str]]:
    return [(figure.what, figure.dtype, figure.shape) for figure in report.figures]


def test_a_decoder_is_trained_and_writes(folder: Path, tmp_path: Path) -> None:
    report = bench([str(folder)], sizes=Sizes(rows=2, batches=(1, 2)), repeats=1)
    precision = report.figures[0].dtype
    # As long as its context: 256 tokens, and 64 new ones, are more than it has.
    assert kinds(report) == [
        ("training", precision, "2 x 32, muon"),
        ("decoding", "float32", "1 x 16 new"),
        ("decoding", "float32", "2 x 16 new"),
    ]
    for figure in report.figures:
        rate = figure.tokens_per_second
        assert rate is not None
        assert 0 < rate.lowest <= rate.median <= rate.highest
        assert figure.reached is not None
        assert figure.share == pytest.approx(figure.reached / report.ceilings[figure.of].median)
    assert report.figures[1].of == "memory"
    assert {"float32", "bfloat16", "memory"} <= set(report.ceilings)
    assert list((tmp_path / "temporary").glob("melete*")) == []
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model", "temporary"]


def test_an_encoder_is_trained_and_reads() -> None:
    report = bench(["bert:nano"], sizes=SIZES, repeats=1)
    assert [figure.what for figure in report.figures] == ["training", "encoding"]
    assert report.parameters["bert:nano"] > 1e6


def test_a_format_that_cannot_be_had_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "precisions", lambda device: ["float32", "int4"])
    loaded = sides.load

    def refuse(*arguments: Any, **options: Any) -> Any:
        if options.get("precision") == "int4":
            raise InputError("int4 needs a C++ compiler")
        return loaded(*arguments, **options)

    monkeypatch.setattr(sides, "load", refuse)
    report = bench([str(folder)], ["decoding"], sizes=SIZES, repeats=1)
    *_, last = report.figures
    assert (last.dtype, last.refused, last.tokens_per_second) == ("int4", "int4 needs a C++ compiler", None)


def test_operations_are_those_of_matrices_and_of_attention() -> None:
    model = kit.tiny("gpt2", vocab_size=97)
    width, context = 32, 10
    matrices = 2 * 12 * width**2 + 97 * width  # of two blocks, and of the output
    expected = 6 * matrices + 6 * 2 * width * context
    assert steps.training_cost(CausalLM(model), np.full(4, context)) == expected


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["marian:nano"], "marian:nano: marian models are not measured; expected a decoder or an encoder"),
        (["no/such/folder"], "no/such/folder: no such folder"),
        (["bert:nano", "--only", "decoding"], "bert:nano does no decoding; expected encoding or training"),
        (["gpt2:nano", "--repeats", "0"], "repeats is 0; expected 1 or more"),
        (["gpt2:nano", "--batch", "0"], "batch is 0; expected 1 or more"),
        (["gpt2:nano", "--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_mistakes_are_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.melete("bench", *words) == 2
    assert capsys.readouterr().err.startswith(f"melete: error: {says}")


def test_rows_longer_than_the_context_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.melete("bench", folder, "--context", 64) == 2
    assert "expected at most 32" in capsys.readouterr().err


def test_json_is_one_object_and_lines_name_everything(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", folder, "--only", "decoding", "--repeats", 1, "--batch", 1]
    assert commands.melete(*words, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["figures"][0]["tokens_per_second"]["median"] > 0
    assert said["machine"]["torch"] == torch.__version__
    assert commands.melete(*words) == 0
    printed = capsys.readouterr()
    for word in ("memory is read", "products in float32", "1 x 16 new", "tokens/s", "% of memory", "threads"):
        assert word in printed.out
    line = printed.err.splitlines()[-1].removeprefix("next: ")
    commands.check_call(line.replace("FILE", "some.txt"), "next")


def test_what_is_next_after_a_preset_can_be_typed() -> None:
    report = bench(["gpt2:nano"], ["training"], sizes=SIZES, repeats=1)
    program, script, *_ = shlex.split(_next(report))
    assert program == "python"
    assert Path(script).is_file()


def test_the_peak_of_memory_can_be_forgotten() -> None:
    if not forget_peak():
        pytest.skip("this system does not forget")
    before = peak_memory()
    with mmap.mmap(-1, 1 << 26) as pages:
        pages.write(b"x" * len(pages))
        most = peak_memory()
    assert before is not None
    assert most is not None
    assert most - before > 0.9 * (1 << 26)
    forget_peak()
    assert (peak_memory() or 0) < most
