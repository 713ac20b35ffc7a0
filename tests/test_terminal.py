"""What others wrote reaches a terminal without the characters that command one: by functions, by a scan of all that
prints, and by an index and a corpus of hostile files."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from softnce_ray.cli import app, main
from softnce_ray.config import TrialConfig
from softnce_ray.export import write_export
from softnce_ray.preparation import open_data, prepare
from softnce_ray.rich_console import PlainConsole
from softnce_ray.terminal import in_line, plain
from softnce_ray.training import train

ROOT = Path(__file__).parents[1] / "softnce_ray"
RED, TITLE, RIGHT_TO_LEFT, CSI = "\x1b[31m", "\x1b]0;owned\x07", "\u202e", "\x9b2J"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, naïve, 漢字, 👩‍🚀, עברית\u200f\tand\nlines", "plain, naïve, 漢字, 👩‍🚀, עברית\u200f\tand\nlines"),
        (RED + "red", "␛[31mred"),
        (TITLE, "␛]0;owned␇"),
        (CSI, "\ufffd2J"),
        ("a\rb\r\nc\x7f\0", "a␍b\nc␡␀"),
        (f"a{RIGHT_TO_LEFT}b\u2066c\u2069", "a\ufffdb\ufffdc\ufffd"),
        (os.fsdecode(b"caf\xe9.py"), "caf\ufffd.py"),
    ],
)
def test_commands_are_shown_and_all_else_is_left(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert in_line(f" {text}\t\n") == " ".join(plain(" ".join(text.split())).split())


@given(st.text())
def test_what_is_shown_can_be_printed_anywhere(text: str) -> None:
    shown = plain(text)
    assert not any(unicodedata.category(each) in ("Cc", "Cs") and each not in "\t\n" for each in shown)
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", shown)
    assert plain(shown) == shown
    shown.encode()


@pytest.mark.parametrize("colours", [True, False])
def test_tables_show_them_too_and_are_as_wide(colours: bool) -> None:
    console = PlainConsole(
        file=io.StringIO(), width=60, force_terminal=colours, color_system="standard" if colours else None
    )
    table = Table("name", "x")
    table.add_row(f"{RED}red", "1")
    table.add_row(Text(f"{CSI}wiped", "bold"), "2")
    table.add_row("a long one", "3")
    console.print(table)
    console.print(f"{TITLE}line", markup=False, highlight=False, soft_wrap=True)
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "␛[31mred" in written and "\ufffd2Jwiped" in written and "␛]0;owned" in written
    without_own = re.sub(r"\x1b\[[0-9;]*m", "", written)
    assert plain(without_own) == without_own
    assert (RED not in written) and (("\x1b" in written) == colours)
    rows = [line for line in without_own.splitlines() if line.startswith(("│", "┃"))]
    assert {len(row.rstrip()) for row in rows[1:]} == {len(rows[0].rstrip())}


def test_nothing_prints_but_through_the_functions_that_look_at_it() -> None:
    prints = re.compile(
        r"(print|rich\.print|(typer|click)\.(echo|secho)|(rich\.console\.)?Console|Live\((?!.*console=)|"
        r"sys\.(__)?std(out|err)(__)?\.(write|buffer)|os\.write)\b"
    )
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and prints.match(ast.unparse(node)):
                found[f"{file.relative_to(ROOT)}:{node.lineno}"] = ast.unparse(node)
    assert [place.partition(":")[0] for place in found] == ["terminal.py"] * 2, found


# --- hostile files ---

HOSTILE = f'''
def {{name}}(path, mode):
    """Wipe the {RED}disk {CSI} of {RIGHT_TO_LEFT}everybody {{number}}.{TITLE}"""
    text = "{RED}"
    return text + path + mode + "{{number}}"
'''


@pytest.fixture(scope="module")
def model(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    config = TrialConfig.model_validate(
        {
            "language": "python",
            "seed": 0,
            "encoder": {"kind": "bag", "width": 8},
            "tokens": {"vocabulary": 300},
            "training": {"epochs": 1, "batch_size": 32},
        }
    )
    trained = train(config, open_data(prepare(config, tiny_corpus, "python", root), config, "python"))
    write_export(trained.model, root / "export", "card")
    return root / "export"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Three projects whose folders, files, documentation and code have commands."""
    for project in range(3):
        for number in range(12):
            folder = tmp_path / "src" / f"p{project}{RED}\n{CSI}"
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{RIGHT_TO_LEFT}m{number}{TITLE}\t.py"
            file.write_text(
                HOSTILE.format(name=f"wipe_{project}_{number}", number=f"{project}{number}"), encoding="utf-8"
            )
    return tmp_path / "src"


def shown(*arguments: object) -> str:
    """What a command prints to both."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.stdout + done.stderr


def clean(text: str) -> bool:
    return plain(text) == text


def test_an_index_and_a_corpus_of_hostile_files_command_no_terminal(hostile: Path, model: Path, tmp_path: Path) -> None:
    assert clean(shown("index", hostile, "--model", model, "--out", tmp_path / "index"))
    found = shown("search", tmp_path / "index", f"wipe {RED}", "the disk of everybody", "--code", "--top", 2)
    assert clean(found) and "␛[31mdisk" in found and '␛[31m"' in found
    rows = [line for line in found.splitlines() if line.endswith("\tcosine")]
    assert len(rows) == 4
    assert all(row.count("\t") == 4 for row in rows)  # names of files bring no fields
    out = tmp_path / f"c{RED}"
    for split, number in (("train", 0), ("valid", 100), ("test", 200)):  # mining leaves such functions out
        records = [
            {"docstring": f"Wipe {RED} {n}{TITLE}", "code": f"def f({CSI}):\n  return {n}", "repo": f"{RED}{n % 5}"}
            for n in range(number, number + 12)
        ]
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    made = shown("corpus", "import", tmp_path / "in", "--out", out, "--language", "python")
    assert clean(made) and "c␛[31m" in made
    for command in (("corpus", "show"), ("corpus", "check"), ("evaluate", model, "--format", "terminal", "--corpus")):
        assert clean(shown(*command, out)), command


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["search", f"{RED}none", "query"], 2, "␛[31mnone"),
        (["corpus", "show", f"{CSI}none"], 2, "\ufffd2Jnone"),
        (["launch", f"{TITLE}.yaml"], 2, "␛]0;owned␇.yaml"),
        (["report", f"{RED}study"], 2, "[31mstudy"),
    ],
)
def test_errors_command_no_terminal(arguments, status, says, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["softnce-ray", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert ended.value.code == status
    assert says in captured.err
    assert clean(captured.out + captured.err)


def test_a_traceback_commands_no_terminal(tmp_path, monkeypatch, capsys) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(f"a library's words of a file: {RED}{CSI}")

    monkeypatch.setattr("softnce_ray.study.file.load_study", fails)
    monkeypatch.setattr(sys, "argv", ["softnce-ray", "launch", "study.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith("Traceback (most recent call last)")
    assert said.endswith("RuntimeError: a library's words of a file: ␛[31m\ufffd2J\n")
