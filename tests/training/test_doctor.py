"""The doctor's facts are real, and its advice follows from them."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from melete.cli import melete
from melete.training.doctor import EXTRAS, Examination, advise

HEALTHY = Examination(
    melete="0",
    python="3.12",
    platform="Linux",
    torch="2.13",
    cpu="a CPU",
    cores=4,
    threads=4,
    load=0.2,
    cpu_features=["avx2"],
    gpus=["a GPU, 80 GiB"],
    memory_gib=32.0,
    memory_free_gib=20.0,
    disk_free_gib=100.0,
    extras=dict.fromkeys(EXTRAS, True),
    gflops={"float32": 100.0, "bfloat16": 1000.0},
)


def test_a_healthy_machine_needs_no_advice() -> None:
    assert advise(HEALTHY, cpu_build=False) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gpus": []}, "10 million parameters on 200 million tokens take about 8 h 20 min"),
        ({"gflops": {"float32": 100.0, "bfloat16": 20.0}}, "bfloat16 reaches 20 GFLOP/s, float32 100"),
        ({"threads": 1}, "1 of 4 cores are used"),
        ({"load": 3.5}, "3.5 of its 4 cores were busy"),
        ({"memory_free_gib": 0.5}, "0.5 GiB of memory are free"),
        ({"disk_free_gib": 0.5}, "0.5 GiB of disk are free"),
        ({"extras": {**HEALTHY.extras, "parquet": False}}, "the extra 'parquet' is not installed"),
    ],
)
def test_each_shortage_has_its_advice(changes: dict, says: str) -> None:
    advice = advise(replace(HEALTHY, **changes), cpu_build=False)
    assert len(advice) == 1
    assert says in advice[0].why
    assert advice[0].do


def test_every_extra_is_looked_for() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert {*EXTRAS, "dev"} == set(project["optional-dependencies"])


def test_command_prints_one_object() -> None:
    answer = json.loads(CliRunner().invoke(melete, ["doctor", "--json"]).stdout)
    assert answer["cores"] >= 1
    assert set(answer["gflops"]) == {"float32", "bfloat16"}
    assert answer["disk_free_gib"] > 0
