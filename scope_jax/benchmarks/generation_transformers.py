"""transformers' generate on the benchmarks' work; runs in an interpreter of its own.

The rows of a batch end together, with the longest; the cache is kept between the turns
of a conversation, its superfluous entries masked. Talks as ``harness.Peer`` expects.
"""

import json
import sys
import time
from pathlib import Path


def play(model, conversations, batch):
    """One round: (seconds, prompt tokens computed, padding included)."""
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
    return time.perf_counter() - started, prefilled


def main():
    """Load, play the first turns, say so, then play all for every line of the input."""
    import torch
    import transformers

    settings = json.loads(sys.argv[1])
    work = json.loads(Path(settings["work"]).read_text())
    transformers.utils.logging.disable_progress_bar()
    torch.set_grad_enabled(False)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        settings["model"], dtype=torch.float32
    ).eval()
    play(model, work["warm"], work["batch"])
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(versions), flush=True)
    for _ in sys.stdin:
        seconds, prefilled = play(model, work["conversations"], work["batch"])
        print(json.dumps({"seconds": seconds, "prefilled": prefilled}), flush=True)


if __name__ == "__main__":
    main()
