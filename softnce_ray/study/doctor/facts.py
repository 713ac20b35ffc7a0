"""What one node says of itself: plain data, made by a function that a Ray task can run there."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

import softnce_ray
from softnce_ray import storage
from softnce_ray.config import METHOD_VERSION
from softnce_ray.corpus.store import Corpus
from softnce_ray.corpus.verifying import Verify
from softnce_ray.digests import cache_folder
from softnce_ray.errors import UserError
from softnce_ray.storage import Location, StorageError

TRAINS_WITH = (
    "softnce-ray",
    "ray",
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "pyarrow",
)
"""Packages whose version may change what a trial computes, or whether it runs."""

RECORDS_WITH = ("mlflow", "optuna")
"""Packages that only the process uses that launches."""

MAY_LACK = ("peft",)
"""Packages that some studies need."""

METHOD = "method"
"""Stands among the versions for `METHOD_VERSION`."""


@dataclass(frozen=True)
class Questions:
    """What a node is asked.

    Attributes:
      folder: where files are tried: what machines share of the store, or the nearest folder above it that there is.
      token: names the file that the asking process left in `folder`; its content too.
      corpus: a corpus folder.
      folders: others that must be there.
      cuda: count the GPUs that torch sees, on nodes that Ray says have some; it takes seconds.
      trust_corpus: do not read the rows of the corpus.
    """

    folder: Path | Location
    token: str
    corpus: str | None = None
    folders: tuple[str, ...] = ()
    cuda: bool = False
    trust_corpus: bool = False


@dataclass(frozen=True)
class NodeFacts:
    """What a node answers. Sizes are in bytes.

    Attributes:
      python: its version.
      versions: of packages by name, and of the method; a package that is missing has none.
      code: digest of this package's source files.
      storage: why `Questions.folder` cannot be used; empty where it can be written, read and deleted.
      same_storage: whether the asking process' file was there.
      disk: free at `Questions.folder`, or where this node keeps what it reads from an object store.
      temporary: free where temporary files lie.
      memory: free now, for this container where it has a limit.
      memory_total: all there is, or the container's limit.
      open_files: how many files a process may open.
      clock: seconds since 1970.
      corpus: fingerprint of the corpus, or None.
      corpus_problem: why it cannot be read; empty where it can, or was not asked.
      missing: those of `Questions.folders` that are not there.
      cuda: number of GPUs that torch sees; None: not asked.
      bf16: whether the processor has units for matrices of bf16; None: unknown.
    """

    python: str
    versions: dict[str, str]
    code: str
    storage: str
    same_storage: bool
    disk: int
    temporary: int
    memory: int
    memory_total: int
    open_files: int
    clock: float
    corpus: str | None = None
    corpus_problem: str = ""
    missing: tuple[str, ...] = ()
    cuda: int | None = None
    bf16: bool | None = None


def facts_here(questions: Questions, answer: str = "") -> NodeFacts:
    """The facts of this process' machine. `answer` names a file that is left beside the asking process' own, for it to
    see and to delete; where its file is not, or is gone, nothing is left."""
    storage, same = _storage(questions, answer)
    fingerprint, problem = _corpus(questions)
    free, total = _memory()
    return NodeFacts(
        python=platform.python_version(),
        versions=_versions(),
        code=_code(),
        storage=storage,
        same_storage=same,
        disk=_free(Location.at(questions.folder).path or nearest_folder(cache_folder())),
        temporary=_free(Path(tempfile.gettempdir())),
        memory=free,
        memory_total=total,
        open_files=_open_files(),
        clock=time.time(),
        corpus=fingerprint,
        corpus_problem=problem,
        missing=tuple(folder for folder in questions.folders if not Path(folder).is_dir()),
        cuda=_cuda() if questions.cuda else None,
        bf16=_bf16(),
    )


def probe(place: Path | Location) -> str:
    """Write, read and delete a file; returns why that cannot be done, or nothing."""
    name = f".softnce-doctor-{secrets.token_hex(8)}"
    content = secrets.token_bytes(4096)  # a full disk takes an empty file
    folder = Location.at(place).path
    if folder is None:
        return _probe_object(Location.at(place) / name, content)
    file = folder / name
    what = "written"
    try:
        try:
            with file.open("xb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            what = "read"
            if file.read_bytes() != content:
                return "cannot be read: what was written came back changed"
            what = "deleted"
            file.unlink()
        finally:
            with contextlib.suppress(OSError):
                file.unlink()
    except OSError as error:
        return f"cannot be {what}: {error.strerror or error}"
    return ""


def _probe_object(place: Location, content: bytes) -> str:
    """`probe` of an object store."""
    try:
        storage.write(place, content)
        if storage.read(place) != content:
            return "cannot be read: what was written came back changed"
        storage.remove(place)
    except StorageError as error:
        return f"cannot be used: {error}"
    return ""


def _storage(questions: Questions, answer: str) -> tuple[str, bool]:
    place = Location.at(questions.folder)
    if place.path is not None and not place.path.is_dir():
        return "is not there", False
    problem = probe(place)
    try:
        same = storage.read(place / questions.token) == questions.token.encode()
        if same and answer and not problem:
            storage.write(place / answer, answer.encode())
    except OSError:
        same = False
    return problem, same


def nearest_folder(folder: Path) -> Path:
    """A folder, or the nearest above it that there is."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _versions() -> dict[str, str]:
    versions = {METHOD: str(METHOD_VERSION)}
    for name in (*TRAINS_WITH, *RECORDS_WITH, *MAY_LACK):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _code() -> str:
    root = Path(softnce_ray.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def _corpus(questions: Questions) -> tuple[str | None, str]:
    if questions.corpus is None:
        return None, ""
    try:
        verify = Verify.unless(questions.trust_corpus, Verify.ONCE)
        return Corpus.open(questions.corpus, verify=verify).fingerprint, ""
    except (UserError, OSError) as error:
        return None, " ".join(str(error).split())


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def _open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _memory() -> tuple[int, int]:
    """Free and all memory; a container's limit counts where it is lower than the machine's."""
    machine = psutil.virtual_memory()
    free, total = machine.available, machine.total
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        root = Path("/sys/fs/cgroup")
        try:
            most, now = int((root / limit).read_text()), int((root / used).read_text())
            lines = (root / used).with_name("memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # no such file, or "max"
            continue
        reusable = sum(int(line.split()[1]) for line in lines if line.startswith(f"{cache} "))
        free, total = min(free, max(0, most - now + reusable)), min(total, most)
    return free, total


def _cuda() -> int:
    """GPUs that torch sees, counted by a process of its own: importing torch takes seconds, and a task that reserves no
    GPU may have them hidden from it."""
    shown = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES" or value}
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    try:
        return int(subprocess.run(command, env=shown, capture_output=True, text=True, timeout=60, check=True).stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0


def _bf16() -> bool | None:
    """By what Linux says of the processor: x86 calls it amx_bf16, ARM bf16. With avx512_bf16 alone bf16 was slower than
    float32, see docs/fine_tuning.md."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    flags = [line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))]
    return bool({"amx_bf16", "bf16"} & set(flags[0])) if flags else None
