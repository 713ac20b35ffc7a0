"""A look at the files that a launch keeps its work in: where they were deleted, nothing more can be kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from softnce_ray import storage
from softnce_ray.preparation import Prepared
from softnce_ray.storage import Location
from softnce_ray.store import Store
from softnce_ray.study import again
from softnce_ray.study.attempts import BOOK
from softnce_ray.study.cluster import LaunchError
from softnce_ray.study.patience import Trying, at_once

_MARKER = ".validate_storage_marker"
"""Tune's, in the folder of a launch: without it no worker may keep a checkpoint."""


class VanishedError(LaunchError):
    """Files of a store that were deleted while a study ran. `of_tracking`: those of MLflow are among them."""

    of_tracking = False


class Watch:
    """The files of one launch. What is not there at first is looked for once it has been seen.

    Args:
      store, study, launch: whose files.
      prepared: what its trials read.
      trying: calls what uses an object store.
    """

    def __init__(
        self, store: Store, study: str, launch: str, prepared: Iterable[Prepared], trying: Trying = at_once
    ) -> None:
        self._store, self._study, self._trying = store, study, trying
        self._marker = store.checkpoints(study) / launch / _MARKER
        self._paths = list(dict.fromkeys(self._files(prepared)))
        self._seen: dict[Path, tuple[int, int]] = {}
        self.look()

    def _files(self, prepared: Iterable[Prepared]) -> Iterator[Path]:
        store, study = self._store, self._study
        tracking = [store.database, store.root / "artifacts" if store.artifact_root else None]
        places = [store.checkpoints(study) / BOOK, self._marker]
        for each in prepared:
            names = [each.tokens, *each.estimators.values(), each.groups, each.hard_negatives]
            places += [Location(each.root) / name for name in names if name]
        yield from (
            store.root,
            store.ray(study) / "lock",
            store.spool(study) / "journal.jsonl",
            store.root / "optuna.db",
            store.study_file(study),
            *(path for path in tracking if path is not None),
            *(place.path for place in places if place.path is not None),
        )

    def look(self, *, thorough: bool = False) -> None:
        """Compare what is there with what was.

        Args:
          thorough: look into an object store too.

        Raises:
          VanishedError: something is gone, or was made anew and holds less.
          AwayError: an object store cannot be asked.
        """
        gone: list[Path | Location] = [path for path in self._paths if self._is_gone(path)]
        if thorough and self._marker.path is None and self._trying(lambda: storage.read(self._marker)) is None:
            gone.append(self._marker)
        if gone:
            raise self._error(gone)

    def _is_gone(self, path: Path) -> bool:
        before = self._seen.get(path)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return before is not None
        except OSError:  # a disk in trouble says nothing of what lies on it
            return False
        if before is not None and found.st_ino != before[0] and found.st_size < before[1]:
            return True  # a database that is opened after it was deleted begins anew
        self._seen[path] = (found.st_ino, found.st_size)
        return False

    def _error(self, gone: list[Path | Location]) -> VanishedError:
        first = next((path for path in gone if path == self._store.root), gone[0])
        more = f" and {len(gone) - 1} more" if len(gone) > 1 and first != self._store.root else ""
        saved = self._store.study_file(self._study)
        how = again.command() if saved.exists() else "launching the study's file again"
        error = VanishedError(
            f"{first}{more}: expected to stay while the study runs, got deleted: see that nothing cleans up there; "
            f"what was recorded elsewhere is kept, and {how} goes on"
        )
        database = self._store.database
        error.of_tracking = database is not None and not {database, database.parent}.isdisjoint(gone)
        return error
