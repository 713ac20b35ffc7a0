"""A study killed at random points, over and over, and compared with itself undisturbed.

Everything is done as a user does it: the command line, a real MLflow server, real processes killed with SIGKILL.
`python tests/killing.py --kills 20` prints the table that docs/robustness.md keeps.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import psutil
import yaml
from conftest import NOUNS, OWNERS, VERBS
from conftest import _pair as pair
from mlflow import MlflowClient
from outcomes import broken_laws, differences, left_over, outcome
from servers import MlflowServer

from softnce_ray.corpus import build_corpus

Kind = Literal["worker", "driver", "server"]
KINDS: tuple[Kind, ...] = ("worker", "driver", "server")
STUDY, EPOCHS = "killed", 4
_TRIALS = 7
_GIVE_UP = 900.0
"""Seconds after which a command counts as hanging."""
_PATIENCE = 120.0
"""Seconds that processes of a driver that was killed have to end: agents of Ray's wait a minute for its return."""


def study_of(corpus: Path) -> dict[str, Any]:
    """Seven trials: five to confirm or search `soft`, two of `infonce`; epochs of about half a second.

    No decision depends on time: nothing stops early, and three proposals are Optuna's random start. The learning
    rate is low, so that ranks are far from perfect and a step too many shows.
    """
    return {
        "study": STUDY,
        "corpus": str(corpus),
        "languages": ["python"],
        "seeds": [1, 2],
        "defaults": {
            "encoder": {"kind": "bag", "width": 64},
            "tokens": {"vocabulary": 1000},
            "training": {"epochs": EPOCHS, "batch_size": 8, "learning_rate": 0.0005},
        },
        "arms": {
            "infonce": {},
            "soft": {
                "loss": {"name": "soft_infonce"},
                "estimator": {"name": "bm25"},
                "search": {"loss.alpha": {"low": 0.2, "high": 1.5}},
            },
        },
        "search": {"trials": 3, "seed": 9, "early_stopping": None},
        "resources": {"max_concurrent": 2},
        "failures": {"retries": 5},
    }


def larger_corpus(folder: Path) -> Path:
    """A corpus of 1,000 different pairs in `folder`/corpus: every query and every code occurs once."""
    words = [(verb, noun, owner) for verb in VERBS for noun in NOUNS for owner in OWNERS]
    random.Random(0).shuffle(words)
    packages = ["large"] * 700 + [f"small{number % 15}" for number in range(300)]
    pairs = [pair(*each, package, n) for n, (each, package) in enumerate(zip(words, packages, strict=True))]
    build_corpus(pairs, folder / "corpus", valid=60, test=60, codebase=60)
    return folder / "corpus"


# --- processes ---


class Family:
    """A process with all that came of it, also what outlives its parent; nothing else is ever killed."""

    def __init__(self, pid: int) -> None:
        self._seen: dict[int, psutil.Process] = {pid: psutil.Process(pid)}

    def look(self) -> list[psutil.Process]:
        """Those alive now. Called often, so that no child is missed whose parent dies."""
        parents: dict[psutil.Process, int] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                parents[process] = process.ppid()
        grows = True
        while grows:
            # A parent must be the one that was seen: the system uses a dead one's number again.
            new = [
                process
                for process, parent in parents.items()
                if self._seen.get(process.pid) != process and parent in self._seen and self._seen[parent].is_running()
            ]
            self._seen |= {process.pid: process for process in new}
            grows = bool(new)
        return [each for each in self._seen.values() if _alive(each)]

    def training(self) -> list[psutil.Process]:
        """Ray's workers that run a trial."""
        found = []
        for process in self.look():
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and ".train" in title:
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)

    def of_ray(self) -> list[str]:
        """Titles of Ray's servers and workers that are alive, its agents left out: those that could do harm."""
        found = []
        for process in self.look():
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if "raylet/raylet" in title or "gcs_server" in title or title.startswith("ray::"):
                    found += [] if "Agent" in title else [f"{process.pid} {title[:80]}"]
        return found

    def left_after(self, seconds: float) -> list[str]:
        """Titles of those that still live after so long a wait; they are then killed."""
        until = time.monotonic() + seconds
        while (left := self.look()) and time.monotonic() < until:
            time.sleep(0.1)
        titles = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                titles.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
                process.kill()
        return titles


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class Outage:
    """An MLflow server that was killed and comes back by itself, while its caller goes on."""

    def __init__(self, server: MlflowServer, seconds: float) -> None:
        server.kill()
        self._server, self._seconds = server, seconds
        self._thread = threading.Thread(target=self._come_back, daemon=True)
        self._thread.start()

    def _come_back(self) -> None:
        time.sleep(self._seconds)
        self._server.start()

    def wait(self) -> None:
        self._thread.join()


class Command:
    """A softnce-ray command in a process of its own, watched."""

    def __init__(self, place: Place, *arguments: str) -> None:
        self.place, self.arguments = place, arguments
        self.lines: list[str] = []
        self.began = time.monotonic()
        self.training_since: float | None = None
        self.checkpoints: dict[Path, float] = {}
        self._old, self._looked = set(place.checkpoints()), 0.0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "softnce_ray", *arguments],
            env=place.environment(),
            cwd=place.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.family = Family(self.process.pid)
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.lines.append(line)

    def look(self) -> bool:
        """Take in what has happened; True while the command runs."""
        now = time.monotonic()
        if now >= self._looked + 0.1:
            self._looked = now
            if self.family.training() and self.training_since is None:
                self.training_since = now
        for path in self.place.checkpoints():
            if path not in self._old:
                self.checkpoints.setdefault(path, now)
        if now - self.began > _GIVE_UP:
            raise Hanging(f"{self.arguments[0]} has not ended after {_GIVE_UP:g} s: {self.output()[-500:]}")
        return self.process.poll() is None

    def wait(self) -> int:
        while self.look():
            time.sleep(0.1)
        self._reader.join(10)
        return self.process.returncode

    def output(self) -> str:
        return "".join(self.lines)


class Hanging(AssertionError):
    """A command that does not end."""


@dataclass(frozen=True)
class Place:
    """Where a round keeps its things. Short paths: Ray's sockets lie below."""

    root: Path
    server: MlflowServer

    @property
    def store(self) -> Path:
        return self.root / "store"

    def environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "SOFTNCE_"))
        }
        return kept | {
            "MLFLOW_TRACKING_URI": self.server.uri,
            "HOME": str(self.root),
            "TMPDIR": str(self.root / "tmp"),
            "RAY_TMPDIR": str(self.root),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def checkpoints(self) -> list[Path]:
        return list(self.store.glob(f"ray/{STUDY}/*/*/checkpoint_*/checkpoint.safetensors"))

    def run(self, *arguments: str) -> Command:
        return Command(self, *arguments, "--store", str(self.store))

    def report(self) -> Any:
        """The study's report as data, or a text that says why there is none."""
        command = self.run("report", STUDY, "--format", "json")
        status, text = command.wait(), command.output()
        return json.loads(text[text.index("{") :]) if status == 0 else f"exit status {status}: {text[-300:]}"


# --- when to kill ---


@dataclass(frozen=True)
class Kill:
    """A kind and a moment: `reached` is asked again and again while the launch runs."""

    kind: Kind
    moment: str
    reached: Callable[[Command], bool] = field(compare=False)
    pause: float = 0.0
    """Seconds before a killed server is started again."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.moment}" + (f", back after {self.pause:.1f} s" if self.kind == "server" else "")


def after_training(seconds: float) -> tuple[str, Callable[[Command], bool]]:
    def reached(run: Command) -> bool:
        return run.training_since is not None and time.monotonic() >= run.training_since + seconds

    return f"{seconds:.2f} s after the first trial started", reached


def after_start(seconds: float) -> tuple[str, Callable[[Command], bool]]:
    return f"{seconds:.2f} s after the command", lambda run: time.monotonic() >= run.began + seconds


def checkpoint(number: int, later: float) -> tuple[str, Callable[[Command], bool]]:
    def reached(run: Command) -> bool:
        seen = sorted(run.checkpoints.values())
        return len(seen) >= number and time.monotonic() >= seen[number - 1] + later

    return f"{later * 1000:.0f} ms after checkpoint {number}", reached


def last_epoch(number: int, later: float) -> tuple[str, Callable[[Command], bool]]:
    """Between the last epoch of a trial and its end, when the result is written and recorded."""

    def reached(run: Command) -> bool:
        seen = sorted(at for path, at in run.checkpoints.items() if path.parent.name.endswith(f"{EPOCHS - 1}"))
        return len(seen) >= number and time.monotonic() >= seen[number - 1] + later

    return f"{later * 1000:.0f} ms after the last epoch of trial {number}", reached


def line(text: str, number: int, later: float) -> tuple[str, Callable[[Command], bool]]:
    at: list[float] = []

    def reached(run: Command) -> bool:
        if not at and sum(text in each for each in run.lines) >= number:
            at.append(time.monotonic())
        return bool(at) and time.monotonic() >= at[0] + later

    return f"{later:.2f} s after it said {text!r} ({number})", reached


def mlflow_writes(number: int) -> tuple[str, Callable[[Command], bool]]:
    """In the middle of a transaction: SQLite keeps its journal beside the database for that long."""
    seen: list[float] = []

    def reached(run: Command) -> bool:
        if run.training_since is not None and Path(f"{run.place.server.folder}/mlflow.db-journal").exists():
            seen.append(time.monotonic())
        return len(seen) >= number

    return f"while MLflow is written (sighting {number})", reached


def a_kill(kind: Kind, chance: random.Random, whole: float, training: float) -> Kill:
    """A kill point: half of them anywhere in time, half at an awkward moment.

    `whole`, `training`: seconds of the undisturbed launch, and of what came after its first trial's start.
    """
    later = chance.choice([0.0, chance.uniform(0, 0.03), chance.uniform(0, 0.5)])
    everywhere = (
        after_start(chance.uniform(0.5, whole)) if kind == "driver" else after_training(chance.uniform(0, training))
    )
    awkward = [
        checkpoint(chance.randint(1, _TRIALS * EPOCHS - 1), later),
        last_epoch(chance.randint(1, _TRIALS), later),
        mlflow_writes(chance.randint(1, 30)),
    ]
    if kind == "driver":
        awkward += [line("preparing", 1, chance.uniform(0, 4)), line("finished", _TRIALS, chance.uniform(0, 1.5))]
    moment, reached = chance.choice([everywhere] * len(awkward) + awkward)
    # One outage in three is long: it may outlast the study and the launch's patience.
    pause = chance.choice([chance.uniform(0.5, 6), chance.uniform(0.5, 6), chance.uniform(20, 50)])
    return Kill(kind, moment, reached, pause)


# --- a round ---


@dataclass(frozen=True)
class Round:
    """What came of a study that was disturbed."""

    kills: tuple[Kill, ...]
    landed: tuple[Kill, ...]
    commands: tuple[str, ...]
    """What it took to come to the end: each command with its exit status."""
    faults: tuple[str, ...]
    seconds: float


class Bench:
    """A server, a study and its undisturbed outcome; rounds are played on it one after another."""

    def __init__(self, root: Path, corpus: Path, server: MlflowServer, logs: Path | None) -> None:
        self.root, self.server, self.logs = root, server, logs
        self._study, self._number = study_of(corpus), 0
        self._offered = _offered_commands()
        place = self._place()
        run = place.run("launch", "study.yaml")
        assert run.wait() == 0, run.output()
        ended = time.monotonic()
        assert run.training_since is not None
        self.whole, self.training = ended - run.began, ended - run.training_since
        self.expected = outcome(server, place.store, STUDY, place.report())
        self.faults = [*broken_laws(self.expected, EPOCHS), *left_over(place.store), *run.family.left_after(_PATIENCE)]
        """What is wrong already when nothing is disturbed."""
        self._put_away(place)

    def play(self, kills: Sequence[Kill]) -> Round:
        """One study from nothing to its end, killed on the way."""
        began, place = time.monotonic(), self._place()
        game = _Game(place, self._offered, resume=self._number % 2 == 0)
        try:
            for kill in kills:
                game.disturb(kill)
            game.come_to_the_end()
            told = outcome(self.server, place.store, STUDY, place.report())
            game.faults += [*broken_laws(told, EPOCHS), *differences(self.expected, told), *left_over(place.store)]
        except Exception as error:  # a round that breaks is a finding, and the next is played
            game.faults.append(f"{type(error).__name__}: {error}")
        finally:
            game.clear()
            if game.faults and self.logs is not None:
                self.logs.mkdir(parents=True, exist_ok=True)
                text = [*map(str, kills), *game.said, *game.faults, *(run.output() for run in game.runs)]
                (self.logs / f"round{self._number - 1}.log").write_text("\n".join(text))
            self._put_away(place)
        return Round(tuple(kills), tuple(game.landed), tuple(game.said), tuple(game.faults), time.monotonic() - began)

    def _place(self) -> Place:
        self._number += 1
        place = Place(self.root / str(self._number), self.server)
        (place.root / "tmp").mkdir(parents=True)
        (place.root / "study.yaml").write_text(yaml.safe_dump(self._study, sort_keys=False))
        return place

    def _put_away(self, place: Place) -> None:
        """Give the study's name free in MLflow; a search's seed depends on it, so all rounds have the same."""
        client = MlflowClient(tracking_uri=self.server.uri)
        if experiment := client.get_experiment_by_name(STUDY):
            client.rename_experiment(experiment.experiment_id, f"{STUDY}-{place.root.name}")
        shutil.rmtree(place.root, ignore_errors=True)


class _Game:
    """One round while it is played."""

    def __init__(self, place: Place, offered: frozenset[str], resume: bool) -> None:
        self._place, self._offered, self._resume = place, offered, resume
        self._outages: list[Outage] = []
        self.landed: list[Kill] = []
        self.said: list[str] = []
        self.faults: list[str] = []
        self.runs = [place.run("launch", "study.yaml")]

    def disturb(self, kill: Kill) -> None:
        """Wait for the kill's moment and kill; when the study has ended before, nothing."""
        run = self.runs[-1]
        while run.look():
            if kill.reached(run) and (victim := self._victim(kill, run)):
                victim()
                self.landed.append(kill)
                if kill.kind == "driver":
                    self._go_on()
                return
            time.sleep(0.005)

    def _victim(self, kill: Kill, run: Command) -> Callable[[], Any] | None:
        """What to call to kill it; None while no worker trains."""
        match kill.kind:
            case "server":
                return lambda: self._outages.append(Outage(self._place.server, kill.pause))
            case "driver":
                return run.process.kill
            case "worker":
                workers = run.family.training()
                return random.Random(str(kill)).choice(workers).kill if workers else None

    def _go_on(self) -> None:
        """What a user does whose driver died: the same again, or `resume`. Its Ray has gone with it by then."""
        run = self.runs[-1]
        run.process.wait()
        self.said.append(f"{run.arguments[0]} killed")
        until = time.monotonic() + _PATIENCE
        while (left := run.family.of_ray()) and time.monotonic() < until:
            time.sleep(0.1)
        self.faults += [f"outlived its driver: {title}" for title in left]
        self._wait_for_server()
        again = ("resume", STUDY) if self._resume and "resume" in self._offered else ("launch", "study.yaml")
        self.runs.append(self._place.run(*again))

    def come_to_the_end(self) -> None:
        """Wait for the launch; what MLflow missed is sent as the launch's last words say. Then all must be gone."""
        status = self._end()
        self._wait_for_server()
        if status and not any(kill.kind == "server" for kill in self.landed):
            self.faults.append(f"{self.said[-1]}, though MLflow was there: {self.runs[-1].output()[-500:]}")
        if status:
            again = ("sync", STUDY) if "sync" in self._offered else ("launch", "study.yaml")
            self.runs.append(self._place.run(*again))
            if self._end():
                self.faults.append(f"{self.said[-1]}: {self.runs[-1].output()[-500:]}")
        for run in self.runs:
            self.faults += [f"outlived {run.arguments[0]}: {title}" for title in run.family.left_after(_PATIENCE)]

    def _end(self) -> int:
        status = self.runs[-1].wait()
        self.said.append(f"{self.runs[-1].arguments[0]} {status}")
        return status

    def _wait_for_server(self) -> None:
        while self._outages:
            self._outages.pop().wait()

    def clear(self) -> None:
        """End what is still there, whatever has happened."""
        for run in self.runs:
            run.family.left_after(0)
        self._wait_for_server()


def _offered_commands() -> frozenset[str]:
    command = [sys.executable, "-m", "softnce_ray", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return frozenset(name for name in ("resume", "sync") if f" {name} " in text)


@contextlib.contextmanager
def bench(corpus: Path, logs: Path | None = None) -> Iterator[Bench]:
    """A bench in a temporary folder, with all its processes ended afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as folder,
        MlflowServer(Path(folder) / "mlflow") as server,
    ):
        yield Bench(Path(folder), corpus, server, logs)


# --- the command ---


def rounds(kills: int, seed: int, made: Bench) -> Iterator[Round]:
    """Play until so many kills have landed: one of each kind in turn, every fifth round one of each at once."""
    chance, landed, number = random.Random(seed), 0, 0
    kinds = [kind for _ in range(kills) for kind in chance.sample(KINDS, len(KINDS))]
    while landed < kills:
        number += 1
        several = number % 5 == 0
        now = chance.sample(KINDS, len(KINDS)) if several else [kinds.pop(0)]
        played = made.play([a_kill(kind, chance, made.whole, made.training) for kind in now])
        landed += len(played.landed)
        yield played


def table_row(number: int, played: Round) -> str:
    """A line of the table; a kill that came when all was over is in brackets."""
    kills = "; ".join(str(kill) if kill in played.landed else f"({kill}: too late)" for kill in played.kills)
    faults = "; ".join(played.faults[:3]) or "identical"
    return f"| {number} | {kills} | {', '.join(played.commands)} | {played.seconds:.0f} | {faults} |"


def heading(seed: int, made: Bench) -> str:
    """What the table is of: date, versions and the undisturbed study."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "optuna", "mlflow", "torch"))
    counted = made.expected["count"]
    return (
        f"{datetime.date.today()}, Python {platform.python_version()}, {versions}, seed {seed}. Undisturbed: "
        f"{counted} runs, {made.whole:.0f} s, {made.training:.0f} s of them after the first trial's start.\n\n"
        + "".join(f"Undisturbed, and wrong: {fault}\n\n" for fault in made.faults[:5])
        + "| round | killed | commands and their exit status | s | against the undisturbed |\n"
        "| ---: | --- | --- | ---: | --- |"
    )


def main() -> int:
    """Play rounds and print their table; the exit status is 1 when one has a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--logs", type=Path, default=None, help="keep what was said in rounds with a fault here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started must end with it
    with tempfile.TemporaryDirectory() as folder, bench(larger_corpus(Path(folder)), logs=options.logs) as made:
        print(heading(options.seed, made), flush=True)
        good = not made.faults
        for number, played in enumerate(rounds(options.kills, options.seed, made), 1):
            print(table_row(number, played), flush=True)
            good = good and not played.faults
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
