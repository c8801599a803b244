"""The task fill-mask: equal to the reference, whole in what it shows, one line for what it cannot answer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import encoder_models
import melete
from melete.data.readers import Row
from melete.errors import InputError
from melete.models.checkpoint import load_encoder, save_model
from melete.tasks import task_of
from melete.tasks.fill_mask import FillMask

KINDS = {
    "bert": ("bert", "fill-mask", encoder_models.pieces),
    "electra": ("electra", "fill-mask", encoder_models.pieces),
    "modernbert": ("modernbert", "fill-mask", encoder_models.any_bytes),
}
TEXTS = [
    "The king was walking in the [MASK] of the castle.",
    "[MASK]",
    "the [MASK] was walk[MASK] , [MASK] king",
    "我喜[MASK]自然[MASK]言",
    "the queen[MASK][MASK]",
]


@pytest.fixture(scope="module", params=sorted(KINDS))
def folder(request, tmp_path_factory) -> Path:
    family, task, tokenizer = KINDS[request.param]
    return encoder_models.write(
        tmp_path_factory.mktemp("m"), family, task, tokenizer(), max_position_embeddings=64
    )


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> FillMask:
    folder = encoder_models.write(tmp_path_factory.mktemp("bert"), "bert")
    return melete.load(folder, task="fill-mask", device="cpu")


def test_predictions_are_those_of_the_reference_pipeline(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    pipeline = transformers.pipeline("fill-mask", model=str(folder), top_k=4, device="cpu")
    found = melete.load(folder, device="cpu").predict(TEXTS, top_k=4)
    for text, answer in zip(TEXTS, found, strict=True):
        expected = pipeline(text)
        expected = [expected] if isinstance(expected[0], dict) else expected
        assert len(answer["masks"]) == len(expected) == text.count("[MASK]")
        for ours, theirs in zip(answer["masks"], expected, strict=True):
            assert [one["id"] for one in ours] == [one["token"] for one in theirs]
            assert [one["probability"] for one in ours] == pytest.approx(
                [one["score"] for one in theirs], abs=1e-5
            )


def test_answers_do_not_depend_on_the_batch(folder: Path) -> None:
    model = melete.load(folder, device="cpu")
    together = model.predict(TEXTS * 5)
    for text, answer in zip(TEXTS * 5, together, strict=True):
        alone = model.predict(text)
        assert answer["filled"] == alone["filled"]
        for one, other in zip(answer["masks"], alone["masks"], strict=True):
            assert [x["probability"] for x in one] == pytest.approx(
                [x["probability"] for x in other], abs=1e-5
            )


@pytest.mark.slow
def test_a_hundred_thousand_rows_stream_in_flat_memory(bert) -> None:
    def rows(count: int) -> Iterator[Row]:
        for i in range(count):
            yield Row({"text": f"the king was {'walk ' * (i % 19)}[MASK]"}, "x", i)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in bert.stream(rows(30_000)):  # a window, and what the allocator keeps
        pass
    before, count, most = resident(), 0, 0
    for count, _ in enumerate(bert.stream(rows(100_000)), 1):
        most = max(most, resident()) if count % 1000 == 0 else most
    assert count == 100_000
    assert most - before < 20 << 20


@pytest.mark.parametrize(
    ("text", "tokens", "filled"),
    [
        ("The [MASK] was  Walk [MASK], ok", ["king", "##ing"], "The king was  Walking, ok"),
        ("我[MASK][MASK]自然", ["喜", "欢"], "我喜欢自然"),
        ("[MASK]\n[MASK]", ["##s", "[SEP]"], "s\n[SEP]"),
    ],
)
def test_words_are_put_where_masks_stood(bert, text, tokens, filled) -> None:
    _, masks = bert._masks(text, "")
    assert bert._filled(masks, [bert.tokenizer.id_of(token) for token in tokens]) == filled


def test_bytes_of_one_character_behind_several_masks_are_put_together(tmp_path) -> None:
    model = FillMask.load(encoder_models.write(tmp_path, "modernbert", tokenizer=encoder_models.any_bytes()))
    _, masks = model._masks("a [MASK][MASK][MASK] b", "")
    # The mask took in the space before it.
    assert model._filled(masks, model.tokenizer.encode("我")) == "a我 b"


def test_another_name_of_the_mask_is_understood(tmp_path) -> None:
    tokenizer = encoder_models.pieces()
    definition = tokenizer.definition.replace("[MASK]", "<mask>")
    renamed = type(tokenizer)(definition, tokenizer.config | {"mask_token": "<mask>"})
    model = FillMask.load(encoder_models.write(tmp_path, "bert", tokenizer=renamed))
    assert model.predict("the [MASK]")["masks"] == model.predict("the <mask>")["masks"]


def test_a_head_that_is_part_of_a_larger_one_is_enough(tmp_path, capsys) -> None:
    folder = encoder_models.write(tmp_path, "bert", task="pretraining")
    assert task_of(folder) == "fill-mask"
    assert melete.load(folder, device="cpu").predict("the [MASK]")["masks"]
    assert "left out what this task does not use: next_sentence, pooler" in capsys.readouterr().err


def test_a_folder_without_the_head_is_refused(tmp_path) -> None:
    folder = encoder_models.write(tmp_path, "electra", task="pretraining")
    with pytest.raises(
        InputError, match="ElectraForPreTraining has no head for a task; expected a model for text-gen"
    ):
        melete.load(folder)
    generator = encoder_models.write(folder / "generator", "electra", task="fill-mask")
    with pytest.raises(InputError, match=f"no head for fill-mask; its generator fills masks: {generator}"):
        melete.load(folder, task="fill-mask")
    assert melete.load(generator, device="cpu").predict("the [MASK]")["masks"]
    with pytest.raises(
        InputError, match="ElectraForMaskedLM has no head for text-generation; it is for fill-mask"
    ):
        melete.load(generator, task="text-generation")


def test_a_folder_that_names_no_class_has_the_head_or_is_refused(bert, tmp_path) -> None:
    def unnamed(folder: Path) -> Path:
        path = folder / "config.json"
        values = json.loads(path.read_text())
        path.write_text(
            json.dumps({name: value for name, value in values.items() if name != "architectures"})
        )
        return folder

    whole = unnamed(shutil.copytree(bert.folder, tmp_path / "whole"))
    with pytest.raises(InputError, match="bert has no head for a task"):
        melete.load(whole)
    loaded = melete.load(whole, task="fill-mask", device="cpu")
    assert loaded.predict("the [MASK]") == bert.predict("the [MASK]")
    bare = unnamed(encoder_models.write(tmp_path / "bare", "electra", task="pretraining"))
    with pytest.raises(InputError, match="no weights for fill-mask in there"):
        melete.load(bare, task="fill-mask")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("the king", "input:1: no [MASK] in this text; expected one or more"),
        ("", "input:1: no [MASK] in this text; expected one or more"),
        ("the " * 40 + "[MASK]", "input:1: a text of 41 tokens; expected at most 30; shorten or split it"),
    ],
)
def test_a_text_that_cannot_be_answered_is_one_line(bert, text, line) -> None:
    with pytest.raises(InputError) as caught:
        bert.predict(text)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize("top_k", [0, 34, "3"])
def test_an_impossible_number_of_tokens_is_refused(bert, top_k) -> None:
    with pytest.raises(InputError, match=r"top_k is .*; expected between 1 and 33"):
        bert.predict("[MASK]", top_k=top_k)


def test_a_vocabulary_without_masks_is_refused(tmp_path, bert) -> None:
    tokenizer = encoder_models.pieces()
    config = {name: token for name, token in tokenizer.config.items() if name != "mask_token"}
    type(tokenizer)(tokenizer.definition, config).save(tmp_path)
    save_model(tmp_path, load_encoder(bert.folder), tokenizer=None)
    with pytest.raises(InputError, match="the vocabulary has no mask token"):
        melete.load(tmp_path)
