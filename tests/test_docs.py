"""The documentation runs: every page is one program, and prints what its comments say."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import encoder_models
from melete.data.tokenizers import Tokenizer
from melete.models import build, build_encoder_decoder
from melete.models.checkpoint import save_model
from melete.models.purpose import Purpose, write_purpose

ROOT = Path(__file__).parents[1]
ENGLISH = sorted((ROOT / "docs" / "en").glob("*.md"))


def blocks(page: Path) -> list[tuple[int, str]]:
    """The Python blocks of a page, each with the line it begins at."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.S | re.M)
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in found]


def program(page: Path) -> str:
    """All blocks as one program, each at its own line of the page, so that an error names that line."""
    lines: list[str] = []
    for start, code in blocks(page):
        lines += [""] * (start - len(lines)) + code.splitlines()
    return "\n".join(lines) + "\n"


def promised(code: str) -> list[str]:
    """What the page says is printed: the comment after a `print`, or the comment lines below it."""
    shown: list[str] = []
    below = False
    for line in code.splitlines():
        if "print(" in line:
            comment = re.search(r"  # (.*)$", line)
            below = comment is None
            shown += [comment.group(1)] if comment else []
        elif below and line.startswith("# "):
            shown.append(line[2:])
        elif line and not line.startswith("#"):
            below = False
    return shown


def write_translator(folder: Path, tokenizer: Path) -> None:
    """A model that has not learnt to translate."""
    end = Tokenizer.load(tokenizer).eos_id
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    ids = {
        "eos_token_id": end,
        "decoder_start_token_id": end,
        "vocab_size": Tokenizer.load(tokenizer).vocab_size,
    }
    model = build_encoder_decoder("marian:nano", **sizes, **ids)
    save_model(folder, model, tokenizer=tokenizer)
    write_purpose(folder, Purpose("translation", "de", generation={"num_beams": 3, "max_new_tokens": 8}))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as a reader might have it: two finished runs, and two texts."""
    texts = [f"import {name}\n\n\nclass {name.title()}:\n    pass\n" for name in ("os", "sys", "re", "json")]
    tokenizer = Tokenizer.train(texts * 8, "byte-bpe", 280)
    tokenizer.save(tmp_path / "tokenizer")
    model = build("qwen3:nano", vocab_size=tokenizer.vocab_size, max_position_embeddings=256)
    save_model(tmp_path / "runs" / "demo" / "final", model, tokenizer=tmp_path / "tokenizer")
    encoder_models.write(tmp_path / "runs" / "bert" / "final", "bert")
    write_translator(tmp_path / "runs" / "translator" / "final", tmp_path / "tokenizer")
    (tmp_path / "my.txt").write_text("".join(texts) * 4, encoding="utf-8")
    (tmp_path / "more.txt").write_text("".join(reversed(texts)) * 4, encoding="utf-8")
    monkeypatch.setenv("MELETE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)  # training sets its own


@pytest.mark.parametrize("page", [page for page in ENGLISH if blocks(page)], ids=lambda page: page.stem)
def test_page_runs_and_prints_what_it_says(page: Path, workplace: Path) -> None:
    code = program(page)
    script = workplace / f"{page.stem}.py"
    script.write_text(code, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), torch.random.fork_rng():
        runpy.run_path(str(script))
    assert printed.getvalue().splitlines() == promised(code)


@pytest.mark.parametrize("page", ENGLISH, ids=lambda page: page.stem)
def test_both_languages_show_the_same_code(page: Path) -> None:
    def bare(path: Path) -> list[str]:
        """Code lines; comments and docstrings may be translated."""
        code = "\n".join(code for _, code in blocks(path))
        code = re.sub(r'""".*?"""', '""""""', code, flags=re.S)
        return [re.sub(r"\s+#.*$", "", line) for line in code.splitlines() if not line.startswith("#")]

    assert bare(ROOT / "docs" / "zh" / page.name) == bare(page)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_command_reference_is_current(language: str) -> None:
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "tools" / "cli_reference.py")
    assert spec
    assert spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    written = (ROOT / "docs" / language / "cli.md").read_text(encoding="utf-8")
    assert written == tool.render(language), "run `make docs`"
