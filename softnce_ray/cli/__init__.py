"""The command line: a thin layer over functions that Python code can call as well.

Everything heavy is imported by the command that needs it, so that `--help` is instant.
"""

from __future__ import annotations

import gc
import signal
import sys
import traceback

import typer

from softnce_ray.cli import corpora, doctor, jobs, models, power, results, searching, selection, studies
from softnce_ray.cli.options import hide_password
from softnce_ray.cli.usage import Commands
from softnce_ray.errors import UserError
from softnce_ray.terminal import to_stderr

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,  # boxes are for people
    pretty_exceptions_enable=False,
    help="Which way of treating negatives trains the best code search model? Launch ablations on Ray, compare "
    "them in MLflow, export the best.",
)
app.add_typer(corpora.app, name="corpus")
for command in (
    studies.launch,
    studies.resume,
    studies.extend,
    studies.sync,
    jobs.submit,
    jobs.status,
    jobs.logs,
    jobs.stop,
    doctor.doctor,
    results.report,
    power.power,
    selection.best,
    models.export,
    searching.index,
    searching.search,
    searching.evaluate,
    results.ui,
    studies.schema,
):
    app.command()(command)


_signals: list[int] = []
"""The latest signal that ended a command."""


def main() -> None:
    """Entry point: what a user can mend is a line on stderr and exit status 2."""
    hide_password()
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is to be ignored
        signal.signal(signal.SIGINT, _interrupt)
    if sys.argv[1:2] == ["report"]:
        gc.disable()  # what imports make stays: looking through it for garbage takes half a second of three
    try:
        app()
    except SystemExit as ended:
        if ended.code == 130 and _signals == [signal.SIGTERM]:
            sys.exit(143)
        raise
    except UserError as error:
        to_stderr(f"softnce-ray: {error}")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            to_stderr(f"softnce-ray: {error.filename}: {error.strerror}: give another path")
            sys.exit(2)
        to_stderr(traceback.format_exc().rstrip("\n"))  # its words may be those of a file
        sys.exit(1)
    finally:
        gc.enable()


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM ends a command as Ctrl-C does: with what is half made put away, and a line."""
    _signals[:] = [number]
    to_stderr("softnce-ray: interrupted")
    raise KeyboardInterrupt
