"""Every file of a store, a corpus, an export and an index, damaged in every way: commands that read it refuse it in a
line, or print what they print without the damage. Never a traceback, never a wait, never another figure with status 0.

The fast part takes a seeded sample of what needs no Ray. The long one takes all files of a study that was launched.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import damaging
import pytest
import yaml
from damaging import DAMAGES, LIMIT, Ran, Unchanged

from softnce_ray.export.checking import expect
from softnce_ray.export.fresh import in_this_process
from softnce_ray.export.writing import write_formats
from softnce_ray.model import Model
from softnce_ray.retrieval import build_index

from .conftest import Kept

Command = tuple[str, ...]
FORMATS = "hf,sentence-transformers,onnx,mlflow"
QUERY = "calendar of every buyer"
SAMPLE = 10


@dataclass
class World:
    """A folder that commands run in, what it was before any damage, and what they said then."""

    place: Path
    pristine: Path
    out: Path
    whole: dict[Command, Ran] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def files(self) -> list[Path]:
        found = sorted(path for path in self.pristine.rglob("*") if path.is_file())
        return [path.relative_to(self.pristine) for path in found]

    def said_before(self, command: Command) -> Ran:
        if command not in self.whole:
            damaging.restore(self.pristine, self.place)
            ran = damaging.run(command, self.place, self.out, 10 * LIMIT)
            assert not ran.fault, (command, ran)
            assert ran.status == 0, (command, ran)
            self.whole[command] = ran
        return self.whole[command]

    def try_all(self, file: Path, kind: str, commands: Iterable[Command]) -> None:
        """Damage a file anew for each command, and judge what the command comes to."""
        for command in commands:
            before = self.said_before(command)
            damaging.restore(self.pristine, self.place)
            try:
                DAMAGES[kind](self.place / file, random.Random(f"{file} {kind}"))
            except Unchanged:
                return
            ran = damaging.run(command, self.place, self.out, LIMIT + before.seconds)
            self.counts["cases"] += 1
            if ran.fault:
                verdict = ran.fault
            elif ran.status:
                verdict = "refused"
            elif damaging.said(ran.out) == damaging.said(before.out):
                verdict = "same"
            elif damaging.said(ran.err) != damaging.said(before.err):
                verdict = "named"
            else:
                verdict = "another answer with status 0"
            self.counts[verdict] += 1
            if verdict not in ("refused", "same", "named"):
                self.faults.append(f"{file}, {kind}, {' '.join(command)}: {verdict}: {ran.err[-2000:]}")
                print(self.faults[-1], flush=True)


def world_at(place: Path, pristine: Path, out: Path) -> World:
    out.mkdir()
    shutil.copytree(pristine, place, symlinks=True)
    return World(place, pristine, out)


def commands_for(file: Path, study: str) -> list[Command]:
    """Commands that read a file."""
    in_corpus = ("evaluate", "best/hf", "--corpus", "corpus")
    match file.parts:
        case ("corpus", *_):
            return [
                ("corpus", "show", "corpus"),
                ("corpus", "check", "corpus"),
                in_corpus,
                ("search", "best/hf", "--corpus", "corpus", QUERY),
                ("index", "corpus", "--model", "best/hf", "--out", "index2"),
                ("export", study, "--to", "best2", "--formats", "hf", "--corpus", "corpus"),
                *([("launch", "tiny.yaml", "--dry-run")] if study == "tiny" else []),
            ]
        case ("best", "export.json" | "hf" | "sentence-transformers" as name, *_):
            model = f"best/{'hf' if name == 'export.json' else name}"
            return [
                ("evaluate", model, "--corpus", "corpus"),
                ("search", "index", "--model", model, QUERY) if name != "sentence-transformers" else in_corpus,
                ("index", "src", "--model", model, "--out", "index2"),
            ]
        case ("best", *_):
            return [("export", study, "--to", "best", "--formats", "hf", "--overwrite", "--corpus", "corpus")]
        case ("index", *_):
            return [
                ("search", "index", QUERY),
                ("search", "index", QUERY, "--hybrid"),
                ("index", "src", "--model", "best/hf", "--out", "index"),
            ]
        case ("softnce_runs", "prepared" | "ray", *_):
            return []  # read by trials: see test_storage and test_checkpoint
        case ("softnce_runs", *_):
            return [
                ("report", study, "--format", "json"),
                ("best", study),
                ("export", study, "--to", "best2", "--formats", "hf", "--corpus", "corpus"),
                *([("resume", study), ("launch", "tiny.yaml", "--dry-run")] if study == "tiny" else []),
            ]
    return []


def sources(place: Path) -> None:
    folder = place / "src"
    folder.mkdir()
    for name in ("folders.py", "files.py", "digests.py", "storage.py"):
        shutil.copy(Path(damaging.__file__).parents[1] / "softnce_ray" / name, folder)


@pytest.fixture(scope="module")
def small(
    kept: Kept, trained: Callable[..., Model], tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> World:
    """A corpus, an export of two formats, an index, and a store that keeps a model; no Ray has run."""
    root = tmp_path_factory.mktemp("fuzz")
    place, pristine = root / "world", root / "pristine"
    pristine.mkdir()
    shutil.copytree(tiny_corpus, pristine / "corpus")
    shutil.copytree(kept.store.root, pristine / "softnce_runs")
    sources(pristine)
    model = trained("bag")
    formats = ("hf", "sentence-transformers")
    write_formats(model, pristine / "best", formats, expect(model), lambda *args: "card", read=in_this_process)
    pristine.rename(place)  # an index keeps where its model is
    build_index(place / "src", place / "best" / "hf", place / "index")
    shutil.copytree(place, pristine)
    shutil.rmtree(place)
    return world_at(place, pristine, root / "out")


def test_a_sample_of_damaged_files_gives_no_other_answer(small: World) -> None:
    chance = random.Random(18)
    files = [file for file in small.files() if file.parts[0] in ("corpus", "best", "index")]
    by_room = {room: [file for file in files if file.parts[0] == room] for room in ("corpus", "best", "index")}
    for number in range(SAMPLE):
        file = chance.choice(by_room[list(by_room)[number % 3]])
        commands = [each for each in commands_for(file, "bags") if each[0] not in ("export", "index")]
        small.try_all(file, list(DAMAGES)[number % len(DAMAGES)], chance.sample(commands, 1) if commands else [])
    assert not small.faults, "\n".join(small.faults)
    assert small.counts["refused"] + small.counts["same"] + small.counts["named"] == small.counts["cases"] > SAMPLE / 2


@pytest.fixture(scope="module")
def launched(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """What a launch, an export in all formats and an index leave."""
    root = tmp_path_factory.mktemp("launched")
    place, pristine = root / "world", root / "pristine"
    place.mkdir()
    shutil.copytree(tiny_corpus, place / "corpus")
    sources(place)
    arms: dict[str, Any] = {
        "infonce": {},
        "soft": {
            "loss": {"name": "soft_infonce"},
            "estimator": {"name": "bm25"},
            "search": {"loss.alpha": {"low": 0.2, "high": 1.5}},
        },
    }
    study = {
        "study": "tiny",
        "corpus": "corpus",
        "languages": ["python"],
        "seeds": [1, 2],
        "defaults": {
            "encoder": {"kind": "bag", "width": 8},
            "tokens": {"vocabulary": 400},
            "training": {"epochs": 2, "batch_size": 16},
        },
        "arms": arms,
        "search": {"trials": 2},
    }
    (place / "tiny.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    for command in (
        ("launch", "tiny.yaml"),
        ("export", "tiny", "--to", "best", "--formats", FORMATS),
        ("index", "src", "--model", "best/hf", "--out", "index"),
    ):
        subprocess.run([sys.executable, "-m", "softnce_ray", *command], cwd=place, check=True)
    shutil.copytree(place, pristine)
    shutil.rmtree(place)
    yield world_at(place, pristine, root / "out")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("room", ["corpus", "best", "index", "softnce_runs"])
def test_no_damaged_file_gives_another_answer(launched: World, room: str) -> None:
    launched.counts.clear()
    launched.faults.clear()
    files = [file for file in launched.files() if file.parts[0] == room and commands_for(file, "tiny")]
    for file in files:
        for kind in DAMAGES:
            launched.try_all(file, kind, commands_for(file, "tiny"))
    print(room, len(files), "files", len(DAMAGES), "kinds", dict(launched.counts))
    assert not launched.faults, "\n".join(launched.faults)
