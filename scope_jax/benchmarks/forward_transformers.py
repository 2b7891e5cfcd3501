"""The peer of ``forward``: transformers' own model in an interpreter with torch."""

import json
import sys
import time


def main() -> None:
    """Load, say so, then one forward pass for every line of the input."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = json.loads(sys.argv[1])
    transformers.utils.logging.disable_progress_bar()
    if settings["random"]:
        config = AutoConfig.from_pretrained(settings["model"])
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            settings["model"], dtype=torch.float32
        )
    model.eval()
    tokens = torch.tensor(settings["tokens"])
    ready = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "attention": model.config._attn_implementation,
    }
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        with torch.inference_mode():
            start = time.perf_counter()
            logits = model(tokens, use_cache=False).logits
            seconds = time.perf_counter() - start
            said = {"seconds": seconds, "best": logits.argmax(-1).tolist()}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
