#!/usr/bin/env bash
# XLA for CPUs has no scatter in bfloat16. `x.at[i].set(row)` in a loop, with a donated `x`
# of bfloat16, converts the whole of x to float32, puts the row in, and converts all of it
# back, in every pass of the loop; the same bits as uint16 are changed in place. It is what a
# KV cache does: ours took 2.3 times as long to decode, and twice its size beside itself.
# Seen with jax 0.10.2 and jaxlib 0.10.2, on a CPU:
#   bfloat16: 1 float32 copies of the array made by the program
#   uint16: 0 float32 copies of the array made by the program
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
cat > "$folder/look.py" <<'PY'
import re
import sys

import jax
import jax.numpy as jnp

kind = jnp.dtype(sys.argv[1])


def fill(x, rows, places):
    def put(n, x):
        return x.at[places[n]].set(rows[n], mode="drop", unique_indices=True)

    return jax.lax.fori_loop(0, len(places), put, x)


x, rows, places = jnp.zeros((999, 64), kind), jnp.ones((8, 2, 64), kind), jnp.arange(16)
done = jax.jit(fill, donate_argnums=0).lower(x, rows, places.reshape(8, 2)).compile()
wide = re.findall(r"= f32\[999,64\]\S* (?:fusion|convert)\([^)]*\)(?=.*wrapped_convert)", done.as_text())
print(f"{kind}: {len(wide)} float32 copies of the array made by the program")
PY
look() {
  found=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/look.py" "$1" 2>"$folder/errors")
  echo "$found"
  test "$found" = "$1: $2 float32 copies of the array made by the program"
}
look bfloat16 1
look uint16 0
