"""The page of a run: what it shows, that it stands alone, and that nothing a run wrote can act in it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from melete.errors import InputError, StorageError
from melete.evaluation.report import MOST_POINTS, curve_data, render_report, smooth, write_report
from melete.evaluation.words import WORDS
from pages import EVIL, Page


def step(number: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "loss": 5.0 - number / 100,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "tokens": number * 64,
        "tokens_per_second": 9e3,
    }
    return {"event": "step", "step": number, "elapsed": number / 10, **fields, **changes}


START = {"event": "start", "family": "qwen3", "parameters": 1234567, "steps": 100, "device": "cpu", "seed": 7}
RESULT = {
    "event": "result",
    "table": [
        {"name": "5-gram", "bits_per_byte": 1.6, "perplexity": 20.0},
        {"name": "qwen3", "bits_per_byte": 1.44, "perplexity": 16.0},
    ],
    "samples": [{"prompt": "import ", "text": "os"}],
    "diversity": {"distinct_1": 0.5, "distinct_2": 0.75, "repetition": 0.125},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "first"
    folder.mkdir()
    return folder


def write_events(run: Path, events: list[dict[str, Any]], tail: str = "") -> None:
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (run / "events.jsonl").write_text(lines + tail, encoding="utf-8")


def test_page_shows_the_run(run: Path) -> None:
    events = [
        START,
        *(step(i) for i in range(100)),
        RESULT,
        {"event": "end", "reason": "done", "elapsed": 65.0},
    ]
    events.insert(50, {"event": "eval", "step": 50, "elapsed": 5.0, "metrics": {"loss": 4.25}})
    events.insert(51, {"event": "skip", "step": 50, "reason": "gradient norm is inf"})
    events.insert(52, {"event": "sample", "step": 50, "prompt": "def ", "text": "f(x):"})
    write_events(run, events)
    (run / "config.toml").write_text(
        'name = "first"\n[data]\ntrain = ["books/my.txt"]\n[training]\nsteps = 100\n'
        '[choices]\n"training.steps" = "what the time allows"\n',
        encoding="utf-8",
    )
    text = Page(render_report(run)).text
    for shown in (
        "qwen3, 1,234,567 parameters, trained on my.txt in 1 min 05 s.",
        "qwen3，1,234,567 个参数，在 my.txt 上训练，用时 1 分 05 秒。",
        "10.0% fewer bits per byte than 5-gram",
        "-20.0%",
        "training.steps",
        "what the time allows",
        "gradient norm is inf",
        "def f(x):",
        "import os",
        "12.5%",
        "melete chat",
    ):
        assert shown in text


def test_the_page_keeps_the_language_of_its_run(run: Path) -> None:
    samples = [{"event": "sample", "step": at, "prompt": "", "text": "春"} for at in (10, 20)]
    write_events(run, [START, step(0), *samples])
    assert 'data-lang="auto"' in render_report(run)
    (run / "config.toml").write_text('[evaluation]\npage_language = "zh"\n')
    html = render_report(run)
    assert 'data-lang="zh"' in html
    assert 'data-lang="en"' in render_report(run, "en")
    assert '<span lang="zh">第 10 步</span>' in html


def test_a_model_whose_name_sounds_like_the_baseline_is_none(run: Path) -> None:
    table = [
        {"name": "models/program", "bits_per_byte": 1.2},
        {"name": "5-gram", "bits_per_byte": 1.6},
    ]
    write_events(run, [START, step(0), {"event": "result", "table": table}])
    assert "25.0% fewer bits per byte than 5-gram" in Page(render_report(run)).text


def test_figures_beside_the_loss_have_charts_of_their_own(run: Path) -> None:
    metrics = [
        {"loss": 3.0, "auc": 0.5, "unigram": 6.8},
        {"loss": 2.5, "auc": None},
        {"loss": 2.0, "auc": 0.9},
    ]
    evals = [{"event": "eval", "step": 5 * n, "metrics": one} for n, one in enumerate(metrics, 1)]
    table = [{"name": "electra", "auc": 0.9, "loss": 4.0}, {"name": "token frequencies", "loss": 6.8}]
    write_events(run, [START, *(step(n) for n in range(16)), *evals, {"event": "result", "table": table}])
    (run / "config.toml").write_text('[objective]\nname = "replaced-token"\n')
    page = Page(render_report(run))
    charts = [tag["data-chart"] for name, tag in page.tags if "data-chart" in tag]
    assert charts == ["loss", "figure-auc", "lr", "grad_norm", "rate"]  # what never changes is no curve
    data = curve_data({"eval": evals, "step": [step(n) for n in range(16)]})
    assert data["figure_step"] == [5, 10, 15]
    assert data["figure-auc"] == [0.5, None, 0.9]
    assert "-41.2%" in page.text
    assert "melete inspect" in page.text and "melete chat" not in page.text


def test_what_an_encoder_says_of_a_text_stands_on_a_line_of_its_own(run: Path) -> None:
    measured = {"event": "eval", "step": 10, "elapsed": 1.0, "metrics": {"loss": 5.0, "mlm": 5.0, "auc": 0.6}}
    pair = {"name": "electra:nano", "loss": 5.0, "auc": 0.6, "auc_generator": 0.7, "restored": 0.123}
    result = {"event": "result", "table": [pair], "samples": [{"prompt": "a [MASK]", "text": "cat 9%"}]}
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in (measured, result)))
    html = write_report(run).read_text()
    assert "<b>a [MASK]</b>\ncat 9%" in html and 'id="answers"' in html and 'id="completions"' not in html
    assert "12.3%" in html
    assert html.index("<td>0.6</td>") < html.index("<b>5</b>")
    assert "AUC, tokens drawn by frequency" in html and "generator, nats per hidden token" in html


def test_without_a_result_the_last_samples_are_the_completions(run: Path) -> None:
    drawn = [{"event": "sample", "step": at, "prompt": "a", "text": f"text {at}"} for at in (10, 20)]
    write_events(run, [START, step(0), *drawn])
    html = render_report(run)
    completions, along = html.index('id="completions"'), html.index('id="samples"')
    assert completions < html.index("text 20") < along < html.index("text 10")


def test_page_needs_no_network(run: Path) -> None:
    write_events(run, [START, step(0), RESULT])
    html = render_report(run)
    assert not re.search(r"(src|href)\s*=|url\((?!#)|@import|https?://(?!www\.w3\.org/2000/svg)", html)
    policy = next(fields["content"] for tag, fields in Page(html).tags if "http-equiv" in fields)
    assert policy is not None
    assert "default-src 'none'" in policy


def test_what_a_run_wrote_stays_text(tmp_path: Path) -> None:
    run = tmp_path / "<script>alert(2)<"
    run.mkdir()
    events = [
        {**START, "family": EVIL, "device": EVIL, "seed": EVIL},
        step(0, loss=1.0),
        {"event": "sample", "step": EVIL, "prompt": EVIL, "text": EVIL},
        {"event": "skip", "step": 0, "reason": EVIL},
        {"event": "rollback", "step": 0, "to": EVIL},
        {"event": "note", "text": EVIL},
        {
            "event": "result",
            "table": [
                {"name": f"gram {EVIL}", "bits_per_byte": 2.0, EVIL: EVIL},
                {"name": EVIL, "bits_per_byte": 1.0},
            ],
            "samples": [{"prompt": EVIL, "text": EVIL}],
            "diversity": {EVIL: 0.5},
        },
        {"event": "eval", "step": 1, "metrics": {"loss": 1.0, EVIL: 2.0}},
    ]
    write_events(run, events)
    config = {"choices": f"[choices]\n{json.dumps(EVIL)} = {json.dumps(EVIL)}\n"}
    (run / "config.toml").write_text(config["choices"], encoding="utf-8")
    (run / "environment.json").write_text(json.dumps({EVIL: EVIL}), encoding="utf-8")
    page = Page(render_report(run))
    assert [tag for tag, _ in page.tags].count("script") == 2  # the data and the page's own
    assert not [tag for tag, fields in page.tags if tag == "img" or "onerror" in fields]
    assert page.text.count(EVIL) >= 10


def test_half_written_and_foreign_lines_are_passed_over(run: Path) -> None:
    write_events(
        run, [START, step(0), step(1, loss=float("nan"))], tail='[1, 2]\n"x"\nnot json\n{"event": "ste'
    )
    data = page_data(render_report(run))
    assert data["step"] == [1, 2]
    assert data["loss"] == [5.0, None]


def page_data(html: str) -> dict[str, list]:
    found = re.search(r'id="data">(.*?)</script>', html)
    assert found
    return json.loads(found.group(1))


@pytest.mark.parametrize("content", ["", "{", json.dumps(START) + "\n"])
def test_a_run_without_a_step_has_a_page(run: Path, content: str) -> None:
    (run / "events.jsonl").write_text(content, encoding="utf-8")
    text = Page(render_report(run)).text
    assert "The first step has not been written yet." in text
    assert ("no event yet" in text) == (content != json.dumps(START) + "\n")


def test_a_long_run_is_thinned(run: Path) -> None:
    write_events(run, [START, *(step(i) for i in range(100_000))])
    begun = time.process_time()
    html = render_report(run)
    assert time.process_time() - begun < 10
    assert len(html) < 400_000
    data = page_data(html)
    assert MOST_POINTS / 2 < len(data["loss"]) == len(data["step"]) <= MOST_POINTS


def test_smoothing_starts_at_the_first_value_and_passes_over_gaps() -> None:
    assert smooth([2.0, 2.0, None, 2.0], 10.0) == pytest.approx([2.0] * 4)
    assert smooth([None, 1.0], 10.0) == [None, 1.0]
    assert curve_data({}) == {key: [] for key in curve_data({})}


def test_report_is_written_whole_or_not_at_all(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_events(run, [START])
    assert write_report(run) == run / "report.html"
    before = (run / "report.html").read_text("utf-8")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("melete.data.writing.os.replace", refuse)
    with pytest.raises(StorageError, match="No space left"):
        write_report(run, "zh")
    assert (run / "report.html").read_text("utf-8") == before
    assert {path.name for path in run.iterdir()} == {"events.jsonl", "report.html"}


def test_a_folder_that_is_no_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        render_report(tmp_path)
    with pytest.raises(InputError, match="no such run folder"):
        render_report(tmp_path / "nowhere")


def test_every_word_stands_in_both_languages() -> None:
    for key, (english, chinese) in WORDS.items():
        assert bool(english) == bool(chinese)
        assert set(re.findall(r"\{(\w+)\}", english)) == set(re.findall(r"\{(\w+)\}", chinese)), key
