"""The same weights in transformers, through saved folders in both directions."""

from __future__ import annotations

import pytest
import torch

import kit
from melete.data.batch import Batch
from melete.models.checkpoint import load_model, save_model
from melete.nn.functional import linear_cross_entropy

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

# Seen: up to 4e-6 with logits of standard deviation 1 to 2.
TOLERANCE = 1e-5
ROPE = {
    "linear": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn-all": {
        "rope_type": "yarn",
        "rope_theta": 500.0,
        "factor": 2.0,
        "original_max_position_embeddings": 16,
        "attention_factor": 1.3,
        "beta_fast": 8.0,
        "beta_slow": 2.0,
    },
}


@pytest.fixture(scope="module", params=sorted(kit.SIZES))
def pair(request, tmp_path_factory):
    """Ours, saved, and opened by the class config.json names."""
    folder = tmp_path_factory.mktemp(request.param)
    ours = kit.tiny(request.param, bos_token_id=1, eos_token_id=1)
    save_model(folder, ours, tokenizer=None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return ours, theirs.eval()


@torch.no_grad()
def their_logits(model, batch: Batch) -> torch.Tensor:
    return model(
        input_ids=batch.input_ids,
        attention_mask=(batch.doc_ids > 0).long(),
        position_ids=batch.position_ids,
        use_cache=False,
    ).logits


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("lengths", [(21, 21), (17, 5, 1)], ids=["plain", "padded"])
def test_logits_are_equal(pair, lengths, left: bool) -> None:
    ours, theirs = pair
    batch = Batch.from_rows(kit.token_rows(*lengths), left=left)
    real = batch.doc_ids > 0
    difference = (kit.logits(ours, batch) - their_logits(theirs, batch))[real].abs().max()
    assert difference <= TOLERANCE


def test_packed_documents_are_what_each_is_alone(pair) -> None:
    ours, theirs = pair
    documents = kit.token_rows(9, 14, 3)
    together = kit.logits(ours, kit.packed(*documents))[0]
    alone = torch.cat([their_logits(theirs, Batch.from_rows([document]))[0] for document in documents])
    assert (together - alone).abs().max() <= TOLERANCE


def test_losses_are_equal(pair) -> None:
    ours, theirs = pair
    ids = torch.stack(kit.token_rows(20, 20))
    with torch.no_grad():
        hidden = ours.encode(Batch.from_rows(list(ids[:, :-1])))
        total, _ = linear_cross_entropy(hidden.flatten(0, 1), ours.head_weight, ids[:, 1:].flatten())
        assert total.item() / 38 == pytest.approx(theirs(ids, labels=ids).loss.item(), abs=1e-5)


@torch.no_grad()
def test_greedy_continuations_through_the_cache_are_equal(pair) -> None:
    ours, theirs = pair
    batch = Batch.from_rows(kit.token_rows(6, 3), left=True)
    expected = theirs.generate(
        batch.input_ids,
        attention_mask=batch.doc_ids.long(),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    cache, ids = ours.new_cache(2, 18), batch.input_ids
    while ids.shape[1] < 18:
        token = ours.logits(ours.encode(batch, cache)[:, -1:]).argmax(-1)  # (B, 1)
        ids = torch.cat([ids, token], dim=1)
        last = batch.position_ids[:, -1:] + 1
        batch = Batch(token, torch.ones_like(token, dtype=torch.int32), last, batch.doc_starts)
    assert torch.equal(ids, expected)


@pytest.mark.parametrize("family", sorted(kit.SIZES))
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_their_folder_loads_and_comes_back_the_same(family: str, tied: bool, tmp_path) -> None:
    config = {
        "gpt2": transformers.GPT2Config(
            vocab_size=50,
            n_positions=24,
            n_embd=24,
            n_layer=2,
            n_head=3,
            n_inner=40,
            bos_token_id=0,
            eos_token_id=0,
        ),
        "qwen3": transformers.Qwen3Config(
            vocab_size=50,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=10,
            rope_parameters={"rope_theta": 1e6, "rope_type": "default"},
            max_position_embeddings=24,
        ),
    }[family]
    config.tie_word_embeddings, config.initializer_range = tied, 0.15
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()  # sharded
    ours = load_model(tmp_path / "theirs")
    batch = Batch.from_rows(kit.token_rows(19, 7, vocab=50))
    real = batch.doc_ids > 0
    assert (kit.logits(ours, batch) - their_logits(theirs, batch))[real].abs().max() <= TOLERANCE
    save_model(tmp_path / "ours", ours, tokenizer=None)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(again) is type(theirs)
    assert again.dtype == torch.float32
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    kept = again.config.to_dict()
    changed = {key for key, value in theirs.config.to_dict().items() if kept.get(key) != value}
    assert changed <= {"_name_or_path", "architectures", "dtype", "sliding_window"}


@pytest.mark.parametrize("kind", sorted(ROPE))
def test_rotary_scaling_is_theirs(kind: str, tmp_path) -> None:
    ours = kit.tiny("qwen3", rope_parameters=ROPE[kind], max_position_embeddings=64)
    save_model(tmp_path, ours, tokenizer=None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert theirs.config.rope_parameters == ROPE[kind]
    batch = Batch.from_rows(kit.token_rows(60))
    assert (kit.logits(ours, batch) - their_logits(theirs, batch)).abs().max() <= TOLERANCE
    assert load_model(tmp_path).config == ours.config


def test_a_resized_context_is_a_valid_folder_for_them(pair, tmp_path) -> None:
    original, _ = pair
    save_model(tmp_path / "short", original, tokenizer=None)
    longer = load_model(tmp_path / "short", max_position_embeddings=2 * kit.CONTEXT)
    save_model(tmp_path / "long", longer, tokenizer=None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "long").eval()
    batch = Batch.from_rows(kit.token_rows(2 * kit.CONTEXT))
    assert (kit.logits(longer, batch) - their_logits(theirs, batch)).abs().max() <= TOLERANCE
