import numpy as np
import pytest

from softnce_ray.corpus.arrays import GrowingArray


@pytest.mark.parametrize("width", [None, 3])
@pytest.mark.parametrize("sizes", [[], [0], [1, 0, 7], [100_000, 12]])
def test_a_grown_array_is_what_numpy_reads_and_maps(tmp_path, sizes, width):
    generator = np.random.default_rng(0)
    parts = [generator.random((size,) if width is None else (size, width), np.float32) for size in sizes]
    with GrowingArray(tmp_path / "a.npy", np.float32, width) as array:
        for part in parts:
            array.append(part)
    found = np.load(tmp_path / "a.npy", mmap_mode="r" if sum(sizes) else None)
    empty = np.zeros((0,) if width is None else (0, width), np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.concatenate([empty, *parts]))


def test_numbers_are_written_in_the_arrays_own_type(tmp_path):
    with GrowingArray(tmp_path / "a.npy", np.uint16) as array:
        array.append(np.array([1, 65_535], np.int64))
    assert np.load(tmp_path / "a.npy").tolist() == [1, 65_535]


def test_rows_of_another_width_are_refused(tmp_path):
    with pytest.raises(ValueError, match="shape"), GrowingArray(tmp_path / "a.npy", np.float32, 2) as array:
        array.append(np.zeros((1, 3), np.float32))
