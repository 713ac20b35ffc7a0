"""What the nodes' facts mean for a study: pure functions from facts to findings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from softnce_ray.config import Resources, StudyConfig
from softnce_ray.study.cluster import MAKE_ROOM, no_room, trials_on, workers_on
from softnce_ray.study.doctor.asking import Node
from softnce_ray.study.doctor.facts import MAY_LACK, METHOD, RECORDS_WITH, NodeFacts
from softnce_ray.study.doctor.finding import Finding, size
from softnce_ray.study.doctor.needs import Needs

_FILES = 1024
"""Files that a process should be able to open: maps of token ids and estimators, and a connection to each worker."""

_CLOCKS = 5.0
"""Seconds by which clocks may differ."""

_LEAST_DISK = 200_000_000
"""Bytes that a store needs whatever the study: databases, logs, records that wait to be sent."""


def answers(nodes: Sequence[Node]) -> list[Finding]:
    """Which nodes answered."""
    silent = [
        Finding(
            "nodes",
            "error",
            f"{node.name}: {node.silence}",
            "install this version of softnce-ray there, in the Python that Ray was started with"
            if "ModuleNotFoundError" in node.silence
            else "look at that machine and at Ray's log there; restart Ray on it, or take it out of the cluster",
        )
        for node in nodes
        if node.facts is None
    ]
    if not nodes:
        return [Finding("nodes", "error", "no node of the cluster has CPUs or GPUs", "start Ray on a machine that has")]
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    told = f"{len(nodes)} with {cpus:g} CPUs and {gpus:g} GPUs"
    return silent or [Finding("nodes", "ok", told)]


def versions(here: NodeFacts, nodes: Sequence[Node]) -> list[Finding]:
    """Whether all nodes have this process' versions."""
    found = []
    for node, facts in _answered(nodes):
        if _minor(facts.python) != _minor(here.python):
            found.append(
                Finding(
                    "versions",
                    "error",
                    f"{node.name}: Python {facts.python}, here {here.python}",
                    "start Ray on all nodes from the same Python",
                )
            )
        wrong, build = _different(here.versions, facts.versions)
        if wrong:
            found.append(
                Finding(
                    "versions",
                    "error",
                    f"{node.name}: {_pairs(wrong)}",
                    f"install what is here on every node, and restart Ray there: {_install(wrong)}",
                )
            )
        if build:
            found.append(
                Finding(
                    "versions",
                    "warning",
                    f"{node.name}: {_pairs(build)}",
                    "trials compute the same, though perhaps not to the last bit; install the same build everywhere",
                )
            )
        if facts.code != here.code and not wrong:
            found.append(
                Finding(
                    "versions",
                    "warning",
                    f"{node.name}: softnce-ray has the same version but other source files",
                    "copy this checkout, or install it anew, on every node, and restart Ray there",
                )
            )
    told = ", ".join(
        f"{name} {here.versions[name]}" for name in ("softnce-ray", "ray", "torch") if name in here.versions
    )
    where = "" if len(nodes) == 1 else ", the same on all nodes"
    return found or [Finding("versions", "ok", f"Python {here.python}, {told}{where}")]


def _different(
    here: Mapping[str, str], there: Mapping[str, str]
) -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
    """Packages (there, here) that hurt where they differ, and those that hardly do: another build of the same version,
    and what only records."""
    wrong: dict[str, tuple[str, str]] = {}
    build: dict[str, tuple[str, str]] = {}
    for name in sorted(here.keys() | there.keys()):
        pair = (there.get(name, "none"), here.get(name, "none"))
        if pair[0] == pair[1] or (name in MAY_LACK and "none" in pair):
            continue
        alike = pair[0].split("+")[0] == pair[1].split("+")[0]
        (build if alike or name in RECORDS_WITH else wrong)[name] = pair
    return wrong, build


def _pairs(different: Mapping[str, tuple[str, str]]) -> str:
    return ", ".join(f"{name} {there}, here {here}" for name, (there, here) in different.items())


def _install(different: Mapping[str, tuple[str, str]]) -> str:
    wanted = [
        f"{name}=={here}"
        for name, (_, here) in different.items()
        if name not in (METHOD, "softnce-ray") and here != "none"
    ]
    ours = ["this softnce-ray"] if METHOD in different or "softnce-ray" in different else []
    return ", ".join([*ours, *wanted]) or "or remove what is not here"


def _minor(python: str) -> list[str]:
    return python.split(".")[:2]


def storage(store: str, there: bool, nodes: Sequence[Node]) -> list[Finding]:
    """Whether every node can use the store at the path `store`, and all have the same one. `there`: it is there
    already."""
    found = []
    for node, facts in _answered(nodes):
        where = store if len(nodes) == 1 else f"{node.name}: {store}"
        if facts.storage:
            remedy = "choose another folder with --store (or SOFTNCE_STORE), or mend its permissions"
            if facts.storage.startswith("cannot be used"):  # an object store, whose error says what to do
                remedy = "or choose another with --storage (or SOFTNCE_STORAGE)"
            elif "No space" in facts.storage or "quota" in facts.storage:
                remedy = "free disk space there, or choose another folder with --store (or SOFTNCE_STORE)"
            elif facts.storage == "is not there":
                remedy = "mount the same storage on every node under this path, and give it with --store"
            found.append(Finding("storage", "error", f"{where} {facts.storage}", remedy))
        elif not (facts.same_storage and node.answer_seen):
            found.append(
                Finding(
                    "storage",
                    "error",
                    f"{where} is another storage than here: a file written here is not seen there, or the other way "
                    "round",
                    "mount the same storage on every node under this path, and give it with --store",
                )
            )
    shared = "" if len(nodes) == 1 else " from all nodes, the same on all"
    state = "can be written, read and deleted" if there else "would be made; can be written, read and deleted there"
    return found or [Finding("storage", "ok", f"{store} {state}{shared}")]


def corpora(corpus: str, fingerprint: str, nodes: Sequence[Node]) -> list[Finding]:
    """Whether every node reads the same corpus, and finds the models that are named by folder."""
    found = []
    for node, facts in _answered(nodes):
        same = "copy the corpus there under the same path, or keep it on storage that all nodes see"
        if facts.corpus_problem:
            found.append(Finding("corpus", "error", f"{node.name}: {facts.corpus_problem}", same))
        elif facts.corpus != fingerprint:
            text = f"{node.name}: {corpus} is another corpus, {str(facts.corpus)[:12]}; here {fingerprint[:12]}"
            found.append(Finding("corpus", "error", text, same))
        found += [
            Finding(
                "models",
                "error",
                f"{node.name}: expected a model at {folder}, got nothing",
                "copy it there under the same path, or keep it on storage that all nodes see",
            )
            for folder in facts.missing
        ]
    shared = "" if len(nodes) == 1 else ", the same on all nodes"
    return found or [Finding("corpus", "ok", f"{corpus}, fingerprint {fingerprint[:12]}{shared}")]


def reservations(study: StudyConfig) -> list[Finding]:
    """What a study's resources say that hurts on any cluster."""
    found, resources = [], study.resources
    threads = resources.resolved_threads
    if threads > max(1, resources.cpus):
        found.append(
            Finding(
                "resources",
                "warning",
                f"a trial runs {threads} threads on {resources.cpus:g} CPUs: trials slow each other down",
                f"set resources.cpus: {threads}, or leave resources.threads away",
            )
        )
    if resources.gpus and all(arm.encoder.kind == "bag" for arm in study.arms.values()):
        found.append(
            Finding(
                "resources",
                "warning",
                f"each trial reserves {resources.gpus:g} GPUs, and every arm trains a bag of embeddings, which takes "
                "seconds on a CPU: fewer trials run at once",
                "set resources.gpus: 0",
            )
        )
    return found


def room(resources: Resources, nodes: Sequence[Node], free: Mapping[str, float]) -> list[Finding]:
    """Whether the cluster has what a trial asks for, and has it `free` now."""
    places = [node.resources for node in nodes]
    slots = trials_on(places, resources)
    if not slots and resources.autoscale:
        return [Finding("resources", "ok", f"no room yet for a trial of {_asked(resources)}: nodes are to be added")]
    if not slots:
        return [Finding("resources", "error", no_room(resources, places), MAKE_ROOM)]
    found = []
    if not any(node.cpus >= 1 for node in nodes):
        found.append(
            Finding(
                "resources",
                "error",
                "no node has a whole CPU, which preparing tokens and estimators takes",
                "start Ray with --num-cpus=1 or more on a node",
            )
        )
    found += _cuda(resources, nodes)
    planned = min(slots, resources.max_concurrent or slots)
    found += _workers(resources, nodes)
    if taken := [name for name, count in resources.asked.items() if count and free.get(name, 0) + 1e-9 < count]:
        found.append(
            Finding(
                "resources",
                "warning",
                f"all {' and '.join(f'{name}s' for name in taken)} of the cluster are in use: trials wait",
                "wait for what runs there to end",
            )
        )
    return found or [Finding("resources", "ok", f"{planned} trials at once, each {_asked(resources)}")]


def _cuda(resources: Resources, nodes: Sequence[Node]) -> list[Finding]:
    return [
        Finding(
            "resources",
            "error",
            f"{node.name}: trials ask for cuda, and torch sees {facts.cuda} GPUs there"
            + (f", Ray {node.gpus:g}" if node.gpus else ""),
            "install a build of torch with CUDA and a driver for it there, or set resources.device: cpu and gpus: 0",
        )
        for node, facts in _answered(nodes)
        if workers_on(node.resources, resources) and facts.cuda is not None and facts.cuda < max(1, node.gpus)
    ]


def _asked(resources: Resources) -> str:
    gpus = f" and {resources.gpus:g} GPUs" if resources.gpus else ""
    memory = f" and {resources.memory:g} GB" if resources.memory else ""
    each = f" for each of {resources.workers} workers" if resources.workers > 1 else ""
    return f"{resources.cpus:g} CPUs{gpus}{memory}{each}"


def _workers(resources: Resources, nodes: Sequence[Node]) -> list[Finding]:
    """Several workers send one another their gradients in every step, which pays where a step is long: on GPUs, or
    where one machine is too small."""
    if resources.workers == 1:
        return []
    found = []
    if not resources.gpus:
        found.append(
            Finding(
                "resources",
                "warning",
                f"{resources.workers} workers train each trial on CPUs: as many trials side by side end sooner than "
                "one after another",
                "set resources.workers: 1, unless memory asks for it",
            )
        )
    most = max((workers_on(node.resources, resources) for node in nodes), default=0)
    if most < resources.workers:
        found.append(
            Finding(
                "resources",
                "warning",
                f"the {resources.workers} workers of a trial lie on several nodes: gradients go through the network in "
                "every step",
                f"set resources.workers: {max(1, most)}, unless the network is as fast as the GPUs ask for",
            )
        )
    return found


def sizes(study: StudyConfig, need: Needs, nodes: Sequence[Node], *, on_disk: bool = True) -> list[Finding]:
    """Whether memory and disk are enough for the trials that run at once, and for what stays; `on_disk`: the latter
    lies on the nodes' disks and in no object store."""
    resources = study.resources
    found: list[Finding] = []
    slots = trials_on([node.resources for node in nodes], resources)
    planned = min(slots, resources.max_concurrent or slots)
    for node, facts in _answered(nodes):
        here = min(workers_on(node.resources, resources), planned * resources.workers)
        if here:
            found += _memory(node, facts, here, need)
            found += _temporary(node, facts, here, need)
    if on_disk:
        found += _disk(planned, need, [facts for _, facts in _answered(nodes)])
    if need.unknown:
        found.append(
            Finding(
                "sizes",
                "warning",
                f"memory and disk are estimated without the models {', '.join(need.unknown)}, which are not here yet",
                "have free what they take: 16 times their number of parameters in bytes for each trial that runs, of "
                "memory and twice of disk",
            )
        )
    if any(finding.level != "ok" for finding in found) or not slots:
        return [finding for finding in found if finding.level != "ok"]
    text = f"about {size(need.memory)} of memory a trial; about {size(_live(planned, need) + need.lasting)} of disk"
    return [Finding("sizes", "ok", text)]


def _memory(node: Node, facts: NodeFacts, slots: int, need: Needs) -> list[Finding]:
    text = (
        f"{node.name}: {slots} trials of about {size(need.memory)} at once, and {size(facts.memory)} of memory free "
        f"of {size(facts.memory_total)}"
    )
    fit = facts.memory // need.memory
    if slots * need.memory > facts.memory_total or not fit:
        remedy = f"set resources.max_concurrent: {fit}, or use" if fit else "use"
        return [Finding("memory", "error", text, f"{remedy} a smaller encoder or batch, or a machine with more memory")]
    if slots * need.memory > facts.memory:
        return [Finding("memory", "warning", text, f"end other programs there, or set resources.max_concurrent: {fit}")]
    return []


def _temporary(node: Node, facts: NodeFacts, slots: int, need: Needs) -> list[Finding]:
    """A checkpoint is written to a temporary folder before it goes to the store."""
    if slots * need.checkpoint <= facts.temporary:
        return []
    text = (
        f"{node.name}: checkpoints of about {size(slots * need.checkpoint)} pass through the folder of temporary "
        f"files, which has {size(facts.temporary)} free"
    )
    return [Finding("disk", "error", text, "free space there, or set TMPDIR to a larger disk before Ray is started")]


def _live(slots: int, need: Needs) -> int:
    """Two epochs' checkpoints of every trial that runs: the new one is whole before the old one goes."""
    return _LEAST_DISK + 2 * slots * need.checkpoint


def _disk(slots: int, need: Needs, facts: Iterable[NodeFacts]) -> list[Finding]:
    """One storage, of which nodes may have different views: the least counts. What lasts may be there already, so that
    it only warns."""
    free = min((each.disk for each in facts if not each.storage), default=None)
    live = _live(slots, need)
    if free is None or free >= live + need.lasting:
        return []
    remedy = "free space there, or choose another folder with --store (or SOFTNCE_STORE)"
    if free < live:
        text = f"checkpoints of {slots} trials at once take about {size(live)}, and the store has {size(free)} free"
        return [Finding("disk", "error", text, remedy)]
    text = (
        f"checkpoints, tokens and models take about {size(live + need.lasting)} unless they are there already, and the "
        f"store has {size(free)} free"
    )
    return [Finding("disk", "warning", text, remedy)]


def disk(nodes: Sequence[Node]) -> list[Finding]:
    """Whether there is any space, where no study says how much is needed."""
    free = min((facts.disk for _, facts in _answered(nodes) if not facts.storage), default=None)
    if free is None:
        return []
    if free < _LEAST_DISK:
        remedy = "free space there, or choose another folder with --store (or SOFTNCE_STORE)"
        return [Finding("disk", "error", f"the store has {size(free)} free", remedy)]
    return [Finding("disk", "ok", f"the store has {size(free)} free")]


def limits(nodes: Sequence[Node]) -> list[Finding]:
    """Limits of the nodes' systems that bite in the middle of a study."""
    found = []
    for node, facts in _answered(nodes):
        if facts.open_files < _FILES:
            text = f"{node.name}: a process may open {facts.open_files} files, expected {_FILES} or more"
            found.append(Finding("limits", "warning", text, f"ulimit -n {8 * _FILES} before Ray is started"))
        if abs(node.clock_off) > _CLOCKS:
            way = "ahead" if node.clock_off > 0 else "behind"
            text = f"{node.name}: its clock is {abs(node.clock_off):.0f} s {way}: times of runs will not fit together"
            found.append(Finding("limits", "warning", text, "set the clocks by a time server (NTP) on all nodes"))
    return found


def _answered(nodes: Iterable[Node]) -> list[tuple[Node, NodeFacts]]:
    return [(node, node.facts) for node in nodes if node.facts is not None]
