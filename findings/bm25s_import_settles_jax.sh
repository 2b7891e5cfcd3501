#!/usr/bin/env bash
# `import bm25s`, where JAX is installed, runs a JAX computation (top_k in its selection.py).
# That settles JAX's devices for the whole process: a program that imports it at the top and
# calls jax.distributed.initialize() afterwards, as JAX asks for before any computation, gets
# an error; and a setting of the number of CPU devices comes too late. Seen with bm25s 0.3.16
# and jax 0.10.2, on a CPU:
#   without bm25s: initialized, 4 devices
#   with bm25s: RuntimeError RuntimeError
# (On a machine with a GPU the same computation would take memory there, in a process that
# may only want to read an index; not tried here.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q bm25s==0.3.16 jax==0.10.2 jaxlib==0.10.2
cat > "$folder/look.py" <<'PY'
import socket
import sys

import jax

if sys.argv[1] == "with":
    import bm25s  # noqa: F401

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
said = []
try:
    jax.config.update("jax_num_cpu_devices", 4)
except Exception as error:
    said.append(type(error).__name__)
try:
    jax.distributed.initialize(address, num_processes=1, process_id=0)
    said.append(f"initialized, {jax.local_device_count()} devices")
except Exception as error:
    assert "must be called before" in str(error), error
    said.append(type(error).__name__)
print(f"{sys.argv[1]} bm25s:", *said)
PY
look() {
  found=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/look.py" "$1" 2>"$folder/errors")
  echo "$found"
  test "$found" = "$2"
}
look without "without bm25s: initialized, 4 devices"
look with "with bm25s: RuntimeError RuntimeError"
