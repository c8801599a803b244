"""Real text from $MELETE_DATA; a test that asks for it is skipped where there is none."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from melete.data.datasets import resolve

# name -> file of lines: a text, a tab, a label
_LABELLED = {"sst2": "train.tsv.gz", "thucnews_title": "train_subset.txt.gz"}


def documents(name: str, characters: int, most: int | None = None) -> list[str]:
    """Documents of a set, from its beginning, as few as have that many characters; of each the first `most`."""
    if "MELETE_DATA" not in os.environ or not Path(os.environ["MELETE_DATA"], name).is_dir():
        pytest.skip(f"$MELETE_DATA has no {name}")
    found: list[str] = []
    for text in _texts(name):
        found.append(text[:most])
        characters -= len(found[-1])
        if characters <= 0:
            break
    return found


def _texts(name: str) -> Iterator[str]:
    if name in _LABELLED:
        path = Path(os.environ["MELETE_DATA"], name, _LABELLED[name])
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield line.partition("\t")[0]
    else:
        for document in resolve(name, whole=False).train:
            yield document.text
