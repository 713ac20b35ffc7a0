import random
from collections import Counter

import pytest

from softnce_ray.corpus.pairs import Pair
from softnce_ray.corpus.sources import Source
from softnce_ray.corpus.spreading import Spread


def even(limit: int, sizes: list[int]) -> list[int]:
    """How many each gives, dealt one at a time to all that still have some: sorted."""
    given = [0] * len(sizes)
    while limit and given != sizes:
        for place, size in enumerate(sizes):
            if limit and given[place] < size:
                given[place] += 1
                limit -= 1
    return sorted(given)


def taken(files: dict[str, list[int]], limit: int, ahead: int) -> tuple[list[Pair], int, int]:
    """The pairs of files with so many each, with results that come `ahead` chunks late; files mined, pairs over."""
    sources = [Source(name, f"{n}.py", "") for name, each in files.items() for n in range(len(each))]
    spread = Spread(sources, limit)
    pairs: list[Pair] = []
    late: list[list[Source]] = []
    mined = 0

    def come(chunk):
        for source in chunk:
            count = files[source.package][int(source.path[:-3])]
            pairs.extend(spread.add([Pair("q", "c", "x", source.package, source.path, n, "f") for n in range(count)]))

    for chunk in spread.chunks(3):
        mined += len(chunk)
        late.append(list(chunk))
        if len(late) > ahead:
            come(late.pop(0))
    for chunk in late:
        come(chunk)
    rest, over = spread.rest()
    return [*pairs, *rest], mined, over["over_limit"]


@pytest.mark.parametrize("seed", range(12))
def test_every_package_gives_as_many_as_dealing_one_at_a_time_would(seed):
    draw = random.Random(seed)
    files = {f"p{n}": [draw.choice((0, 0, 1, 5, 60)) for _ in range(draw.randint(1, 30))] for n in range(9)}
    total = sum(map(sum, files.values()))
    for limit in (0, 1, 5, 40, total // 3, total - 1, total, total + 7):
        pairs, mined, over = taken(files, limit, ahead=0)
        counts = Counter(pair.package for pair in pairs)
        assert sorted(counts[name] for name in files) == even(limit, [sum(each) for each in files.values()])
        assert len({(pair.package, pair.path, pair.line) for pair in pairs}) == len(pairs)
        assert taken(files, limit, ahead=8) == (pairs, mined, over)


def test_a_small_limit_reads_a_few_files_of_each_package():
    files = {f"p{n}": [4] * 1000 for n in range(34)}
    pairs, mined, over = taken(files, 100, ahead=2)
    assert Counter(Counter(pair.package for pair in pairs).values()) == {3: 32, 2: 2}
    assert (mined, over) == (34, 36)
