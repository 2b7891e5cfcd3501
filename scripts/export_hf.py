"""Writes a trained role as a Hugging Face folder for transformers, vLLM or SGLang.

    python scripts/export_hf.py runs/tiny --iteration 2 --role solver
    python scripts/export_hf.py runs/look --iteration 1 --role challenger --step 10

Weights (safetensors), configurations, tokenizer, and the chat template of the training.
The run is only read: it may be going on. Its base model must still be in its place.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from scope_jax import cli


def main(argv: Sequence[str]) -> int:
    parser = cli.ArgumentParser(prog="export_hf.py", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--iteration", type=int, required=True, help="counts from 1")
    parser.add_argument("--role", required=True, help="challenger or solver")
    parser.add_argument(
        "--step", type=int, help="of a checkpoint; default: the end of the stage"
    )
    parser.add_argument(
        "--out", type=Path, help="folder to make; default: RUN-iter_N-ROLE, here"
    )
    parser.add_argument(
        "--dtype", help="bfloat16, float16 or float32; default: as stored"
    )
    options = parser.parse_args(argv)
    # A training may have all of the accelerator's memory, and copying needs none.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from scope_jax import export

    out, source = export.export(
        options.run,
        options.iteration,
        options.role,
        step=options.step,
        out=options.out,
        dtype=options.dtype,
    )
    print(f"{out}: from {source}")
    return 0


if __name__ == "__main__":
    cli.run_main(main)
