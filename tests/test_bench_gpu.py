"""`make bench-gpu` says what it measures, and that it measures nothing where there is no GPU."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Opens a benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_machine_without_a_gpu_checks_all_parts_and_says_that_it_measures_nothing(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, ran = benchmark("bench_gpu"), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        subprocess, "run", lambda command: ran.append(command) or SimpleNamespace(returncode=0)
    )
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    module.main()
    assert [Path(command[1]).name for command in ran] == ["training.py", "decoding.py", "encoding.py"]
    assert all("tiny" in " ".join(command) and "cuda" not in command for command in ran)
    said = capsys.readouterr().out.strip().splitlines()
    assert "measure NOTHING" in said[0] and "measure NOTHING" in said[-1]


def test_sides_and_shapes_that_are_asked_for_are_there(benchmark: Any) -> None:
    module = benchmark("bench_gpu")
    training, decoding, encoding = (benchmark(name) for name in module.MEASURED)
    for commands in (module.MEASURED, module.CHECKED):
        shapes = [option for option in commands["training"] if option in training.SHAPES]
        assert shapes
        assert all(set(training.SHAPES[name].sides) <= set(training.SIDES) for name in shapes)
    bare = module.commands(list(module.MEASURED), gpu=True, compiler=False)
    assert not any(
        word in option for options in bare.values() for option in options for word in ("static", "-compiled")
    )
    for script, name in ((decoding, "decoding"), (encoding, "encoding")):
        options = module.CHECKED[name]
        assert options[options.index("--sides") + 1 :] == script.ON_GPU  # all that a GPU will measure
        assert set(script.ON_GPU) <= set(script.SIDES)


def test_a_peak_is_told_only_where_the_name_is_known(benchmark: Any) -> None:
    peak = benchmark("_device").published_peak
    assert peak("NVIDIA H200") == peak("NVIDIA H100 80GB HBM3") == 989e12
    assert peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak("NVIDIA H100 PCIe") == 756e12
    assert peak("NVIDIA L40S") == 362e12 != peak("NVIDIA L4")
    assert peak("NVIDIA GeForce RTX 4090") == 165e12
    assert peak("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None  # a seventh of one
    assert peak("Some other device") is None
