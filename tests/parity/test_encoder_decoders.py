"""The same encoder-decoder weights in transformers, through saved folders in both directions."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

import kit
from melete.data.batch import Batch
from melete.models.base import EncoderDecoder
from melete.models.checkpoint import load_encoder_decoder, save_model
from melete.nn.functional import linear_cross_entropy

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

TOLERANCE = 1e-5
START, END, PAD = 0, 1, 2
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("marian", {"activation_function": "swish", "scale_embedding": True}),
    ("marian", {"activation_function": "relu"}),
    ("bart", {}),
    ("t5", {"feed_forward_proj": "relu"}),
    ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    ("encoder-decoder", {"writer": "bert"}),
    ("encoder-decoder", {"writer": "gpt2"}),
]
LENGTHS = {"plain": ((14, 14), (9, 9)), "padded": ((29, 5, 1), (2, 21, 7))}


@pytest.fixture(
    scope="module",
    params=VARIANTS,
    ids=lambda variant: "-".join(map(str, (variant[0], *variant[1].values()))),
)
def pair(request, tmp_path_factory):
    """Ours, saved, and opened by the automatic class; biases are far from where they start."""
    name, fields = request.param
    folder = tmp_path_factory.mktemp(name)
    ids = {"decoder_start_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
    ours = kit.tiny_encoder_decoder(name, **ids, **fields)
    stir(ours)
    save_model(folder, ours, tokenizer=None)
    theirs, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    # Marian's fixed positions and a pooler that nobody reads are in no file.
    nowhere = ("embed_positions", "encoder.pooler")
    assert not [key for keys in report.values() for key in keys if not any(name in key for name in nowhere)]
    return ours, theirs.eval()


def stir(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


@torch.no_grad()
def their_logits(model: Any, batch: Batch) -> torch.Tensor:
    assert batch.source is not None
    return model(
        input_ids=batch.source.input_ids,
        attention_mask=(batch.source.doc_ids > 0).long(),
        decoder_input_ids=batch.input_ids,
        decoder_attention_mask=(batch.doc_ids > 0).long(),
        use_cache=False,
    ).logits


@torch.no_grad()
def distance(ours: EncoderDecoder, theirs: Any, batch: Batch) -> float:
    difference = ours.logits(ours.encode(batch)) - their_logits(theirs, batch)
    return difference[batch.doc_ids > 0].abs().max().item()


def drawn(lengths: str, vocab: int = kit.VOCAB) -> Batch:
    sources, rows = LENGTHS[lengths]
    return kit.answering(
        kit.token_rows(*sources, seed=3, vocab=vocab), kit.token_rows(*rows, seed=4, vocab=vocab)
    )


@pytest.mark.parametrize("lengths", LENGTHS)
def test_logits_are_equal(pair, lengths: str) -> None:
    assert distance(*pair, drawn(lengths)) <= TOLERANCE


@pytest.mark.filterwarnings("ignore:Version v4.12.0:FutureWarning")
@torch.no_grad()
def test_losses_are_equal(pair) -> None:
    ours, theirs = pair
    batch = drawn("padded")
    assert batch.source is not None
    labels = batch.input_ids.roll(-1, 1).masked_fill(batch.doc_ids == 0, -100)
    total, _ = linear_cross_entropy(
        ours.encode(batch).flatten(0, 1), ours.head_weight, labels.flatten(), bias=ours.head_bias
    )
    expected = theirs(
        batch.source.input_ids,
        batch.source.doc_ids.long(),
        batch.input_ids,
        batch.doc_ids.long(),
        labels=labels,
    ).loss
    assert total.item() / int((labels != -100).sum()) == pytest.approx(expected.item(), abs=1e-5)


@torch.no_grad()
def test_greedy_answers_through_the_cache_are_equal(pair) -> None:
    ours, theirs = pair
    batch = kit.answering(kit.token_rows(11, 4, seed=5), [torch.tensor([START])] * 2)
    assert batch.source is not None
    expected = theirs.generate(
        batch.source.input_ids,
        attention_mask=batch.source.doc_ids.long(),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
    )
    ids, cache = batch.input_ids, ours.new_cache(2, 20)
    while ids.shape[1] < 21:
        token = ours.logits(ours.encode(batch, cache)[:, -1:]).argmax(-1)  # (B, 1)
        ids = torch.cat([ids, token], dim=1)
        batch = Batch(token, batch.doc_ids, batch.position_ids + 1, batch.doc_starts)
    assert torch.equal(ids, expected)


def their_config(name: str, draw: random.Random) -> Any:
    heads = draw.choice([2, 4])
    width = heads * draw.choice([4, 6])
    ids = {"decoder_start_token_id": START, "eos_token_id": END, "pad_token_id": PAD}
    drop = draw.choice([0.0, 0.3])
    if name == "t5":
        forward = draw.choice(["relu", "gated-gelu"])
        return transformers.T5Config(
            vocab_size=50,
            d_model=width,
            d_kv=draw.choice([4, 7]),
            d_ff=draw.randint(5, 30),
            num_layers=draw.randint(1, 3),
            num_decoder_layers=draw.choice([None, 2]),
            num_heads=heads,
            relative_attention_num_buckets=draw.choice([8, 16]),
            relative_attention_max_distance=draw.choice([12, 20]),
            dropout_rate=drop,
            feed_forward_proj=forward,
            **ids,
        )
    inner = draw.randint(5, 30)
    if name == "encoder-decoder":
        return joined_config(draw, inner, heads * 6, ids)
    kind = transformers.MarianConfig if name == "marian" else transformers.BartConfig
    return kind(
        vocab_size=50,
        d_model=width,
        encoder_layers=draw.randint(1, 3),
        decoder_layers=draw.randint(1, 3),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        max_position_embeddings=40,
        activation_function=draw.choice(["gelu", "swish", "relu"]),
        scale_embedding=draw.choice([True, False]),
        dropout=drop,
        bos_token_id=draw.choice([0, 1]),
        **ids,
    )


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """A config whose halves stand beside one another."""
    halves = {name: values[name] for name in ("encoder", "decoder") if name in values}
    inner = {f"{name}.{key}": value for name, half in halves.items() for key, value in half.items()}
    return {key: value for key, value in values.items() if key not in halves} | inner


def joined_config(draw: random.Random, inner: int, width: int, ids: dict[str, int]) -> Any:
    """BERT beside BERT or GPT-2, of like widths or not."""

    def bert() -> Any:
        return transformers.BertConfig(
            vocab_size=50,
            hidden_size=draw.choice([width, 24]),
            num_hidden_layers=draw.randint(1, 3),
            num_attention_heads=2,
            intermediate_size=inner,
            max_position_embeddings=40,
        )

    if draw.random() < 0.5:
        writer = bert()
    else:
        tied = draw.choice([True, False])
        writer = transformers.GPT2Config(
            vocab_size=50, n_embd=width, n_layer=2, n_head=2, n_positions=40, tie_word_embeddings=tied
        )
    return transformers.EncoderDecoderConfig.from_encoder_decoder_configs(bert(), writer, **ids)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["bart", "encoder-decoder", "marian", "t5"])
def test_their_folder_loads_and_comes_back_the_same(name: str, seed: int, tmp_path, capsys) -> None:
    config = their_config(name, random.Random(f"{name} {seed}"))
    torch.manual_seed(seed)
    theirs = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    stir(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_encoder_decoder(tmp_path / "theirs")
    assert capsys.readouterr().err == ""
    assert distance(ours, theirs, drawn("padded", vocab=50)) <= TOLERANCE
    save_model(tmp_path / "ours", ours, tokenizer=None)
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    assert type(again) is type(theirs)
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    # A pooler that nobody reads is new each time.
    assert all(torch.equal(before[key], after[key]) for key in before if "encoder.pooler" not in key)
    kept = flat(again.config.to_dict())
    changed = {key for key, value in flat(theirs.config.to_dict()).items() if kept.get(key) != value}
    assert {key.rpartition(".")[2] for key in changed} <= {
        "_name_or_path",
        "architectures",
        "dtype",
        "classifier_dropout",
        "id2label",
        "label2id",
    }
    said, kept = theirs.generation_config.to_dict(), again.generation_config.to_dict()
    assert all(kept[key] == said[key] for key in said if key.endswith("_token_id"))
