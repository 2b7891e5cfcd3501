"""What search takes: host memory, memory of GPUs, and time of a step's searches.

From the number of passages, the width of their vectors and the type of the index;
nothing is opened but the first megabytes of the passages, if they are there.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from models.errors import UserError
from models.hf.published import ENCODER_WIDTHS
from retrieval import approximate, forms, store
from retrieval.config import RetrievalConfig
from retrieval.index import FLAT
from retrieval.lexical import words
from scope_jax.config import Config

WIKIPEDIA = 21_015_324
"""Passages of the dump of 2018 that the reference searches; assumed where there is no
file."""
SAMPLE = 1 << 22
SMALL = 1 << 24
"""Characters of a text whose passages are counted before it has a store."""
CORE = 106e9
"""FLOP/s of FAISS's matrix product on one core (docs/performance.md)."""
LOADING = 4 + 2 + 2
"""Bytes per number while FAISS copies a share to its GPU: as it comes, in float16, and
where it stays."""
SCRATCH = 1.5 * 2**30
"""Bytes that FAISS takes on each GPU to work with."""
SEARCHES = 2
"""Searches of a conversation, assumed; a step's metrics have the number of a run."""


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """Search in the inference process.

    Attributes:
      passages: how many; ``counted``: from a file, otherwise assumed.
      dim: numbers of a vector.
      index: FAISS's factory string.
      host: bytes of host memory.
      gpu: bytes on each of its GPUs; ``loading``: while the index is copied there.
      room: bytes that JAX leaves on each of these GPUs.
      gpus: GPUs of a flat index; 0: on the CPU.
      searches: of a step of the Solver.
      seconds: for them on this machine's cores; None where it depends on the index.
    """

    passages: int
    counted: bool
    dim: int
    index: str
    host: float
    gpu: float
    loading: float
    room: float
    gpus: int
    searches: int
    seconds: float | None

    def check(self) -> None:
        """Raises a ``UserError`` where GPUs have no room for their share."""
        if self.loading > self.room:
            raise UserError(
                f"retrieval.gpus={self.gpus}: each takes {self.loading / 1e9:.1f} GB "
                f"while the index is copied there, and JAX leaves {self.room / 1e9:.1f}"
                ": use more, or lower placement.inference.memory_fraction"
            )

    def __str__(self) -> str:
        where = f"{self.host / 1e9:.1f} GB of host memory"
        if self.gpus:
            where = (
                f"{self.gpu / 1e9:.1f} GB on each of {self.gpus} GPUs, beside what JAX "
                f"takes there, and at the start {self.loading / 1e9:.1f} GB and {where}"
            )
        number = f"{self.passages:,} passages{'' if self.counted else ' (assumed)'}"
        said = f"search: {number} of {self.dim} numbers, {self.index}: {where}"
        if self.seconds is None:
            return said
        return (
            f"{said}\nsearch: about {self.seconds:,.0f} s for the {self.searches:,} "
            f"searches of a Solver step at {SEARCHES} per conversation, on the "
            f"{os.cpu_count()} cores of this machine, 64 queries or more together"
        )


def plan(config: Config) -> SearchPlan | None:
    """What a run's own search by vectors takes; None where there are none.

    Raises:
      UserError: FAISS knows no such index, or there are fewer GPUs.
    """
    served, settings = config.inference, config.retrieval
    elsewhere = served.url or served.retrieval_url or config.tools
    if elsewhere or settings.ranking == "bm25":
        return None
    seen = config.placement.inference.gpus()
    if seen is not None and settings.gpus > len(seen):
        raise UserError(
            f"retrieval.gpus={settings.gpus}: placement.inference.devices names "
            f"{len(seen)}: lower it, or name more"
        )
    count, counted = count_of(settings)
    dim = width_of(settings)
    size = approximate.bytes_per_vector(settings.index, dim) * count
    share = dim * count / settings.gpus if settings.gpus else 0.0
    stage = config.solver_train
    searches = SEARCHES * stage.prompts_per_step * stage.group_size
    seconds = None
    if settings.index == FLAT and not settings.gpus:
        seconds = searches * 2 * count * dim / (CORE * (os.cpu_count() or 1))
    return SearchPlan(
        passages=count,
        counted=counted,
        dim=dim,
        index=settings.index,
        host=size,
        gpu=2 * share + SCRATCH if share else 0.0,
        loading=LOADING * share + SCRATCH if share else 0.0,
        room=config.placement.left_bytes,
        gpus=settings.gpus,
        searches=searches,
        seconds=seconds,
    )


def count_of(settings: RetrievalConfig) -> tuple[int, bool]:
    """How many passages there are, and whether that is from a file.

    Of a large file, from the lines of its first megabytes. Of text that is searched in
    a store, once that is written; before, only of a text that is not large, and about.
    """
    file = Path(settings.passages).expanduser()
    if store.is_needed(settings):
        if written := store.find(settings):
            return written.counts.passages, True
        found = passages_to_come(settings)
        return (WIKIPEDIA, False) if found is None else (len(found), True)
    if not settings.passages or not file.is_file():
        return WIKIPEDIA, False
    with file.open("rb") as stream:
        sample = stream.read(SAMPLE)
    lines = max(sample.count(b"\n"), 1)
    return round(lines * file.stat().st_size / max(len(sample), 1)), True


def passages_to_come(settings: RetrievalConfig) -> list[list[str]] | None:
    """Words of the passages that a text will have in a store, about; None: it is large.

    Raises:
      UserError: naming file and line of what can't be read.
    """
    path, size, found = Path(settings.passages).expanduser(), 0, []
    for document in forms.documents(path, columns=settings.columns, replace=True):
        size += len(document.passage.text)
        if size > SMALL:
            return None
        text = words(document.passage.contents)
        each = settings.cut_tokens or max(len(text), 1)
        found += [text[i : i + each] for i in range(0, len(text), each)]
    return found


def width_of(settings: RetrievalConfig) -> int:
    """Numbers of a vector; 768, as of most encoders, where nothing says more."""
    if settings.encoder == "lexical":
        return settings.lexical_dim
    return ENCODER_WIDTHS.get(settings.encoder_path, 768)
