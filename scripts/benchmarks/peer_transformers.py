"""transformers as a peer: its loader, its forward pass, its ``generate``.

Runs in an interpreter that has torch and nothing of ours, and talks as
``harness.Peer`` expects.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Turn = Callable[[], dict[str, Any]]


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


def load(settings: dict[str, Any]) -> tuple[dict[str, Any], Turn]:
    """Loads the model once per turn."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    AutoConfig.from_pretrained(settings["model"])
    peaks = []

    def one() -> float:
        start = time.perf_counter()
        model = AutoModelForCausalLM.from_pretrained(
            settings["model"], dtype=getattr(torch, settings["dtype"])
        )
        for tensor in model.state_dict().values():
            tensor.view(-1)[::1024].sum()  # a mapped file is read when it is touched
        return time.perf_counter() - start

    def turn() -> dict[str, Any]:
        seconds, peak = peak_of(one)
        peaks.append(peak)
        # Later turns find the first one's memory still resident.
        return {"seconds": seconds, "peak": peaks[0]}

    return {}, turn


def forward(settings: dict[str, Any]) -> tuple[dict[str, Any], Turn]:
    """One forward pass over all rows per turn."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if settings["random"]:
        config = AutoConfig.from_pretrained(settings["model"])
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            settings["model"], dtype=torch.float32
        )
    model.eval()
    tokens = torch.tensor(settings["tokens"])

    def turn() -> dict[str, Any]:
        with torch.inference_mode():
            start = time.perf_counter()
            logits = model(tokens, use_cache=False).logits
            seconds = time.perf_counter() - start
            return {"seconds": seconds, "best": logits.argmax(-1).tolist()}

    attention = model.config._attn_implementation
    return {"threads": torch.get_num_threads(), "attention": attention}, turn


def generate(settings: dict[str, Any]) -> tuple[dict[str, Any], Turn]:
    """All conversations per turn, after the first turns of one batch."""
    import torch
    import transformers

    work = json.loads(Path(settings["work"]).read_text())
    torch.set_grad_enabled(False)
    # In its own default: the type that the folder's weights have.
    model = transformers.AutoModelForCausalLM.from_pretrained(settings["model"]).eval()
    play(model, work["warm"], work["batch"])
    turn = lambda: play(model, work["conversations"], work["batch"])  # noqa: E731
    return {"dtype": str(model.dtype)}, turn


def play(model: Any, conversations: list[dict], batch: int) -> dict[str, Any]:
    """Seconds, and prompt tokens computed, padding included.

    The rows of a batch end together, with the longest; the cache is kept between the
    turns of a conversation, its superfluous entries masked.
    """
    import torch
    import transformers

    prefilled = 0
    started = time.perf_counter()
    for first in range(0, len(conversations), batch):
        rows = conversations[first : first + batch]
        ids = torch.tensor([row["prompt"] for row in rows])
        mask = torch.ones_like(ids)
        cache = transformers.DynamicCache(config=model.config)
        for turns in zip(*(row["turns"] for row in rows), strict=True):
            most = max(turn["new"] for turn in turns)
            prefilled += (ids.shape[1] - cache.get_seq_length()) * len(rows)
            ids = model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=most,
                min_new_tokens=most,
                eos_token_id=None,
                pad_token_id=0,
            )
            used = torch.tensor([[turn["new"]] for turn in turns])
            kept = (torch.arange(most) < used).to(mask.dtype)
            result = torch.tensor([turn["result"] for turn in turns], dtype=ids.dtype)
            ids = torch.cat([ids, result], dim=1)
            mask = torch.cat([mask, kept, torch.ones_like(result)], dim=1)
    return {"seconds": time.perf_counter() - started, "prefilled": prefilled}


def main() -> None:
    """Gets ready, says so, then does one turn for every line of the input."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    settings = json.loads(sys.argv[1])
    task = {"load": load, "forward": forward, "generate": generate}[settings["task"]]
    ready, turn = task(settings)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(versions | ready), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)


if __name__ == "__main__":
    main()
