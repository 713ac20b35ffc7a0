"""Corpora: real (query, code) pairs, mined from source trees or read from known formats, cleaned, split by
package, and stored as parquet with a manifest that says what was dropped and why, and a fingerprint."""

from softnce_ray.corpus.build import build_corpus, check_output
from softnce_ray.corpus.formats import Reading, read_codesearchnet
from softnce_ray.corpus.languages import LANGUAGES, Language
from softnce_ray.corpus.making import import_corpus, mine_corpus
from softnce_ray.corpus.mining import Batch, Example, merge_batches, mine_sources
from softnce_ray.corpus.pairs import PAIR_SCHEMA, SPLITS, CorpusError, Pair
from softnce_ray.corpus.planting import plant
from softnce_ray.corpus.renaming import renamed
from softnce_ray.corpus.rephrasing import paraphrase
from softnce_ray.corpus.sources import Source, SourceSet, python_environment, source_folder
from softnce_ray.corpus.store import Corpus, Manifest

__all__ = [
    "LANGUAGES",
    "PAIR_SCHEMA",
    "SPLITS",
    "Batch",
    "Corpus",
    "CorpusError",
    "Example",
    "Language",
    "Manifest",
    "Pair",
    "Reading",
    "Source",
    "SourceSet",
    "build_corpus",
    "check_output",
    "import_corpus",
    "merge_batches",
    "mine_corpus",
    "mine_sources",
    "paraphrase",
    "plant",
    "python_environment",
    "read_codesearchnet",
    "renamed",
    "source_folder",
]
