"""Figures of translations: those of `sacrebleu`, with its signatures."""

from __future__ import annotations

import sys

import pytest

from melete.errors import InputError
from melete.metrics.translation import translation_scores

PREDICTED = ["The cat sat on the mat .", "It is raining today ."]
REFERENCES = [
    ["The cat sat on a mat .", "A cat was on the mat ."],
    ["It rains today .", "Today it is raining ."],
]


def test_figures_and_signatures_are_theirs() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    found = translation_scores(PREDICTED, REFERENCES, "en")
    streams = [list(stream) for stream in zip(*REFERENCES, strict=True)]
    assert found["bleu"].value == sacrebleu.corpus_bleu(PREDICTED, streams).score
    assert found["chrf"].value == sacrebleu.corpus_chrf(PREDICTED, streams).score
    assert found["ter"].value == sacrebleu.corpus_ter(PREDICTED, streams).score
    assert found["bleu"].signature.startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_chinese_is_cut_into_characters() -> None:
    pytest.importorskip("sacrebleu")
    found = translation_scores(["我爱北京天安门"], [["我爱北京天安门。"]], "zh")
    assert "tok:zh" in found["bleu"].signature
    assert found["bleu"].value > 80
    assert "asian:yes" in found["ter"].signature
    assert found["ter"].value == pytest.approx(100 / 8)


@pytest.mark.parametrize("references", [[], [["a"]], [["a"], ["b", "c"]], [[], []]])
def test_references_must_be_as_many_for_each_text(references: list[list[str]]) -> None:
    with pytest.raises(InputError, match="expected as many references, at least one, for each text"):
        translation_scores(["a", "b"], references)


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(InputError, match=r"need sacrebleu; pip install 'melete\[translation\]'"):
        translation_scores(["a"], [["a"]])
