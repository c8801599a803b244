"""The rules of the house, kept by reading the code rather than by goodwill."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from commands import check_call, commands
from melete.cli import VERBS, melete

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "melete"
OURS = sorted(
    path for folder in ("src", "tests", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py")
)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.md")])

# Who may import whom: a room may use its own floor and those below it.
FLOORS = (
    ("errors", "console", "machine"),
    ("config", "metrics", "nn", "data"),
    ("models",),
    ("objectives", "tasks", "generation"),
    ("training", "evaluation", "compression", "baselines", "export"),
    ("api", "bench", "serving", "cli", "__main__"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def trees(paths: list[Path]) -> Iterator[tuple[str, ast.Module]]:
    for path in paths:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports in full, from melete..."
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_files_functions_and_signatures_stay_small() -> None:
    too_big = []
    for path in [*OURS, *PACKAGE.rglob("*.html")]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > 600:
            too_big.append(f"{path.relative_to(ROOT)}: {lines} lines, at most 600")
    for name, tree in trees(OURS):
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > 80:
                too_big.append(f"{name}:{node.lineno}: {node.name} has {length} lines, at most 80")
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            taken = [argument for argument in arguments if argument.arg not in ("self", "cls")]
            if len(taken) > 10:
                too_big.append(f"{name}:{node.lineno}: {node.name} takes {len(taken)} arguments, at most 10")
    assert not too_big, "\n".join(too_big)


def test_imports_go_one_way() -> None:
    wrong = []
    for name, tree in trees(sorted(PACKAGE.rglob("*.py"))):
        room = Path(name).relative_to("src/melete").with_suffix("").parts[0]
        if room == "__init__":
            continue
        assert room in FLOOR, f"{name}: give the room {room!r} a floor"
        for line, target in imported(tree):
            parts = target.split(".")
            if parts[0] == "melete" and parts[1] in FLOOR and FLOOR[parts[1]] > FLOOR[room]:
                wrong.append(f"{name}:{line}: {room} must not import {target}")
    assert not wrong, "\n".join(wrong)


def test_no_pickle_and_no_code_from_data() -> None:
    modules = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    wrong = []
    for name, tree in trees(OURS):
        wrong += [
            f"{name}:{line}: {target}" for line, target in imported(tree) if target.split(".")[0] in modules
        ]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            keywords = {keyword.arg for keyword in node.keywords}
            if called in ("eval", "exec", "torch.load", "torch.save") or keywords & {
                "weights_only",
                "allow_pickle",
            }:
                wrong.append(f"{name}:{node.lineno}: {ast.unparse(node)[:60]}")
    assert not wrong, "\n".join(wrong)


def test_transformers_is_only_a_witness() -> None:
    for name, tree in trees(sorted(PACKAGE.rglob("*.py"))):
        used = [line for line, target in imported(tree) if target.split(".")[0] == "transformers"]
        assert not used, f"{name}:{used}: transformers is for tests; the package stands without it"


def top_level_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_all_names_what_is_public() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        listed = [
            node
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        if not listed:
            continue
        names = set(ast.literal_eval(listed[0].value))
        dotted = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(dotted)
        missing = [name for name in names if not hasattr(module, name)]
        assert not missing, f"{dotted}: __all__ names {missing}, which do not exist"
        if path.name == "__init__.py":
            public = names | set(getattr(module, "_PUBLIC", names))
        else:
            public = top_level_names(tree)
        assert names == public, f"{dotted}: __all__ and the public names differ in {sorted(names ^ public)}"


@pytest.mark.parametrize("statement", ["import melete", "from melete.cli import main; main(['--help'])"])
def test_starting_loads_nothing_heavy(statement: str) -> None:
    heavy = (
        "torch",
        "numpy",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "rich",
        "pyarrow",
        "transformers",
    )
    report = "print(*sys.modules, file=sys.stderr)"
    code = f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\n{report}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & set(heavy)
    assert "melete" in loaded


# -- registries --


def test_every_verb_has_its_file_and_every_file_its_verb() -> None:
    files = {path.stem for path in (PACKAGE / "cli").glob("*.py") if not path.stem.startswith("_")}
    assert files == set(VERBS)


def test_every_family_has_its_file_and_every_file_its_family() -> None:
    from melete.models import FAMILIES

    with_presets = {
        path.stem.replace("_", "-")
        for room in ("models", "baselines")
        for path in (PACKAGE / room).glob("*.py")
        if "PRESETS" in top_level_names(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert with_presets == set(FAMILIES)
    for family in FAMILIES:
        module = importlib.import_module(FAMILIES[family])
        missing = {"Config", "Model", "PRESETS", "KEYS", "HEADS"} - set(dir(module))
        assert not missing, f"{FAMILIES[family]} lacks {missing}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_helps_with_an_example(verb: str) -> None:
    for path, command in commands((verb,)):
        result = CliRunner().invoke(melete, [*path, "--help"])
        assert result.exit_code == 0, (path, result.output)
        body = result.output.split("\n", 1)[1]
        assert "Example" in body, f"`melete {' '.join(path)} --help` shows no example"
        assert f"melete {' '.join(path)}" in body, (
            f"the example of `melete {' '.join(path)}` does not call it"
        )
        for line in re.findall(r"^ *(?:[^\n]*\| )?(melete .*)$", command.help or "", flags=re.M):
            check_call(line, f"`melete {' '.join(path)} --help`")


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string of a module but its docstrings; a 1 stands where a value is put in."""
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    inside = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, described) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(value) for value in node.values}
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "1" for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def test_every_command_that_the_program_suggests_can_be_typed() -> None:
    found = 0
    for name, tree in trees(sorted(PACKAGE.rglob("*.py"))):
        for line, text in texts(tree):
            for call in re.findall(r"(?:^|[`\s])(melete [a-z]+(?: [^`;|(\n]*?)?)(?=   |[`;|(\n]|$)", text):
                check_call(call, f"{name}:{line}", whole="next:" in text)
                found += 1
    assert found > 15


# -- pages --


def bash_lines(page: Path) -> Iterator[str]:
    """The command lines of a page's bash blocks, without their comments."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if command := re.sub(r"(^|\s)#.*", "", line).strip():
                yield re.sub(r"\s+", " ", command)


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "design.md"], ids=page_name)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z0-9-]+)", text, flags=re.M):
        assert target in targets, f"{page_name(page)}: there is no `make {target}`"
    for line in [*bash_lines(page), *re.findall(r"`(melete [^`\n[]+)`", text)]:
        for call in re.findall(r"(?:^|[|;&] *)(melete [^|;&]+)", line):
            check_call(call, page_name(page))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page_name(page)}: {link} is not there"


def test_the_plan_shows_the_house_as_it_stands() -> None:
    plan = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("```")[1]
    built = "\n".join(line.split("later:")[0] for line in plan.splitlines())
    shown = set(re.findall(r"^  ([a-z_]+(?:\.py|/))", built, flags=re.M))
    rooms = {
        path.name + ("/" if path.is_dir() else "")
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert shown | {"__init__.py", "__main__.py"} == rooms | {"__init__.py", "__main__.py"}
    words = set(re.findall(r"[a-z_0-9]+", built))
    for room in ("training", "generation", "evaluation", "baselines"):
        files = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
        assert files <= words, f"docs/design.md does not show {sorted(files - words)} of {room}/"


def test_english_and_chinese_pages_are_the_same_pages() -> None:
    english, chinese = (
        {path.relative_to(ROOT / "docs" / language) for path in (ROOT / "docs" / language).rglob("*.md")}
        for language in ("en", "zh")
    )
    assert english == chinese
    pairs = [(ROOT / "docs" / "en" / name, ROOT / "docs" / "zh" / name) for name in sorted(english)]
    for one, other in [(ROOT / "README.md", ROOT / "README.zh-CN.md"), *pairs]:
        assert list(bash_lines(one)) == list(bash_lines(other)), (
            f"{page_name(one)} shows other commands than its twin"
        )


def test_nothing_tells_where_it_was_made() -> None:
    private = re.compile("|".join(("/wo" + "rk/", "/opt/whe" + "els", r"sha" + r"red/(data|references)")))
    kinds = (".py", ".md", ".toml", ".html", ".yml", "")
    folders = ("src", "tests", "benchmarks", "tools", "docs", "recipes", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    # In a second checkout .git is a file, which says where the first one is.
    for path in [*files, *(path for path in ROOT.iterdir() if path.is_file() and path.name != ".git")]:
        if path.suffix in kinds and "egg-info" not in str(path) and "__pycache__" not in str(path):
            found = private.search(path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(ROOT)} says {found and found.group()!r}"
