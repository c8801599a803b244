"""`melete pretrain`, `train` and `resume` of encoders: what they print, refuse, and leave behind."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from launcher import Launcher
from melete.cli import main
from melete.data.tokenizers import Tokenizer
from melete.models.checkpoint import load_encoder
from melete.models.electra_pair import load_pair
from rig import digest, events

SIZES = {
    "bert": "hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 2, intermediate_size = 48",
    "electra": "embedding_size = 24, hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 2, "
    "intermediate_size = 48",
    "modernbert": "hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 2, intermediate_size = 48",
}
RECIPE = """
[model]
source = "{family}:nano"
config = {{{sizes}}}
[tokenizer]
vocab_size = 120
[data]
train = ["texts"]
valid_fraction = 0.2
[objective]
{objective}
[training]
steps = 4
context = 32
batch_tokens = 256
micro_batch_rows = 4
threads = 1
precision = "float32"
packing = "sorted"
save_every = 2
eval_every = 2
"""


def write_folder(folder: Path) -> None:
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "dog", "run", "by", "while"]
    draw = random.Random(0)
    (folder / "texts").mkdir()
    for number in range(30):
        sentences = [" ".join(draw.choices(words, k=draw.randint(4, 9))) + "." for _ in range(6)]
        (folder / "texts" / f"{number}.txt").write_text(" ".join(sentences))
    for family, sizes in SIZES.items():
        (folder / f"{family}.toml").write_text(RECIPE.format(family=family, sizes=sizes, objective=""))
    nsp = RECIPE.format(family="bert", sizes=SIZES["bert"], objective='pair = "nsp"')
    (folder / "nsp.toml").write_text(nsp)


@pytest.fixture(scope="module")
def finished(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run of each kind has been trained, and what each printed."""
    folder = tmp_path_factory.mktemp("encoders")
    write_folder(folder)
    for name in ("bert", "nsp", "electra", "modernbert"):
        done = launcher.run(folder, "train", f"{name}.toml", f"name={name}", "--json")
        assert done.code == 0, done.err
        (folder / f"{name}.json").write_text(done.out)
        (folder / f"{name}.said").write_text(done.err)
    return folder


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, as the one in which commands run."""
    monkeypatch.chdir(finished)
    monkeypatch.setenv("MELETE_CACHE", str(finished / "cache"))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return finished


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a command that fails with exit code 2; there is no new run after it."""
    capsys.readouterr()
    before = sorted(Path("runs").iterdir())
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("melete: error: ")]
    assert len(lines) == 1, err
    assert err.endswith(lines[0] + "\n")
    assert sorted(Path("runs").iterdir()) == before
    return lines[0].removeprefix("melete: error: ")


ON = ["-d", "texts", "--context", "32", "--batch-tokens", "256", "--steps", "2"]


# -- what a run says and leaves --


def test_a_masked_run_is_measured_beside_token_frequencies(finished: Path) -> None:
    card = json.loads((finished / "bert.json").read_text())
    model, guess = card["table"]
    assert (model["name"], guess["name"]) == ("bert:nano", "token frequencies")
    assert model["loss"] > 0 and guess["loss"] > 0
    said = (finished / "bert.said").read_text()
    for expected in (
        "objective.mask_unit: whole words, ",
        "nats/hidden token",
        "step 4: sample: ",
        "of them hidden by word, the same in every run",
        "next: melete predict runs/bert",
    ):
        assert expected in said
    assert all("[MASK]" in sample["prompt"] for sample in card["samples"])


def test_a_chinese_run_speaks_of_chinese(finished: Path, launcher: Launcher) -> None:
    rows = [json.dumps({"text": "我喜欢自然语言处理。今天的天气很好！" * 3}) for _ in range(20)]
    (finished / "zh.jsonl").write_text("\n".join(rows))
    texts = 'data.train=["zh.jsonl"]', "data.valid=['zh.jsonl']"
    done = launcher.run(finished, "train", "electra.toml", "name=zh", *texts)
    assert done.code == 0, done.err
    assert "next: melete inspect runs/zh --text '今天的天气很好。'" in done.err
    sample = next(line for line in done.err.splitlines() if "sample: " in line)
    assert " " not in sample.partition("sample: ")[2].partition(" | ")[0]


def test_pairs_are_measured(finished: Path) -> None:
    card = json.loads((finished / "nsp.json").read_text())
    assert 0 <= card["table"][0]["nsp_accuracy"] <= 1
    assert "NSP right" in (finished / "nsp.said").read_text()
    assert set(events(finished / "runs" / "nsp", "step")[0]["terms"]) == {"mlm", "nsp"}


def test_a_pair_is_measured_on_fixed_draws_and_on_its_own(finished: Path) -> None:
    card = json.loads((finished / "electra.json").read_text())
    pair = card["table"][0]
    assert 0 < pair["auc"] < 1 and 0 < pair["auc_generator"] < 1
    assert pair["ratio"] == pytest.approx(pair["loss"] / card["table"][1]["loss"])
    last = events(finished / "runs" / "electra", "eval")[-1]["metrics"]
    assert set(last) == {"loss", "auc", "auc_generator", "rtd", "mlm", "unigram", "generator_ratio"}
    said = (finished / "electra.said").read_text()
    assert "AUC, drawn by frequency" in said
    assert "(it was " in said


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        ("bert", "BertForMaskedLM"),
        ("nsp", "BertForPreTraining"),
        ("electra", "ElectraForPreTraining"),
        ("electra/generator", "ElectraForMaskedLM"),
        ("modernbert", "ModernBertForMaskedLM"),
    ],
)
def test_transformers_opens_what_was_trained(finished: Path, run: str, kind: str) -> None:
    import transformers

    name, _, inside = run.partition("/")
    final = finished / "runs" / name / "final" / inside
    model = getattr(transformers, kind).from_pretrained(final)
    assert transformers.AutoConfig.from_pretrained(final).architectures == [kind]
    tokenizer = transformers.AutoTokenizer.from_pretrained(final)
    ids = tokenizer("the cat [MASK] on a mat.", return_tensors="pt")
    ours = Tokenizer.load(final)
    assert ids["input_ids"][0].tolist() == [
        ours.cls_id,
        *ours.encode("the cat [MASK] on a mat."),
        ours.sep_id,
    ]
    model(**ids)


def test_the_printed_command_repeats_the_run(finished: Path, launcher: Launcher) -> None:
    import shlex

    said = (finished / "electra.said").read_text().splitlines()
    command = next(line.partition(": ")[2] for line in said if "without choosing" in line)
    words = [word for word in shlex.split(command)[1:] if not word.startswith("name=")]
    done = launcher.run(finished, *words, "name=again")
    assert done.code == 0, done.err
    names = "model.safetensors", "generator/model.safetensors"
    assert digest(finished / "runs" / "again" / "final", *names) == digest(
        finished / "runs" / "electra" / "final", *names
    )


def test_a_dry_run_reads_no_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("nsp", "electra"):
        main(["train", f"{name}.toml", "data.train=['none.txt']", "--dry-run", "--json"])
        figures = json.loads(capsys.readouterr().out)
        assert figures["parameters"] > 0 and figures["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "schedule", "first"),
    [
        (["electra"], "[[0.0,16],[0.08,32],[0.15,64],[0.35,128]]", 0.3),
        (["electra", "--context", "64"], "[[0.0,16],[0.08,32],[0.35,64]]", 0.3),
        (["bert", "--set", "training.context=512"], "[[0.0,16],[0.08,32],[0.15,64],[0.35,512]]", 0.0),
        (["bert", "--set", "training.context=16"], "[]", 0.0),
        (
            ["electra", "--set", "training.context_schedule=[]", "--set", "objective.restore_first=0"],
            "[]",
            0.0,
        ),
        (["electra", "--set", "objective.name=masked-lm"], "[[0.0,16],[0.08,32],[0.15,64],[0.35,128]]", 0.0),
        (["qwen3"], "[]", 0.0),
    ],
)
def test_a_new_encoder_begins_with_short_texts_whatever_its_context(
    here: Path, arguments: list[str], schedule: str, first: float, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["pretrain", *arguments, "--preset", "nano", "--data", "none.txt", "--dry-run"])
    told = "".join(capsys.readouterr().err.split()).replace(",]", "]")
    assert f"context_schedule={schedule}" in told
    assert f"restore_first={first}" in told


def test_packed_rows_train_as_well(finished: Path, launcher: Launcher) -> None:
    done = launcher.run(finished, "train", "nsp.toml", "name=packed", "training.packing=packed")
    assert done.code == 0, done.err
    first, other = (
        events(finished / "runs" / name, "eval")[0]["metrics"]["mlm"] for name in ("nsp", "packed")
    )
    assert abs(first - other) < 0.5


def test_the_way_of_batching_is_measured_and_the_rate_falls(finished: Path, launcher: Launcher) -> None:
    changes = ["training.packing=auto", "objective.mask_rate=0.5", "objective.last_mask_rate=0.1"]
    done = launcher.run(finished, "train", "bert.toml", "name=auto", *changes)
    assert done.code == 0, done.err
    assert "real tokens/s sorted and " in done.err
    assert "real tokens/s packed, measured" in done.err
    assert "10% of them hidden" in done.err


# -- going on --


def test_a_stopped_run_goes_on(finished: Path, launcher: Launcher) -> None:
    run = finished / "runs" / "stopped"
    for name, files in (
        ("nsp", ["model.safetensors"]),
        ("electra", ["model.safetensors", "generator/model.safetensors"]),
    ):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(finished / "runs" / name, run)
        shutil.rmtree(run / "final")
        shutil.rmtree(run / "checkpoints" / "step-00000004")
        done = launcher.run(finished, "resume", "runs/stopped")
        assert done.code == 0, done.err
        assert "going on from step-00000002 of 4 steps" in done.err
        assert "tokenising" not in done.err
        assert digest(run / "final", *files) == digest(finished / "runs" / name / "final", *files)


def test_an_encoder_is_trained_on(finished: Path, launcher: Launcher) -> None:
    done = launcher.run(finished, "pretrain", "runs/bert", *ON, "--name", "on")
    assert done.code == 0, done.err
    config = (finished / "runs" / "on" / "config.toml").read_text()
    assert 'name = "adamw"' in config and "learning_rate = 0.0001" in config
    first = events(finished / "runs" / "on", "step")[0]["loss"]
    assert first < events(finished / "runs" / "bert", "step")[0]["loss"]
    names = [(finished / "runs" / run / "tokenizer" / "tokenizer.json").read_text() for run in ("bert", "on")]
    assert names[0] == names[1]


def test_a_vocabulary_of_another_language_is_warned_of(finished: Path, launcher: Launcher) -> None:
    (finished / "other.jsonl").write_text(json.dumps({"text": "我喜欢自然语言处理。" * 40}) + "\n")
    texts = ["-d", "other.jsonl", "--valid", "other.jsonl", *ON[2:], "--name", "other"]
    done = launcher.run(finished, "pretrain", "runs/bert", *texts)
    assert done.code == 0, done.err
    assert "% of the text is [UNK], which this vocabulary has for what it does not know" in done.err
    assert "[UNK]" not in (finished / "bert.said").read_text()


def test_a_discriminator_without_its_generator_gets_a_new_one(finished: Path, launcher: Launcher) -> None:
    alone = finished / "alone"
    shutil.copytree(finished / "runs" / "electra" / "final", alone)
    shutil.rmtree(alone / "generator")
    slowly = ["--set", "optimizer.learning_rate=0.00001"]
    done = launcher.run(finished, "pretrain", alone, *ON, "--name", "paired", *slowly)
    assert done.code == 0, done.err
    assert f"{alone}: no generator in it; a new one, 0.25 times as wide, learns beside it" in done.err
    before = load_encoder(alone, task="pretraining")
    after, generator = load_pair(finished / "runs" / "paired" / "final")
    assert torch.dist(before.layers[0].attention.query.weight, after.layers[0].attention.query.weight) < 0.01
    assert generator.config.hidden_size == 8
    done = launcher.run(finished, "pretrain", "runs/electra", *ON, "--name", "both")
    assert done.code == 0, done.err
    assert "no generator" not in done.err


def test_a_bert_gets_a_head_for_pairs(finished: Path, launcher: Launcher) -> None:
    pairs = ["--name", "pairs", "--set", "objective.pair=sop"]
    done = launcher.run(finished, "pretrain", "runs/bert/final", *ON, *pairs)
    assert done.code == 0, done.err
    assert "sop" in events(finished / "runs" / "pairs", "step")[0]["terms"]


# -- what is refused --


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["electra.toml", "objective.name=causal-lm"],
            "objective.name: electra is not trained by causal-lm; expected replaced-token or masked-lm",
        ),
        (
            ["bert.toml", "objective.name=replaced-token"],
            "bert is not trained by replaced-token; expected masked-lm",
        ),
        (["bert.toml", "objective.z_loss=0.1"], "objective.z_loss: masked-lm has no use for it"),
        (["electra.toml", "objective.pair=nsp"], "objective.pair: replaced-token has no use for it"),
        (
            ["modernbert.toml", "objective.pair=nsp"],
            "objective.pair: modernbert has no head for sentence pairs; expected bert",
        ),
        (
            ["bert.toml", "tokenizer.kind=byte-bpe"],
            "tokenizer.kind: a byte-bpe tokenizer has no [MASK]; expected wordpiece or unigram",
        ),
        (["nsp.toml", "training.context=7"], "training.context is 7; expected at least 8"),
        (["bert.toml", "model.config.hiden_size=8"], "hiden_size"),
    ],
)
def test_a_contradiction_is_one_line(
    here: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refused(capsys, "train", *arguments)


def test_documents_of_one_sentence_make_no_pairs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lines.jsonl").write_text(
        "".join(json.dumps({"text": f"the cat sat on {n}"}) + "\n" for n in range(99))
    )
    line = refused(capsys, "train", "nsp.toml", "data.train=['lines.jsonl']")
    assert "no document has two sentences, and NSP needs pairs of them" in line
    assert "train without sentence pairs" in line
    line = refused(capsys, "train", "nsp.toml", "data.valid=['lines.jsonl']")
    assert line.startswith("data.valid: validation text: no document has two sentences")


def test_a_vocabulary_without_masks_is_refused_before_the_text_is_read(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Tokenizer.train(["the cat sat on a mat"] * 9, "byte-bpe", 270).save(Path("plain"))
    line = refused(capsys, "train", "bert.toml", "tokenizer.source=plain", "data.train=['none.txt']")
    assert line.startswith("the vocabulary has no mask token; expected [MASK], [CLS], [SEP] and [PAD]")


@pytest.fixture
def damaged(here: Path) -> Path:
    """A copy of a trained BERT's folder."""
    shutil.rmtree("damaged", ignore_errors=True)
    return Path(shutil.copytree("runs/bert/final", "damaged"))


def change_tensors(folder: Path, remove: str = "", add: str = "") -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    if remove:
        del tensors[remove]
    if add:
        tensors[add] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_and_extra_tensors_are_named(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "bert.encoder.layer.0.attention.self.query.weight"
    change_tensors(damaged, remove=name)
    assert name in refused(capsys, "pretrain", "damaged", *ON)
    shutil.copyfile("runs/bert/final/model.safetensors", damaged / "model.safetensors")
    change_tensors(damaged, add="bert.encoder.layer.9.strange")
    assert "bert.encoder.layer.9.strange" in refused(capsys, "pretrain", "damaged", *ON)


def test_a_config_that_contradicts_the_weights(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    line = refused(capsys, "pretrain", "damaged", *ON)
    assert "intermediate" in line and "48" in line and "64" in line


def test_pickled_weights_are_refused_with_what_to_do(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged / "model.safetensors").rename(damaged / "pytorch_model.bin")
    line = refused(capsys, "pretrain", "damaged", *ON)
    assert "pytorch_model.bin is a pickle, which can run code" in line
    assert "save_pretrained" in line


def test_a_model_whose_vocabulary_has_no_mask(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Tokenizer.train(["the cat sat on a mat"] * 9, "char", 30).save(damaged)
    for command in (["pretrain", "damaged", *ON], ["predict", "damaged", "--text", "a [MASK] sat"]):
        assert "the vocabulary has no mask token; expected [MASK]" in refused(capsys, *command)


@pytest.mark.parametrize(
    "command",
    [["predict", "damaged", "--text", "a [MASK] sat"], ["inspect", "damaged", "--text", "a cat"]],
    ids=lambda command: command[0],
)
def test_other_verbs_refuse_a_damaged_folder_too(
    command: list[str], damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_tensors(damaged, remove="bert.embeddings.LayerNorm.bias")
    assert "bert.embeddings.LayerNorm.bias" in refused(capsys, *command)
    (damaged / "model.safetensors").rename(damaged / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle" in refused(capsys, *command)
    assert not Path("inspect.html").exists()


def test_a_damaged_generator_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("damaged", ignore_errors=True)
    generator = Path(shutil.copytree("runs/electra/final", "damaged")) / "generator"
    change_tensors(generator, add="generator_predictions.strange")
    assert "generator_predictions.strange" in refused(capsys, "pretrain", "damaged", *ON)
    config = json.loads((generator / "config.json").read_text())
    (generator / "config.json").write_text(json.dumps(config | {"embedding_size": 16}))
    assert "embedding" in refused(capsys, "pretrain", "damaged", *ON)


def test_what_is_no_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "runs/none: no such folder" in refused(capsys, "pretrain", "runs/none", *ON)
    assert "keeps its size" in refused(capsys, "pretrain", "runs/bert", "--preset", "tiny", *ON)
    assert "unknown model family 'berd'" in refused(capsys, "pretrain", "berd", *ON)
