"""Files that are opened to be read, whatever stands in their place, and arrays in them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from softnce_ray.corpus.arrays import load_array
from softnce_ray.estimators import load_sparse
from softnce_ray.files import expect_file, read_file, state_of


@pytest.mark.parametrize("read", [read_file, expect_file, state_of, load_array])
def test_what_is_no_file_is_said_at_once(tmp_path: Path, read) -> None:
    place = tmp_path / "place"
    with pytest.raises(FileNotFoundError):
        read(place)
    place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        read(place)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(OSError, match="a named pipe is in the place of a file"):
        read(place)
    place.unlink()
    place.mkdir()
    with pytest.raises(IsADirectoryError, match="a folder is in the place of a file"):
        read(place)
    with pytest.raises(OSError, match="a device is in the place of a file"):
        read("/dev/null")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(OSError, match=r"such device|a socket is in the place"):
            read(tmp_path / "s")


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == b"text"
    assert state_of(tmp_path / "link") == state_of(tmp_path / "file")


HEADER = b"\x93NUMPY\x01\x00v\x00"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        HEADER,
        HEADER + b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }".ljust(117) + b"\n",
        HEADER + b"{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }".ljust(117) + b"\n" + bytes(16),
        HEADER + b"{'descr': '<f4', 'fortran_order': False, 'shape': (2**62, 9), }".ljust(117) + b"\n",
        HEADER + b"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 9), }".ljust(117) + b"\n",
        HEADER + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n" + b"cos\nabort\n(tR.",
        HEADER + b"{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n" + bytes(16),
        HEADER + b"{'descr': None, 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n" + bytes(16),
        HEADER + b"((((((((((".ljust(117) + b"\n",
    ],
)
@pytest.mark.parametrize("mapped", [True, False])
def test_a_damaged_array_is_an_error_of_one_line_and_runs_no_code(tmp_path: Path, content: bytes, mapped: bool) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"expected .* in .*a\.npy, got") as told:
        load_array(path, mapped=mapped)
    assert "\n" not in str(told.value)


def test_arrays_that_do_not_fit_together_are_no_matrix(tmp_path: Path) -> None:
    """Products read what the numbers of columns point to: beyond the width that would be others' memory."""
    parts = {"shape": [2, 3], "starts": [0, 1, 2], "columns": [0, 2], "values": [1.0, 2.0]}

    def load(**changes: list[float]) -> np.ndarray:
        for name, values in {**parts, **changes}.items():
            np.save(tmp_path / f"m.{name}.npy", np.array(values, np.float32 if name == "values" else np.int32))
        return load_sparse(tmp_path / "m").toarray()

    assert load().tolist() == [[1, 0, 0], [0, 0, 2]]
    for changes in (
        {"columns": [0, 3]},
        {"columns": [0, -1]},
        {"starts": [0, 2, 1]},
        {"starts": [0, 1]},
        {"values": [1.0]},
        {"shape": [2, 3, 4]},
    ):
        with pytest.raises(ValueError, match=r"ind(ex|ices|ptr)|expected|unpack|length"):
            load(**changes)
