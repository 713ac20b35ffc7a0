"""Corpora: real (query, code) pairs, mined from source trees or read from known formats, cleaned, split by
package, and stored as parquet with a manifest that says what was dropped and why, and a fingerprint."""

from softnce_ray.corpus.build import build_corpus, check_output
from softnce_ray.corpus.checking import check_corpus, examine_corpus
from softnce_ray.corpus.copying import copy_corpus
from softnce_ray.corpus.fetching import fetch_recipe, fetched_sources
from softnce_ray.corpus.formats import (
    FORMATS,
    Judgements,
    PairStream,
    Reading,
    detect_format,
    open_pairs,
    read_codesearchnet,
    read_cosqa,
    read_graphcodebert,
    read_judgements,
    read_table,
)
from softnce_ray.corpus.languages import LANGUAGES, Language
from softnce_ray.corpus.making import import_corpus, mine_corpus
from softnce_ray.corpus.manifest import Findings, Manifest
from softnce_ray.corpus.mining import Batch, Example, merge_batches, mine_sources
from softnce_ray.corpus.pairs import PAIR_SCHEMA, SPLITS, CorpusError, Pair
from softnce_ray.corpus.planting import plant
from softnce_ray.corpus.recipe import load_recipe, recipe_names
from softnce_ray.corpus.renaming import renamed
from softnce_ray.corpus.rephrasing import paraphrase
from softnce_ray.corpus.sources import (
    Source,
    SourceSet,
    python_environment,
    source_folder,
    source_languages,
    source_sets,
)
from softnce_ray.corpus.spool import Spool
from softnce_ray.corpus.store import Corpus

__all__ = [
    "FORMATS",
    "LANGUAGES",
    "PAIR_SCHEMA",
    "SPLITS",
    "Batch",
    "Corpus",
    "CorpusError",
    "Example",
    "Findings",
    "Judgements",
    "Language",
    "Manifest",
    "Pair",
    "PairStream",
    "Reading",
    "Source",
    "SourceSet",
    "Spool",
    "build_corpus",
    "check_corpus",
    "check_output",
    "copy_corpus",
    "detect_format",
    "examine_corpus",
    "fetch_recipe",
    "fetched_sources",
    "import_corpus",
    "load_recipe",
    "merge_batches",
    "mine_corpus",
    "mine_sources",
    "open_pairs",
    "paraphrase",
    "plant",
    "python_environment",
    "read_codesearchnet",
    "read_cosqa",
    "read_graphcodebert",
    "read_judgements",
    "read_table",
    "recipe_names",
    "renamed",
    "source_folder",
    "source_languages",
    "source_sets",
]
