"""`melete generate` and `melete chat`, as a person types them."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest

import melete as package
from melete.cli import chat, main
from melete.console import printable


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def generated(model_folder):
    return package.load(model_folder, device="cpu").generate("The king", max_new_tokens=20)


def test_the_prompt_and_what_follows_are_printed(capsys, model_folder, generated):
    code, out, err = run(capsys, "generate", model_folder, "--prompt", "The king", "--max-new-tokens", "20")
    assert (code, out) == (0, f"The king{printable(generated)}\n")
    assert "20 tokens in" in err
    assert "tokens/s" in err
    assert "seed 0" in err
    assert f"next: melete chat {model_folder}" in err


def test_json_is_one_object_and_all_of_standard_output(capsys, model_folder, generated):
    arguments = ["--prompt", "The king", "--max-new-tokens", "20", "--samples", "2", "--json"]
    code, out, _ = run(capsys, "generate", model_folder, *arguments)
    figures = json.loads(out)
    assert code == 0
    assert figures["prompt"] == "The king"
    assert figures["samples"][0] == {"text": generated, "tokens": 20}
    assert figures["samples"][1]["text"] != generated
    assert figures["tokens_per_second"] > 0
    assert figures["seed"] == 0


def test_several_samples_stand_one_below_the_other(capsys, model_folder, generated):
    arguments = ["--prompt", "The king", "--max-new-tokens", "20", "--samples", "3"]
    _, out, _ = run(capsys, "generate", model_folder, *arguments)
    assert out.startswith(f"The king{printable(generated)}\n--- 2 of 3\nThe king")
    assert "\n--- 3 of 3\nThe king" in out


def test_every_setting_has_its_flag(capsys, model_folder):
    flags = [
        "--temperature",
        "0.7",
        "--top-k",
        "20",
        "--top-p",
        "0.9",
        "--min-p",
        "0.01",
        "--typical-p",
        "0.9",
    ]
    flags += ["--repetition-penalty", "1.1", "--frequency-penalty", "0.1", "--presence-penalty", "0.1"]
    flags += [
        "--no-repeat-ngram-size",
        "3",
        "--seed",
        "5",
        "--max-new-tokens",
        "30",
        "--stop",
        "\ufffd",
        "--json",
    ]
    code, out, _ = run(capsys, "generate", model_folder, *flags, "--prompt", "a")
    figures = json.loads(out)
    loaded = package.load(model_folder, device="cpu")
    expected = loaded.generate(
        "a",
        temperature=0.7,
        top_k=20,
        top_p=0.9,
        min_p=0.01,
        typical_p=0.9,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        no_repeat_ngram_size=3,
        seed=5,
        max_new_tokens=30,
        stop="\ufffd",
    )
    assert (code, figures["samples"][0]["text"], figures["seed"]) == (0, expected, 5)


def test_the_prompt_may_come_from_a_file_or_standard_input(
    capsys, model_folder, tmp_path, monkeypatch, generated
):
    file = tmp_path / "prompt.txt"
    file.write_text("The king\n", encoding="utf-8")
    expected = f"The king{printable(generated)}\n"
    assert (
        run(capsys, "generate", model_folder, "--prompt-file", file, "--max-new-tokens", "20")[1] == expected
    )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The king")))
    assert (
        run(capsys, "generate", model_folder, "--prompt-file", "-", "--max-new-tokens", "20")[1] == expected
    )


def test_without_a_prompt_the_model_begins_a_text(capsys, model_folder):
    code, out, _ = run(capsys, "generate", model_folder, "--max-new-tokens", "5")
    assert code == 0
    assert out.strip()


def test_a_wider_context_takes_a_longer_prompt(capsys, model_folder):
    long = ["generate", model_folder, "--prompt", "x" * 60, "--max-new-tokens", "5"]
    code, out, err = run(capsys, *long)
    assert (code, out) == (2, "")
    assert "the prompt has 60 tokens, the model's context is 48" in err
    assert run(capsys, *long, "--context", "64")[0] == 0
    assert run(capsys, *long, "--truncate")[0] == 0


def test_a_terminal_that_cannot_show_a_character_does_not_end_the_text(model_folder, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    main(["generate", str(model_folder), "--prompt", "好 king", "--max-new-tokens", "5"])
    terminal.flush()
    assert terminal.buffer.getvalue().startswith(b"? king")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--temperature", "-1"], "temperature is -1.0; expected 0 (greedy) or more"),
        (["--top-p", "1.5"], "--top-p is 1.5; expected above 0, at most 1 (off)"),
        (["--top-k", "few"], "'few' is not a valid integer"),
        (["--samples", "0"], "--samples is 0; expected 1 or more"),
        (["--stop", ""], "stop is ('',)"),
        (["--prompt", "a", "--prompt-file", "b"], "--prompt and --prompt-file were both given"),
        (["--prompt-file", "nowhere.txt"], "nowhere.txt: no such prompt file"),
        (["--prompt-file", "."], ".: the prompt file is a folder"),
    ],
)
def test_a_slip_is_one_line_and_code_2(capsys, model_folder, arguments, line):
    code, out, err = run(capsys, "generate", model_folder, *arguments)
    assert (code, out) == (2, "")
    assert line in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_what_is_no_model_is_one_line_and_code_2(capsys, tmp_path, verb):
    file = tmp_path / "file.txt"
    file.write_text("text")
    for source in ("no-such-folder", tmp_path, file):
        code, out, err = run(capsys, verb, source)
        assert (code, out) == (2, "")
        assert str(source) in err
        assert len(err.splitlines()) == 1


def test_a_prompt_that_is_no_utf8_names_the_line(capsys, model_folder, tmp_path):
    file = tmp_path / "broken.txt"
    file.write_bytes(b"fine\nbr\xffoken")
    code, _, err = run(capsys, "generate", model_folder, "--prompt-file", file)
    assert code == 2
    assert f"{file}:2: not valid UTF-8" in err


# -- chat --


@pytest.fixture
def talk(capsys, model_folder, monkeypatch):
    """Type these lines into a chat, then Ctrl-D. An exception among them is raised at the prompt."""

    def typed(*lines: str | type[BaseException], folder=model_folder, flags=("--max-new-tokens", "8")):
        left = iter(lines)

        def answer(prompt: str) -> str:
            line = next(left, EOFError)
            if isinstance(line, str):
                return line
            raise line

        monkeypatch.setattr("builtins.input", answer)
        return run(capsys, "chat", folder, *flags)

    return typed


def test_a_base_model_says_that_it_continues_and_goes_on_with_what_was_said(talk, model_folder):
    code, out, err = talk("The king", "", "and")
    assert code == 0
    assert "This is a base model" in err
    assert "it does not answer you" in err
    loaded = package.load(model_folder, device="cpu")
    first = loaded.generate("The king", max_new_tokens=8)
    assert out.startswith(printable(first) + "\n")
    assert f"next: melete generate {model_folder}" in err


def test_the_talk_goes_on_beyond_the_context(talk):
    code, out, _ = talk(*["a long line of some words"] * 8)
    assert code == 0
    assert len(out) > 48


def test_ctrl_c_at_the_prompt_does_not_leave(talk):
    code, _, err = talk(KeyboardInterrupt, "a")
    assert code == 0
    assert "(Ctrl-D leaves)" in err


def test_ctrl_c_stops_an_answer_and_keeps_the_talk(talk, monkeypatch):
    from melete.generation import generate

    pieces = generate.stream

    def interrupted(*arguments):
        for number, piece in enumerate(pieces(*arguments)):
            if number == 3:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(generate, "stream", interrupted)
    code, out, _ = talk("one", "two")
    assert code == 0
    assert out.count("(stopped)") == 2


def test_the_commands_of_the_prompt(talk):
    first = talk("The king")[1].rstrip("\n")
    _, out, err = talk(
        "The king", "/reset", "The king", "/seed 9", "/reset", "The king", "/help", "/quit", "unread"
    )
    assert out.startswith(f"{first}\n{first}\n"), "a talk that was reset begins again"
    assert out.count(first) == 2, "another seed gives another answer"
    assert "/temperature X" in err


def test_slips_at_the_prompt_do_not_end_the_talk(talk):
    code, out, err = talk("/temperature hot", "/temperature -1", "/temper", "/temperature 0", "The king")
    assert code == 0
    assert "/temperature hot; expected a number" in err
    assert "temperature is -1.0; expected" in err
    assert "there is no /temper; expected /help" in err
    assert out.strip()


TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def test_a_model_with_a_chat_template_reads_the_talk_through_it(talk, other_model_folder, monkeypatch):
    (other_model_folder / "chat_template.jinja").write_text(TEMPLATE)
    asked = []
    monkeypatch.setattr(
        "melete.generation.generate.stream",
        lambda model, prompts, settings, tokenizer: (
            asked.append(tokenizer.decode(prompts[0], skip_special_tokens=False)),
            iter([SimpleNamespace(token=1, text="yes")]),
        )[1],
    )
    code, out, err = talk("Hi", "Ok?", "More, please?", folder=other_model_folder)
    assert (code, out) == (0, "yes\nyes\nyes\n\n")
    assert "base model" not in err
    end = "<|endoftext|>"
    assert asked[1] == f"<u>Hi{end}<a>yes{end}<u>Ok?{end}<a>"
    assert asked[2] == f"<u>Ok?{end}<a>yes{end}<u>More, please?{end}<a>", "the oldest exchange made room"


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ raise_exception('no system role') }}", "{{ messages[0].no.such }}"]
)
def test_a_chat_template_that_fails_is_one_line(talk, other_model_folder, template):
    (other_model_folder / "chat_template.jinja").write_text(template)
    _, _, err = talk("Hi", folder=other_model_folder)
    assert "chat template" in err
    assert "Traceback" not in err


def test_the_help_of_the_prompt_names_every_command():
    for name in ("/reset", "/temperature", "/seed", "/help", "/quit"):
        assert name in chat.HELP
