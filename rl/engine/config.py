"""Sizes of an engine."""

from dataclasses import dataclass

from models.cached_backends import CachedBackend
from models.errors import UserError
from models.ranges import Count, CountOrZero, check_fields


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Sizes of an engine; every program is compiled for exactly these.

    Attributes:
      slots: sequences decoded together, over all devices.
      max_length: longest prompt plus completion, in tokens.
      cache_tokens: tokens that the cache has room for, over all devices; 0 means
        ``slots`` sequences of ``max_length``. Most are shorter, so the same memory
        serves more slots. With too little, fewer prefixes are found again, and when
        many sequences get long at once the latest of them start again.
      decode_steps: tokens that a slot may gain per dispatch; in between, the host looks
        for stop strings, finishes sequences and admits others.
      prefill_chunk: tokens per chunk of a prompt, cut at absolute positions; the unit
        in which prefixes are shared.
      prefill_rows: chunks (lines of the batch) per prefill dispatch and device.
      prefill_calls: most prefill dispatches between two decode dispatches.
      page_size: cache positions per page, which is read as a whole; a multiple of
        ``prefill_chunk``.
      max_stop_ids: most stop ids per request.
      attention: how sampled tokens attend to the cache, see ``models.cached_backends``:
        auto is blocks; on NVIDIA GPUs also pallas or fa3.
    """

    slots: Count = 64
    max_length: Count = 1024
    cache_tokens: CountOrZero = 0
    decode_steps: Count = 8
    prefill_chunk: Count = 64
    prefill_rows: Count = 4
    prefill_calls: Count = 64
    page_size: Count = 128
    max_stop_ids: Count = 8
    attention: CachedBackend = "auto"

    def __post_init__(self):
        check_fields(self)

    @property
    def table(self) -> int:
        """Pages of the longest sequence."""
        return -(-self.max_length // self.page_size)

    def pages(self, devices: int) -> int:
        """Pages of the cache on each of ``devices`` devices.

        Raises:
          UserError: if the sizes don't fit together.
        """
        if self.slots % devices:
            raise UserError(
                f"slots={self.slots}: must be a multiple of the {devices} devices"
            )
        if self.page_size % self.prefill_chunk:
            raise UserError(
                f"page_size={self.page_size}: must be a multiple of "
                f"prefill_chunk={self.prefill_chunk}"
            )
        if not self.cache_tokens:
            return self.slots // devices * self.table
        pages = self.cache_tokens // (devices * self.page_size)
        if pages < self.table:
            raise UserError(
                f"cache_tokens={self.cache_tokens}: on {devices} devices, not even one "
                f"sequence of max_length={self.max_length} fits: raise it to "
                f"{self.table * self.page_size * devices} or more"
            )
        return pages
