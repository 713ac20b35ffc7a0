"""Folders and files that appear whole: killed at any moment, wanted by several, taken back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from softnce_ray import folders
from softnce_ray.cli import app
from softnce_ray.config import StudyConfig
from softnce_ray.errors import UserError
from softnce_ray.folders import appearing, contents, made_once, others, recover, write_text
from softnce_ray.store import Store
from softnce_ray.study.saved import save_study

NEW, OLD = {"a": "new", "deep/b": "new"}, {"a": "old", "deep/c": "old"}

# Forks a process for each moment: its audit hook sees every file that is opened, made, renamed or removed, and kills it
# before the n-th of these. A line for each says how it ended; the last one got to the end.
_KILLED = """
import itertools, json, os, signal, sys
from pathlib import Path
from softnce_ray import folders

what, root = sys.argv[1], Path(sys.argv[2])
watched = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree", "tempfile.mkdtemp"}
if "apart" in what:
    folders._exchanged = lambda a, b: False


def fill(folder, content):
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def work(final):
    if what == "text":
        folders.write_text(final, "new")
    elif what.startswith("then"):
        try:
            fails = lambda folder: next(os.scandir(folder)) / 0
            with folders.appearing(final, may_go=lambda there: None, then=fails) as folder:
                fill(folder, json.loads(sys.argv[3]))
        except TypeError:
            pass
    else:
        with folders.appearing(final, may_go=lambda there: None) as folder:
            fill(folder, json.loads(sys.argv[3]))


for moment in itertools.count(1):
    final = root / f"{moment}" / "final"
    final.parent.mkdir()
    if what == "text":
        final.write_text("old")
    elif what != "first":
        fill(final, json.loads(sys.argv[4]))
    child = os.fork()
    if not child:
        left = moment

        def hook(event, arguments):
            global left
            if event in watched:
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work(final)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    print(json.dumps([moment, killed]), flush=True)
    if not killed:
        assert status == 0, status
        break
"""


def killed_everywhere(what: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """What a process that was killed at its first, second, … step with files left: (target, whether it was killed)."""
    command = [sys.executable, "-c", _KILLED, what, str(root), json.dumps(NEW), json.dumps(OLD)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        moment, killed = json.loads(line)
        yield root / str(moment) / "final", killed


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def beside(final: Path) -> list[str]:
    return [path.name for path in final.parent.iterdir() if path != final]


def exchange_works(root: Path) -> bool:
    for name in ("x", "y"):
        (root / name).mkdir()
    return folders._exchanged(root / "x", root / "y")


@pytest.mark.parametrize("what", ["replacing", "replacing apart", "then", "then apart"])
def test_a_replacement_that_is_killed_at_any_moment_leaves_the_old_or_the_new_folder_and_nothing_else(
    what: str, tmp_path: Path
) -> None:
    at_once = "apart" not in what
    if at_once and not exchange_works(tmp_path):
        pytest.skip("this file system cannot exchange two names")
    seen = set()
    missing = put_back = 0
    for final, killed in killed_everywhere(what, tmp_path):
        gone = not final.exists()
        assert not (gone and at_once), "there is a moment without a folder"
        missing += gone
        put_back += recover(final)
        found = content(final)
        assert found in (NEW, OLD)
        seen.add((killed, found == NEW))
        assert beside(final) == []
        assert not recover(final)
    assert put_back == missing and (missing == 0) == at_once
    old_after_all = what.startswith("then")
    assert seen >= {(True, False), (True, True), (False, not old_after_all)}


def test_a_first_folder_that_is_killed_at_any_moment_is_whole_or_not_there(tmp_path: Path) -> None:
    seen = set()
    for final, _ in killed_everywhere("first", tmp_path):
        assert not recover(final)
        seen.add(final.exists())
        assert not final.exists() or content(final) == NEW
        assert beside(final) == []
    assert seen == {True, False}


def test_a_text_that_is_killed_at_any_moment_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    seen = set()
    for final, _ in killed_everywhere("text", tmp_path):
        seen.add(final.read_text())
        recover(final)
        assert beside(final) == []
    assert seen == {"old", "new"}


def test_the_next_work_on_a_target_cleans_up(tmp_path: Path) -> None:
    for final, _ in killed_everywhere("replacing apart", tmp_path):
        with appearing(final, may_go=lambda there: None) as folder:
            (folder / "a").write_text("next")
        assert content(final) == {"a": "next"}
        assert beside(final) == []


_HOLD = """
import sys
from pathlib import Path
from softnce_ray.folders import appearing
with appearing(Path(sys.argv[1]), may_go=lambda there: None) as folder:
    (folder / "a").write_text("slow")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_the_folder_of_a_process_that_runs_stays_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "final")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as slow:
        assert slow.stdout is not None and slow.stdout.readline() == "writing\n"
        recover(tmp_path / "final")
        with appearing(tmp_path / "final") as folder:
            (folder / "a").write_text("quick")
        (holder,) = beside(tmp_path / "final")
        assert (tmp_path / holder / "new" / "final" / "a").read_text() == "slow"
        slow.kill()
        slow.wait()
    recover(tmp_path / "final")
    assert beside(tmp_path / "final") == []
    assert content(tmp_path / "final") == {"a": "quick"}


def test_files_of_others_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = [
        ".final-abcd",
        ".final.softnce_ray",
        ".final2.softnce_ray-x",
        ".other.softnce_ray-x",
        ".final.softnce_ray-f",
    ]
    for name in theirs[:-1]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").write_text("")
    (tmp_path / theirs[-1]).write_text("a file")
    full = tmp_path / ".final.softnce_ray-full"  # named as ours, but without our lock
    full.mkdir()
    (full / "thesis.tex").write_text("years of work")
    (tmp_path / ".final.softnce_ray-link").symlink_to(full)
    recover(tmp_path / "final")
    assert {path.name for path in tmp_path.iterdir()} == {*theirs, full.name, ".final.softnce_ray-link"}
    assert (full / "thesis.tex").read_text() == "years of work"

    (full / "lock").write_text("")
    owner = os.geteuid()
    monkeypatch.setattr(folders.os, "geteuid", lambda: owner + 1)
    recover(tmp_path / "final")
    assert (full / "lock").exists()


def test_an_old_folder_is_not_put_over_one_that_somebody_else_put_there(tmp_path: Path) -> None:
    holder = tmp_path / ".final.softnce_ray-x"
    for name in ("old", "new/final"):
        (holder / name).mkdir(parents=True)
    (holder / "lock").write_text("")
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "a").write_text("theirs")
    assert not recover(tmp_path / "final")
    assert content(tmp_path / "final") == {"a": "theirs"} and (holder / "old").is_dir()
    shutil.rmtree(tmp_path / "final")
    assert recover(tmp_path / "final")
    assert content(tmp_path / "final") == {} and beside(tmp_path / "final") == []


@pytest.mark.parametrize("exchange", [True, False])
def test_what_fails_after_the_folder_is_in_place_is_taken_back(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(folders, "_exchanged", lambda a, b: False)

    def fails(folder: Path) -> None:
        assert content(folder) == {"a": "new"}
        raise KeyboardInterrupt

    for name in ("there", "replaced", "old", "new"):  # the last three are also names within a holder
        if name != "new":
            (tmp_path / name).mkdir()
            (tmp_path / name / "a").write_text("old")
        with (
            pytest.raises(KeyboardInterrupt),
            appearing(tmp_path / name, may_go=lambda there: None, then=fails) as folder,
        ):
            (folder / "a").write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"there", "replaced", "old"}
    assert all((path / "a").read_text() == "old" for path in tmp_path.iterdir())


@pytest.mark.parametrize("exchange", [True, False])
def test_what_may_not_go_stays_however_it_is_named(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(folders, "_exchanged", lambda a, b: False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("mine")
    asked: list[Path] = []

    def never(there: Path) -> None:
        asked.append(there)
        raise PermissionError("mine")

    for name in ("mine", "missing/../mine", "x/y/../../mine"):
        with pytest.raises(PermissionError, match="mine"), appearing(tmp_path / name, may_go=never) as folder:
            (folder / "a").write_text("new")
    assert asked == [tmp_path / "mine"] * 3
    assert content(tmp_path / "mine") == {"a": "mine"} and beside(tmp_path / "mine") == []


@pytest.mark.parametrize("exchange", [True, False])
def test_what_comes_into_a_folder_at_the_last_moment_is_not_lost(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(folders, "_exchanged", lambda a, b: False)
    final = tmp_path / "final"
    final.mkdir()

    def only_ours(there: Path) -> None:
        if (there / "late").exists():
            raise FileExistsError("late")
        (final / "late").write_text("somebody's")  # between this look and the next

    with pytest.raises(FileExistsError, match="late"), appearing(final, may_go=only_ours) as folder:
        (folder / "a").write_text("new")
    assert content(final) == {"late": "somebody's"} and beside(final) == []


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="final"), appearing(tmp_path / "final") as folder:
        (folder / "a").write_text("late")
        (tmp_path / "final").mkdir()
        (tmp_path / "final" / "a").write_text("quick")
    assert content(tmp_path / "final") == {"a": "quick"} and beside(tmp_path / "final") == []


def test_a_folder_is_made_once_and_by_the_next_one_when_that_fails(tmp_path: Path) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise OSError("no")
        (folder / "a").write_text("made")

    with pytest.raises(OSError, match="no"):
        made_once(tmp_path / "final", make)
    for _ in range(2):
        assert content(made_once(tmp_path / "final", make)) == {"a": "made"}
    assert len(calls) == 2


def test_contents_are_files_links_and_empty_folders(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep" / "empty").mkdir(parents=True)
    (folder / "deep" / "file").touch()
    (folder / ".hidden").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "theirs").touch()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "dangling").symlink_to(tmp_path / "nothing")
    assert contents(folder) == [".hidden", "dangling", "deep/empty", "deep/file", "link"]
    with pytest.raises(FileNotFoundError):
        contents(tmp_path / "nothing")


def test_what_is_not_ours_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "ours.pyc").touch()
    (tmp_path / "ours").touch()
    assert others(tmp_path, {"ours"}.__contains__) == ""
    (tmp_path / "two\nlines").touch()
    assert others(tmp_path, {"ours"}.__contains__) == "'two\\nlines'"
    for number in range(8):
        (tmp_path / f"{number}.txt").touch()
    assert others(tmp_path, {"ours"}.__contains__) == "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 4 more"


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_what_appears_has_the_permissions_that_the_umask_gives(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        for _ in range(2):
            write_text(tmp_path / "text", "ä")
        with appearing(tmp_path / "final"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "text").read_bytes() == "ä".encode()
    assert (tmp_path / "text").stat().st_mode & 0o777 == 0o666 & ~mask
    assert (tmp_path / "final").stat().st_mode & 0o777 == 0o777 & ~mask
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "text"]


def test_a_saved_study_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    plain = {"study": "s", "corpus": "c", "languages": ["python"], "seeds": [1], "arms": {"infonce": {}}}
    before = os.umask(0o022)
    try:
        for _ in range(2):
            save_study(Store.at(tmp_path), StudyConfig.model_validate(plain))
    finally:
        os.umask(before)
    (file,) = (tmp_path / "studies").iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == ("s.yaml", 0o644)


def test_a_report_is_written_to_a_file_and_to_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("thesis", "pipe"):
        arguments = ["report", "s", "--store", str(tmp_path), "--out", str(tmp_path / name), "--overwrite"]
        with pytest.raises(UserError, match="expected the name of a file, got something else there"):
            CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_what_cannot_be_made_is_told_by_the_name_that_was_given(tmp_path: Path) -> None:
    final = tmp_path / ("a" * 250)  # which leaves no room for the name of a folder beside it
    with pytest.raises(OSError, match="name too long") as caught, appearing(final):
        pytest.fail("there is a folder")
    assert caught.value.filename == str(final)


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "text", "new \ud800")
    assert content(tmp_path) == {"text": "old"}
