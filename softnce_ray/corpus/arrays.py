"""Arrays in files: written before their length is known, and read whatever the files hold."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.lib import format as npy

from softnce_ray.files import expect_file


def load_array(path: str | Path, *, dimensions: int | None = None, mapped: bool = True) -> np.ndarray:
    """Return the array of numbers in a `.npy` file; nothing is ever unpickled.

    Args:
      path: the file.
      dimensions: that the array must have; None: any number.
      mapped: map the file instead of reading it.

    Raises:
      OSError: there is no such file, or something else is in its place.
      ValueError: the file holds no array of numbers, or not all of it.
    """
    try:
        with np.errstate(over="ignore"):  # of sizes in a damaged header
            array = np.load(expect_file(path), mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # of a damaged header: of the parser's kinds, and of those of sizes beyond all memory
        raise ValueError(f"expected an array in {path}, got {' '.join(str(error).split()) or error!r}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise ValueError(f"expected an array of numbers in {path}, got {getattr(array, 'dtype', 'an archive')}")
    if dimensions is not None and array.ndim != dimensions:
        raise ValueError(f"expected {dimensions} dimensions in {path}, got shape {array.shape}")
    return array


class GrowingArray:
    """A `.npy` file that rows are added to: what is written is on disk, not in memory.

    A context manager; only when it ends well is the file an array, which `np.load` reads and maps.
    """

    def __init__(self, path: Path, dtype: np.dtype | type, width: int | None = None) -> None:
        """`width` is that of the rows; None: the array has one dimension."""
        self.length = 0
        self._dtype = np.dtype(dtype)
        self._tail = () if width is None else (width,)
        self._file = open(path, "wb")  # noqa: SIM115
        self._data_starts = self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """Add rows at the end, in the array's own type."""
        if rows.shape[1:] != self._tail:
            raise ValueError(f"expected rows of shape {self._tail}, got {rows.shape[1:]}")
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self.length += len(rows)

    def _write_header(self) -> int:
        # numpy leaves room in a header for any length, so that a longer one can take its place.
        shape = (self.length, *self._tail)
        content = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, content)
        return self._file.tell()

    def __enter__(self) -> GrowingArray:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._file.seek(0)
                assert self._write_header() == self._data_starts
        finally:
            self._file.close()
