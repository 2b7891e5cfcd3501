#!/usr/bin/env bash
# save_file of safetensors 0.8.0 writes files that only their owner may read, whatever
# the umask: mode 0600, also in place of a file that others could read. Up to 0.7.0 the
# umask decided. A model that one user or container writes into a shared folder can't be
# loaded by another, while config.json beside it can. Seen, with umask 022:
#   0.7.0 new 644 replaced 664
#   0.8.0 new 600 replaced 600
# Whoever saves with 0.8.0 for others has to change the mode afterwards.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
umask 022
cat > "$folder/look.py" <<'PY'
import os
import sys
from importlib.metadata import version

import numpy as np
from safetensors.numpy import save_file

folder = sys.argv[1]


def mode(name):
    file = os.path.join(folder, name)
    save_file({"x": np.zeros(3, np.float32)}, file)
    return f"{os.stat(file).st_mode & 0o777:o}"


new = mode(version("safetensors") + ".safetensors")
old = os.path.join(folder, "old.safetensors")
open(old, "w").close()
os.chmod(old, 0o664)
print(version("safetensors"), "new", new, "replaced", mode("old.safetensors"))
PY
look() {
  "$folder/venv/bin/pip" install -q "safetensors==$1" "numpy==2.2.6"
  found=$("$folder/venv/bin/python" "$folder/look.py" "$folder")
  echo "$found"
  test "$found" = "$1 $2"
}
look 0.7.0 "new 644 replaced 664"
look 0.8.0 "new 600 replaced 600"
