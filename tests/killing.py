"""A study killed and damaged at random points, over and over, and compared with itself undisturbed.

Everything is done as a user does it: the command line, a real MLflow server, real processes and files.
`python tests/killing.py --rounds 40` prints the table that docs/reliability.md keeps. A full disk needs root, who may
mount one.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from damages import Passing, copied, filled, kill_all, outage, own_mounts, removed, small_disk, stopped, tear
from killed_study import EPOCHS, STUDY, larger_corpus, study_of
from mlflow import MlflowClient
from moments import KILLS, KINDS, Kill, Kind, a_kill
from outcomes import broken_laws, differences, left_over, outcome
from servers import MlflowServer
from watching import Command, Place

_PATIENCE = 120.0
"""Seconds that processes of a driver that was killed have to end: agents of Ray's wait a minute for its return."""
_AGAIN = 3
"""Times that a user resumes a study whose launch says what is wrong."""


@dataclass(frozen=True)
class Round:
    """What came of a study that was disturbed.

    Attributes:
      commands: what it took to come to the end, each command with its exit status.
      refused: the line with which a command refused to go on before a trial; empty when the study came to its end.
    """

    kills: tuple[Kill, ...]
    landed: tuple[Kill, ...]
    commands: tuple[str, ...]
    refused: str
    faults: tuple[str, ...]
    seconds: float


class Bench:
    """A server, a study and its undisturbed outcome; rounds are played on it one after another."""

    def __init__(self, root: Path, study: dict[str, Any], server: MlflowServer, logs: Path | None) -> None:
        self.root, self.server, self.logs = root, server, logs
        self._study, self._number = study, 0
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
        """Play one study from nothing to its end, disturbed on the way."""
        began, place = time.monotonic(), self._place()
        disk = any(kill.kind == "disk" for kill in kills)
        with small_disk(place.store) if disk else contextlib.nullcontext():
            game = _Game(place, resume=self._number % 2 == 0)
            try:
                for kill in kills:
                    game.disturb(kill)
                game.come_to_the_end()
                for each in () if game.refused else game.places:
                    told = outcome(self.server, each.store, STUDY, each.report())
                    expected = self.expected
                    if each != game.first:  # all was done when its turn came: nothing was prepared or proposed in it
                        told, expected = (
                            {key: of[key] for key in ("runs", "count", "report")} | {"searches": {}}
                            for of in (told, expected)
                        )
                    wrong = [*broken_laws(told, EPOCHS), *differences(expected, told), *left_over(each.store)]
                    game.faults += [f"{each.folder}: {fault}" for fault in wrong]
            except Exception as error:  # a round that breaks is a finding, and the next is played
                game.faults.append(f"{type(error).__name__}: {error}")
            finally:
                game.clear()
                if (game.faults or game.refused) and self.logs is not None:
                    self.logs.mkdir(parents=True, exist_ok=True)
                    said = [f"$ {' '.join(run.arguments)}\n{run.output()}" for run in game.runs]
                    whole = "\n".join([*map(str, kills), *game.said, *game.faults, *said])
                    (self.logs / f"round{self._number - 1}.log").write_text(whole)
        self._put_away(place)
        landed, commands, faults = tuple(game.landed), tuple(game.said), tuple(game.faults)
        return Round(tuple(kills), landed, commands, game.refused, faults, time.monotonic() - began)

    def _place(self) -> Place:
        self._number += 1
        place = Place(self.root / str(self._number), self.server, STUDY)
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

    def __init__(self, place: Place, resume: bool) -> None:
        self._place, self._resume = place, resume
        self._passing: list[Passing] = []
        self.places = [place]
        self.first = place  # to come to the end
        self.landed: list[Kill] = []
        self.said: list[str] = []
        self.faults: list[str] = []
        self.refused = ""
        self.runs = [place.run("launch", "study.yaml")]

    def disturb(self, kill: Kill) -> None:
        """Wait for the kill's moment and kill; when the study has ended before, nothing."""
        run = self.runs[-1]
        while run.look():
            if kill.reached(run) and self._strike(kill, run):
                self.landed.append(kill)
                return
            time.sleep(0.005)

    def _strike(self, kill: Kill, run: Command) -> bool:
        """Do it; False while no worker trains, if it is to hit one."""
        place, chance = self._place, random.Random(str(kill))
        workers = run.family.training() if kill.kind == "worker" else []
        if kill.kind == "worker" and not workers:
            return False
        if kill.kind == "all":
            self._passing.append(kill_all(run.family, place.server, kill.pause))
        if kill.ends_the_launch:
            run.process.kill()
        match kill.kind:
            case "worker":
                chance.choice(workers).kill()
            case "server":
                self._passing.append(outage(place.server, kill.pause))
            case "pause":
                whom = run.family.look()
                driver = [each for each in whom if each.pid == run.process.pid]
                self._passing.append(stopped(driver if kill.what == "driver" else whom, kill.pause))
            case "folder":
                removed(place.store / kill.what)
            case "disk":
                self._passing.append(filled(place.store, kill.pause))
            case "copy":
                self._copy()
        if kill.ends_the_launch:
            self._see_it_die()
            match kill.kind:
                case "fork":
                    self._copy()
                    self.first = self.places[-1]
                    self._go_on(self.first)
                    self._end()
                case "torn":
                    tear(place.store / "spool" / STUDY, kill.what, chance)
            self._go_on(place)
        return True

    def _copy(self) -> None:
        other = replace(self._place, folder="copy")
        copied(self._place.store, other.store)
        self.places.append(other)

    def _see_it_die(self) -> None:
        """Its Ray has gone with it by then."""
        run = self.runs[-1]
        run.process.wait()
        self.said.append(f"{run.arguments[0]} killed")
        until = time.monotonic() + _PATIENCE
        while (left := run.family.of_ray()) and time.monotonic() < until:
            time.sleep(0.1)
        self.faults += [f"outlived its driver: {title}" for title in left]
        self._wait()

    def _go_on(self, place: Place) -> None:
        """Do what a user does whose driver died: the same again, or `resume` of a study that the store knows."""
        resume = self._resume and (place.store / "studies" / f"{STUDY}.yaml").exists()
        self.runs.append(place.run(*(("resume", STUDY) if resume else ("launch", "study.yaml"))))

    def come_to_the_end(self) -> None:
        """Wait for the launch; what it could not do or send is done as its last words say. Then all must be gone."""
        kinds = {kill.kind for kill in self.landed}
        status = self._end()
        for _ in range(_AGAIN if kinds - set(KILLS) else 0):
            if status == 0 or (status == 2 and len(self.said) > 1):
                break
            self._go_on(self._place)
            status = self._end()
        if status and not kinds - {"worker", "driver"}:
            self.faults.append(f"{self.said[-1]}, though nothing was lost: {self.runs[-1].output()[-500:]}")
        if status == 1:
            self.runs.append(self._place.run("sync", STUDY))
            status = self._end()
        if status == 2 and kinds & {"folder", "torn", "copy", "fork"}:
            self.refused = self.runs[-1].output().strip().splitlines()[-1]
        elif status:
            self.faults.append(f"{self.said[-1]}: {self.runs[-1].output()[-500:]}")
        if "copy" in kinds and not self.refused:
            self._go_on(self.places[-1])
            if self._end():
                self.faults.append(f"of the copy, {self.said[-1]}: {self.runs[-1].output()[-500:]}")
        for run in self.runs:
            self.faults += [f"outlived {run.arguments[0]}: {title}" for title in run.family.left_after(_PATIENCE)]
            if "Traceback" in run.output():
                self.faults.append(f"a traceback from {run.arguments[0]}")

    def _end(self) -> int:
        """Wait for the last command, and for what passes by itself; returns its exit status."""
        run = self.runs[-1]
        status = run.wait()
        where = f" of the {run.place.folder}" if len(self.places) > 1 else ""
        self.said.append(f"{run.arguments[0]}{where} {status}")
        self._wait()
        return status

    def _wait(self) -> None:
        while self._passing:
            self._passing.pop().wait()

    def clear(self) -> None:
        """End what is still there, whatever has happened."""
        self._wait()
        for run in self.runs:
            run.family.left_after(0)


@contextlib.contextmanager
def bench(
    corpus: Path, logs: Path | None = None, *, study_of: Callable[[Path], dict[str, Any]] = study_of
) -> Iterator[Bench]:
    """A bench in a temporary folder, with all its processes ended afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as folder,
        MlflowServer(Path(folder) / "mlflow") as server,
    ):
        yield Bench(Path(folder), study_of(corpus), server, logs)


# --- the command ---


def rounds(number: int, seed: int, made: Bench, kinds: Sequence[Kind]) -> Iterator[Round]:
    """Play so many rounds: one of each kind in turn; every fifth has one kill of each of `KILLS`."""
    chance = random.Random(seed)
    order = [kind for _ in range(number) for kind in chance.sample(kinds, len(kinds))]
    for each in range(1, number + 1):
        now = chance.sample(KILLS, len(KILLS)) if each % 5 == 0 else [order.pop(0)]
        yield made.play([a_kill(kind, chance, made.whole, made.training) for kind in now])


def table_row(number: int, played: Round) -> str:
    """A line of the table; a kill that came when all was over is in brackets."""
    kills = "; ".join(str(kill) if kill in played.landed else f"({kill}: too late)" for kill in played.kills)
    came = f"refused: {played.refused}" if played.refused else "identical"
    faults = "; ".join(played.faults[:3]) or came
    return f"| {number} | {kills} | {', '.join(played.commands)} | {played.seconds:.0f} | {faults} |"


def heading(seed: int, made: Bench) -> str:
    """What the table is of: date, versions and the undisturbed study."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "optuna", "mlflow", "torch"))
    counted = made.expected["count"]
    return (
        f"{datetime.date.today()}, Python {platform.python_version()}, {versions}, seed {seed}. Undisturbed: "
        f"{counted} runs, {made.whole:.0f} s, {made.training:.0f} s of them after the first trial's start.\n\n"
        + "".join(f"Undisturbed, and wrong: {fault}\n\n" for fault in made.faults[:5])
        + "| round | what happened | commands and their exit status | s | against the undisturbed |\n"
        "| ---: | --- | --- | ---: | --- |"
    )


def main() -> int:
    """Play rounds and print their table; the exit status is 1 when one has a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--logs", type=Path, default=None, help="keep what was said in rounds with a fault here")
    options = parser.parse_args()
    kinds = list(options.kinds)
    if "disk" in kinds and os.geteuid() == 0:
        own_mounts()
    elif "disk" in kinds:
        kinds.remove("disk")
        print("without full disks: root alone may mount one", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started must end with it
    with tempfile.TemporaryDirectory() as folder, bench(larger_corpus(Path(folder)), logs=options.logs) as made:
        print(heading(options.seed, made), flush=True)
        good = not made.faults
        for number, played in enumerate(rounds(options.rounds, options.seed, made, kinds), 1):
            print(table_row(number, played), flush=True)
            good = good and not played.faults
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
