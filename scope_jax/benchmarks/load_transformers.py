"""The peer of ``load``: transformers' own loader in an interpreter with torch."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def peak_of(work: Callable[[], T]) -> tuple[T, int]:
    """What ``work`` returns, and how many bytes more were resident at its peak.

    Linux only; elsewhere the bytes are 0.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return work(), 0

    def resident(field: str) -> int:
        lines = status.read_text().splitlines()
        line = next(line for line in lines if line.startswith(field + ":"))
        return int(line.split()[1]) * 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    result = work()
    return result, resident("VmHWM") - before


def main() -> None:
    """Say that it is ready, then load once for every line of the input."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = json.loads(sys.argv[1])
    transformers.utils.logging.disable_progress_bar()
    AutoConfig.from_pretrained(settings["model"])

    def load() -> float:
        start = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(
            settings["model"], dtype=getattr(torch, settings["dtype"])
        )
        for tensor in model.state_dict().values():
            tensor.view(-1)[::1024].sum()  # a mapped file is read when it is touched
        return time.perf_counter() - start

    ready = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(ready), flush=True)
    peak = 0
    for _ in sys.stdin:
        seconds, more = peak_of(load)
        peak = peak or more  # later turns find the first one's memory still resident
        print(json.dumps({"seconds": seconds, "peak": peak}), flush=True)


if __name__ == "__main__":
    main()
