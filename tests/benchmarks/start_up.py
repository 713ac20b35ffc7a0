"""How long a user waits for the first line: `softnce-ray --help`, and the report of a small study.

    python tests/benchmarks/start_up.py STORE STUDY [--repeats 7]

STUDY is a study of STORE. Commands take turns, each a process; `python` alone, and Python that imports torch, are the
floor of what any command of this kind takes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from turns import in_turns, machine, spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("study")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    ours = [sys.executable, "-m", "softnce_ray"]
    commands = {
        "python": [sys.executable, "-c", ""],
        "import torch": [sys.executable, "-c", "import torch"],
        "--help": [*ours, "--help"],
        "report": [*ours, "report", options.study, "--store", options.store],
    }

    def run(command: list[str]) -> float:
        started = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        took = time.perf_counter() - started
        if done.returncode:
            sys.exit(done.stderr.rstrip())
        return took

    found = in_turns(
        {name: lambda command=command: run(command) for name, command in commands.items()},  # type: ignore[misc]
        options.repeats,
    )
    print(machine())
    for name, seconds in found.items():
        print(f"{name:14} {spread(seconds)} s")


if __name__ == "__main__":
    main()
