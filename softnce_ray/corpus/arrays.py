"""Arrays that are written before their length is known."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.lib import format as npy


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
