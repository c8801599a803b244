"""GGUF files: what is in them, read with the package that defines them, and what llama.cpp makes of them."""

from __future__ import annotations

import json
import math
import os
import shutil
import unicodedata
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import kit
from melete.data.batch import Batch
from melete.data.tokenizers import Tokenizer
from melete.errors import InputError
from melete.export.export import export_model
from melete.generation.generate import generate
from melete.generation.settings import GenerationSettings
from melete.models.checkpoint import load_model

# The names of the first layer, as llama.cpp's converter has them.
NAMES = {
    "gpt2": {
        "token_embd.weight": "token_embeddings.weight",
        "position_embd.weight": "position_embeddings.weight",
        "output_norm.weight": "norm.weight",
        "output_norm.bias": "norm.bias",
        "output.weight": "lm_head.weight",
        "blk.0.attn_norm.weight": "layers.0.attention_norm.weight",
        "blk.0.attn_norm.bias": "layers.0.attention_norm.bias",
        "blk.0.attn_qkv.weight": "layers.0.attention.query_key_value.weight",
        "blk.0.attn_qkv.bias": "layers.0.attention.query_key_value.bias",
        "blk.0.attn_output.weight": "layers.0.attention.output.weight",
        "blk.0.attn_output.bias": "layers.0.attention.output.bias",
        "blk.0.ffn_norm.weight": "layers.0.feed_forward_norm.weight",
        "blk.0.ffn_norm.bias": "layers.0.feed_forward_norm.bias",
        "blk.0.ffn_up.weight": "layers.0.feed_forward.up.weight",
        "blk.0.ffn_up.bias": "layers.0.feed_forward.up.bias",
        "blk.0.ffn_down.weight": "layers.0.feed_forward.down.weight",
        "blk.0.ffn_down.bias": "layers.0.feed_forward.down.bias",
    },
    "qwen3": {
        "token_embd.weight": "embed_tokens.weight",
        "output_norm.weight": "norm.weight",
        "blk.0.attn_norm.weight": "layers.0.input_layernorm.weight",
        "blk.0.attn_q.weight": "layers.0.self_attn.q_proj.weight",
        "blk.0.attn_k.weight": "layers.0.self_attn.k_proj.weight",
        "blk.0.attn_v.weight": "layers.0.self_attn.v_proj.weight",
        "blk.0.attn_output.weight": "layers.0.self_attn.o_proj.weight",
        "blk.0.attn_q_norm.weight": "layers.0.self_attn.q_norm.weight",
        "blk.0.attn_k_norm.weight": "layers.0.self_attn.k_norm.weight",
        "blk.0.ffn_norm.weight": "layers.0.post_attention_layernorm.weight",
        "blk.0.ffn_gate.weight": "layers.0.mlp.gate_proj.weight",
        "blk.0.ffn_up.weight": "layers.0.mlp.up_proj.weight",
        "blk.0.ffn_down.weight": "layers.0.mlp.down_proj.weight",
    },
}
YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 16}
VARIANTS = {
    "gpt2": ("gpt2", {}),
    "gpt2-untied": ("gpt2", {"tie_word_embeddings": False, "intermediate_size": 80}),
    "qwen3": ("qwen3", {}),
    "qwen3-untied": ("qwen3", {"tie_word_embeddings": False, "num_key_value_heads": 1}),
    "qwen3-linear": ("qwen3", {"rope_parameters": {"rope_type": "linear", "factor": 2.5}}),
    "qwen3-yarn": ("qwen3", {"rope_parameters": YARN}),
    "qwen3-yarn-attention": ("qwen3", {"rope_parameters": {**YARN, "attention_factor": 1.3, "beta_fast": 8}}),
}


def read(path):
    reader = gguf.GGUFReader(path)
    return {key: field.contents() for key, field in reader.fields.items()}, {
        t.name: t for t in reader.tensors
    }


@pytest.mark.parametrize(("variant", "precision"), [("gpt2-untied", "float16"), ("qwen3", "float32")])
def test_every_weight_is_in_the_file_under_its_name(made, tmp_path, variant: str, precision: str) -> None:
    family, fields = VARIANTS[variant]
    folder = made(family, **fields)
    export_model(str(folder), "gguf", tmp_path / "out.gguf", precision=precision)
    _, tensors = read(tmp_path / "out.gguf")
    state = load_model(folder).state_dict()
    assert len(tensors) == len(state)
    for name, ours in NAMES[family].items():
        narrow = state[ours].dim() > 1 and "position" not in ours
        assert tensors[name].data.dtype == (precision if narrow else "float32"), name
        assert np.array_equal(
            tensors[name].data, state[ours].to(getattr(torch, precision if narrow else "float32"))
        )


def test_bfloat16_is_bfloat16(made, tmp_path) -> None:
    folder = made("qwen3")
    export_model(str(folder), "gguf", tmp_path / "out.gguf", precision="bfloat16")
    values, tensors = read(tmp_path / "out.gguf")
    matrix = tensors["blk.1.ffn_up.weight"]
    assert (matrix.tensor_type.name, list(matrix.shape), values["general.file_type"]) == (
        "BF16",
        [32, 48],
        32,
    )
    ours = load_model(folder).state_dict()["layers.1.mlp.up_proj.weight"].bfloat16()
    assert np.array_equal(np.array(matrix.data).view(np.int16), ours.view(torch.int16).numpy())


def test_llama_cpp_is_told_all_it_asks(made, tmp_path, tokenizer_folder) -> None:
    folder = made("qwen3", rope_parameters=YARN)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    export_model(str(folder), "gguf", tmp_path / "small.gguf")
    values, _ = read(tmp_path / "small.gguf")
    told = {key.removeprefix("qwen3."): value for key, value in values.items() if key.startswith("qwen3.")}
    assert told == {
        "context_length": 64,
        "embedding_length": 32,
        "block_count": 2,
        "feed_forward_length": 48,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "rope.dimension_count": 16,
        "rope.freq_base": 5e5,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 16,
        "rope.scaling.yarn_beta_fast": 32.0,
        "rope.scaling.yarn_beta_slow": 1.0,
    }
    assert (values["general.architecture"], values["general.name"]) == ("qwen3", "small")
    tokenizer = Tokenizer.load(tokenizer_folder)
    definition = json.loads(tokenizer.definition)
    words = {key.rpartition(".")[2]: value for key, value in values.items() if key.startswith("tokenizer.")}
    assert (words["model"], words["pre"], words["chat_template"]) == ("gpt2", "gpt-2", "{{ messages }}")
    assert words["merges"] == [" ".join(merge) for merge in definition["model"]["merges"]]
    assert words["tokens"][: tokenizer.vocab_size] == [
        tokenizer.token(i) for i in range(tokenizer.vocab_size)
    ]
    assert words["tokens"][-1] == f"[PAD{tokenizer.vocab_size + 8}]"
    kinds = dict(zip(words["tokens"], words["token_type"], strict=True))
    assert (kinds["<|endoftext|>"], kinds["<unk>"], kinds["a"], words["token_type"][-9:]) == (
        3,
        4,
        1,
        [5] * 9,
    )
    assert {words[f"{role}_token_id"] for role in ("bos", "eos", "padding")} == {tokenizer.eos_id}
    assert words["add_bos_token"] is False


def test_gpt2_and_a_scale_of_attention(made, tmp_path) -> None:
    export_model(str(made("gpt2")), "gguf", tmp_path / "a.gguf")
    values, _ = read(tmp_path / "a.gguf")
    assert values["gpt2.feed_forward_length"] == 128
    assert values["gpt2.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    family, fields = VARIANTS["qwen3-yarn-attention"]
    export_model(str(made(family, name="scaled", **fields)), "gguf", tmp_path / "b.gguf")
    values, _ = read(tmp_path / "b.gguf")
    assert values["qwen3.rope.scaling.attn_factor"] == pytest.approx(1.3 / (0.1 * math.log(4) + 1))


QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def cut_by(definition: dict, pattern: str) -> None:
    definition["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ],
    }


def changed(folder, change) -> None:
    definition = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    change(definition)
    (folder / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")


def test_the_split_of_qwen_is_known_and_what_is_not_normalised_is_said(made, tmp_path, capsys) -> None:
    folder = made("qwen3")
    changed(folder, lambda definition: cut_by(definition, QWEN))
    changed(folder, lambda definition: definition.update(normalizer={"type": "NFC"}))
    export_model(str(folder), "gguf", tmp_path / "out.gguf")
    assert read(tmp_path / "out.gguf")[0]["tokenizer.ggml.pre"] == "qwen2"
    assert capsys.readouterr().err.count("llama.cpp does not normalise") == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: cut_by(d, r"\w+|\s+"), "does not split text as one it knows"),
        (lambda d: d["pre_tokenizer"].update(add_prefix_space=True), "does not split text as one it knows"),
        (lambda d: d["pre_tokenizer"].update(use_regex=False), "does not split text as one it knows"),
        (lambda d: d.update(normalizer={"type": "Lowercase"}), "changes the text \\(Lowercase\\)"),
        (lambda d: d["model"].update(ignore_merges=True), "has ignore_merges"),
        (lambda d: d["model"].update(merges=[]), "no merges"),
        (lambda d: d["added_tokens"][0].update(lstrip=True), "takes the space around it"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_not_reproduce_is_refused(
    made, tmp_path, change, reason: str
) -> None:
    folder = made("gpt2")
    changed(folder, change)
    with pytest.raises(
        InputError, match=f"llama.cpp would cut text in another way: .*{reason}.*; expected byte"
    ):
        export_model(str(folder), "gguf", tmp_path / "out.gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


@pytest.mark.parametrize("kind", ["char", "word", "wordpiece", "unigram"])
def test_the_other_kinds_of_tokenizer_are_refused(made, tmp_path, kind: str) -> None:
    folder = made("gpt2")
    Tokenizer.train(["a text of some words, and some more words"] * 20, kind, 60).save(folder)
    with pytest.raises(InputError, match=r"llama\.cpp would cut text in another way"):
        export_model(str(folder), "gguf", tmp_path / "out.gguf")


def test_a_model_without_its_tokenizer_has_no_gguf(made, tmp_path, tokenizer_folder) -> None:
    folder = made("gpt2", vocab_size=300)
    with pytest.raises(InputError, match="the tokenizer has 320 tokens, the model 300"):
        export_model(str(folder), "gguf", tmp_path / "out.gguf")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="no tokenizer in this folder"):
        export_model(str(folder), "gguf", tmp_path / "out.gguf")


# -- llama.cpp itself --

TEXT = (
    "The lobster's life: it isn't 345 years…\n\n  and\tred when <unk> cooked!  春眠不觉晓，处处闻啼鸟。"
    "全角ＡＢＣ１２３ ½ é e\u0301 🙂👩‍👩‍👧 नमस्ते \u3000 \u00a0x  \r\n한국어 'll I'LL we're <|endoftext|> end  "
)


def llama(path, **settings):
    package = pytest.importorskip("llama_cpp", reason="pip install llama-cpp-python (built for minutes)")
    float32 = package.GGML_TYPE_F32
    return package.Llama(
        str(path), n_threads=1, logits_all=True, verbose=False, type_k=float32, type_v=float32, **settings
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_cpp_gives_the_same_answers(made, tmp_path, variant: str) -> None:
    family, fields = VARIANTS[variant]
    folder = made(family, **fields)
    export_model(str(folder), "gguf", tmp_path / "out.gguf")
    runtime, model = llama(tmp_path / "out.gguf", n_ctx=64), load_model(folder)
    (row,) = kit.token_rows(40, vocab=320)
    runtime.eval(row.tolist())
    theirs = np.array(runtime.scores[:40])
    ours = kit.logits(model, Batch.from_rows([row]))[0].numpy()
    # measured: 3e-6 for qwen3; llama.cpp reads GELU from a table of float16
    assert np.abs(theirs - ours).max() <= (5e-3 if family == "gpt2" else 2e-5)
    runtime.reset()
    written = [token for token, _ in zip(runtime.generate(row.tolist(), temp=0.0), range(20), strict=False)]
    assert written == generate(model, [row.tolist()], GenerationSettings(max_new_tokens=20, temperature=0))[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("pattern", ["", QWEN], ids=["gpt2", "qwen2"])
def test_llama_cpp_cuts_text_into_the_same_tokens(made, tmp_path, pattern: str) -> None:
    folder = made("qwen3")
    if pattern:
        changed(folder, lambda definition: cut_by(definition, pattern))
    export_model(str(folder), "gguf", tmp_path / "out.gguf")
    runtime, tokenizer = llama(tmp_path / "out.gguf", n_ctx=64), Tokenizer.load(folder)
    generator = np.random.default_rng(0)
    letters = np.array(list(TEXT), dtype=object)
    mixed = ["".join(generator.choice(letters, 30)) for _ in range(2000)]
    for text in [TEXT, *mixed]:
        assert runtime.tokenize(text.encode(), add_bos=True, special=True) == tokenizer.encode(text), repr(
            text
        )
    assert runtime.detokenize(tokenizer.encode(TEXT), special=True).decode() == TEXT


@pytest.mark.slow
@pytest.mark.skipif("MELETE_DATA" not in os.environ, reason="needs GPT-2's vocabulary under $MELETE_DATA")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_llama_cpp_cuts_every_character_as_gpt2_does(made, tmp_path) -> None:
    """Those of Unicode 3.2: of the newest letters the two libraries have tables of different years."""
    folder, published = (
        made("gpt2", vocab_size=50304),
        Path(os.environ["MELETE_DATA"]) / "tokenizers" / "gpt2",
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    shutil.copy(published / "encoder.json", folder / "vocab.json")
    shutil.copy(published / "vocab.bpe", folder / "merges.txt")
    export_model(str(folder), "gguf", tmp_path / "out.gguf")
    runtime, tokenizer = llama(tmp_path / "out.gguf", vocab_only=True), Tokenizer.load(folder)
    for code in range(1, 0x20000):
        letter = chr(code)
        if unicodedata.ucd_3_2_0.category(letter) in ("Cs", "Cn"):
            continue
        text = f"a{letter}b {letter}1{letter}{letter} . {letter}{letter}x{letter}\n{letter}'s"
        assert runtime.tokenize(text.encode(), add_bos=True, special=True) == tokenizer.encode(text), hex(
            code
        )
