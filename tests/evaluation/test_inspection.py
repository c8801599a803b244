"""What a page says of a text: equal to what the model says, and safe whatever the text is."""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import encoder_models
from melete.data.batch import Batch
from melete.errors import InputError
from melete.evaluation import inspection
from melete.evaluation.inspection import Subject, inspect
from melete.evaluation.inspection_page import render_inspection
from melete.tasks.fill_mask import FillMask
from pages import EVIL, Page

TEXT = "The king  was walking in 我喜欢.\nThe castle, a garden"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    kinds = {
        "masked": ("bert", "pretraining", encoder_models.pieces()),
        "bytes": ("modernbert", "fill-mask", encoder_models.any_bytes()),
        "replaced": ("electra", "pretraining", encoder_models.pieces()),
        "attention": ("bert", "text-classification", encoder_models.pieces()),
    }
    return {
        name: encoder_models.write(
            tmp_path_factory.mktemp(name), family, task, tokenizer, max_position_embeddings=80
        )
        for name, (family, task, tokenizer) in kinds.items()
    }


def shown(found: inspection.Inspection) -> str:
    return "".join(token.before + token.text for token in found.tokens if not token.special)


def test_each_token_is_hidden_in_turn(folders) -> None:
    subject = Subject.load(folders["masked"])
    counted = []
    found = inspect(subject, TEXT, counted.append)
    assert found.kind == "masked"
    assert shown(found) == TEXT
    assert [token.text for token in found.tokens if token.special] == ["[CLS]", "[SEP]"]
    assert sum(counted) == len(found.tokens) - 2
    ids = [2, *subject.tokenizer.encode(TEXT), 3]
    for place, token in list(enumerate(found.tokens))[1:-1]:
        hidden = [*ids[:place], 4, *ids[place + 1 :]]
        with torch.no_grad():
            logits = subject.model.mlm_logits(subject.model.encode(Batch.from_rows([hidden])))[0, place]
        shares = logits.softmax(-1)
        assert token.probability == pytest.approx(shares[ids[place]].item(), abs=1e-5)
        assert token.guesses[0][1] == pytest.approx(shares.max().item(), abs=1e-5)
        assert len(token.guesses) == 5
    known = [math.log(token.probability or 0) for token in found.tokens[1:-1]]
    assert found.perplexity == pytest.approx(math.exp(-sum(known) / len(known)))


def test_a_mask_of_the_text_is_filled_like_by_its_task(folders) -> None:
    found = inspect(Subject.load(folders["masked"]), "the [MASK] was")
    expected = FillMask.load(folders["masked"]).predict("the [MASK] was")["masks"][0]
    assert found.tokens[2].probability is None
    assert [share for _, share in found.tokens[2].guesses] == pytest.approx(
        [one["probability"] for one in expected], abs=1e-5
    )


def test_a_discriminator_says_what_was_replaced(folders) -> None:
    subject = Subject.load(folders["replaced"])
    found = inspect(subject, TEXT)
    ids = [2, *subject.tokenizer.encode(TEXT), 3]
    with torch.no_grad():
        shares = subject.model.rtd_logits(subject.model.encode(Batch.from_rows([ids]))).sigmoid()[0]
    assert found.kind == "replaced"
    assert [token.probability for token in found.tokens[1:-1]] == pytest.approx(
        shares[1:-1].tolist(), abs=1e-6
    )
    assert found.perplexity is None
    assert "taken for replaced" in Page(render_inspection(found, "electra")).text


def test_a_decoder_says_what_it_expects_next(model_folder) -> None:
    import melete

    subject = Subject.load(model_folder)
    text = "The king"
    found = inspect(subject, text)
    assert found.kind == "next"
    assert shown(found) == text
    assert found.tokens[0].special
    assert found.perplexity == pytest.approx(
        melete.load(model_folder, device="cpu").perplexity(text), rel=1e-4
    )
    with torch.no_grad():
        logits = subject.model.logits(
            subject.model.encode(Batch.from_rows([[256, *subject.tokenizer.encode(text)]]))
        )
    likeliest = int(logits[0, -1].argmax())
    assert found.after[0][0] == subject.tokenizer.decode([likeliest], skip_special_tokens=False)
    assert found.tokens[-1].probability == pytest.approx(
        logits[0, -2].softmax(-1)[subject.tokenizer.encode(text)[-1]].item(), abs=1e-6
    )
    assert np.triu(found.attention, 1).max() == 0


def test_a_model_for_another_task_shows_where_it_looks(folders) -> None:
    found = inspect(Subject.load(folders["attention"]), TEXT)
    assert found.kind == "attention"
    assert all(token.probability is None for token in found.tokens)
    assert "Token by token" not in Page(render_inspection(found, "x")).text


def test_bytes_of_one_character_are_shown_once(folders) -> None:
    found = inspect(Subject.load(folders["bytes"]), "a 我 b")
    assert [token.text for token in found.tokens][1:-1] == ["a", " ", "我", "⋯", "⋯", " ", "b"]
    assert shown(found).replace("⋯", "") == "a 我 b"


def test_a_long_text_is_cut_to_what_a_page_can_hold(folders, monkeypatch) -> None:
    monkeypatch.setattr(inspection, "MOST_WEIGHTS", 8 * 20 * 20)
    found = inspect(Subject.load(folders["masked"]), TEXT * 10)
    assert found.attention.shape == (2, 4, 20, 20)
    assert len(found.tokens) == 20
    assert found.left_out == len(Subject.load(folders["masked"]).tokenizer.encode(TEXT * 10)) - 18
    page = Page(render_inspection(found, "x"))
    assert f"The text is {18 + found.left_out} tokens long; the first 18 are read and shown." in page.text


def test_the_largest_page_is_a_few_megabytes() -> None:
    class Config:
        num_hidden_layers, num_attention_heads, max_position_embeddings = 24, 16, 8192

    size = inspection._most_tokens(Config)  # pyright: ignore[reportArgumentType]
    token = inspection.Token("token", " ", False, 0.01, (("guess", 0.2),) * 5)
    weights = np.full((24, 16, size, size), 1 / size, np.float32)
    found = inspection.Inspection("masked", "bert", 1, (token,) * size, weights)
    assert size > 60
    assert len(render_inspection(found, "x")) < 5_000_000


def test_the_page_holds_the_weights_and_needs_no_network(folders) -> None:
    found = inspect(Subject.load(folders["masked"]), TEXT)
    html = render_inspection(found, "runs/bert", "zh")
    assert not re.search(r"(src|href)\s*=|url\((?!#)|@import|https?://", html)
    data = json.loads(re.search(r'id="data">(.*?)</script>', html).group(1))  # pyright: ignore
    weights = np.frombuffer(base64.b64decode(data["weights"]), "<u2").reshape(found.attention.shape)
    assert np.abs(weights / 65535 - found.attention).max() < 1e-5
    assert [token["text"] for token in data["tokens"]] == [token.text for token in found.tokens]
    assert 'data-lang="zh"' in html
    assert "伪困惑度" in Page(html).text


def test_what_a_text_says_stays_text(folders) -> None:
    page = Page(render_inspection(inspect(Subject.load(folders["bytes"]), EVIL[:40]), EVIL))
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not [tag for tag, fields in page.tags if tag == "img" or "onerror" in fields]
    assert EVIL in page.text


def test_a_text_without_tokens_is_refused(folders) -> None:
    with pytest.raises(InputError, match="the text is too short to look at; expected two tokens or more"):
        inspect(Subject.load(folders["masked"]), " ")
