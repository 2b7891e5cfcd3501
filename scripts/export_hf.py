"""Writes a trained role as a Hugging Face folder for transformers, vLLM or SGLang.

    python scripts/export_hf.py runs/tiny --iteration 2 --role solver
    python scripts/export_hf.py runs/look --iteration 1 --role challenger --step 10

Weights (safetensors), configurations, tokenizer, and the chat template of the training.
Of a run that trained adapters it is a PEFT folder; `--merged` writes a whole model.
The run is only read, so it may still be going on. Its base model must still exist.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check_packages  # noqa: F401
from scope_jax.run import cli


def main(argv: Sequence[str]) -> int:
    parser = cli.ArgumentParser(prog="export_hf.py", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--iteration", type=int, required=True, help="counts from 1")
    parser.add_argument("--role", required=True, choices=("challenger", "solver"))
    parser.add_argument(
        "--step", type=int, help="of a checkpoint; default: the end of the stage"
    )
    parser.add_argument(
        "--out", type=Path, help="folder to make; default: RUN-iter_N-ROLE, here"
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="of the tensors; default: as stored",
    )
    parser.add_argument(
        "--merged",
        action="store_true",
        help="a whole model, of a run that trained adapters; default: the adapter, as "
        "a folder of peft",
    )
    options = parser.parse_args(argv)
    import jax

    from scope_jax.run import export

    # A training run may hold all of the accelerator's memory; copying needs none.
    jax.config.update("jax_platforms", "cpu")
    out, source = export.export(
        options.run,
        options.iteration,
        options.role,
        step=options.step,
        out=options.out,
        dtype=options.dtype,
        merged=options.merged,
    )
    print(f"{out}: from {source}")
    return 0


if __name__ == "__main__":
    cli.run_main(main)
