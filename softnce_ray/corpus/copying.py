"""Copies of a corpus in other storages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from softnce_ray.corpus.manifest import MANIFEST_NAME, Manifest, parse_manifest
from softnce_ray.corpus.pairs import CorpusError
from softnce_ray.corpus.store import Corpus, tables
from softnce_ray.corpus.verifying import Verify
from softnce_ray.folders import appearing
from softnce_ray.storage import Location, local, read, upload

Copied = Callable[[int, int], None]
"""Called with (files done, files in all)."""


def copy_corpus(source: str | Path, target: str | Path, *, progress: Copied = lambda done, total: None) -> Manifest:
    """Copy a corpus, from a folder or a URI to another. The manifest comes last, so that a copy that was cut off is no
    corpus, and is made again. A target that holds the same corpus is left as it is.

    Args:
      source: the corpus; all its rows are read and compared with its manifest first.
      target: where it will be found: a folder, or a URI such as `s3://bucket/corpora/mine`.
      progress: called after each file.

    Raises:
      CorpusError: the corpus is damaged, or another one, or something else, lies at the target.
      StorageError: the target is no place, or the storage cannot be read or written.
      OSError: the folder cannot be written.
    """
    place = Location.at(target)
    if place.path is not None:
        local(place.path, "TARGET", "")  # what lies below a file is said in time
    corpus = Corpus.open(source, verify=Verify.ALL)
    _check_target(corpus, place)
    if read(place / MANIFEST_NAME) is not None:
        return corpus.manifest
    files = [*tables(corpus.manifest), MANIFEST_NAME]
    if place.path is None:
        for number, name in enumerate(files, 1):
            upload(corpus.folder, place, [name])
            progress(number, len(files))
        return corpus.manifest
    with appearing(place.path) as folder:
        for number, name in enumerate(files, 1):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(corpus.folder / name, folder / name)
            progress(number, len(files))
    return corpus.manifest


def _check_target(corpus: Corpus, place: Location) -> None:
    content = read(place / MANIFEST_NAME)
    if content is not None:
        there = parse_manifest(content, str(place / MANIFEST_NAME)).fingerprint
        if there != corpus.fingerprint:
            raise CorpusError(
                f"expected nothing or the same corpus ({corpus.fingerprint[:12]}) at {place}, got another "
                f"({there[:12]}): choose another place, or delete that one"
            )
    elif place.path is not None and place.path.exists() and (not place.path.is_dir() or any(place.path.iterdir())):
        raise CorpusError(f"expected nothing at {place}, got something that is no corpus: choose another place")
