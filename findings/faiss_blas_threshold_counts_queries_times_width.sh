#!/usr/bin/env bash
# faiss.cvar.distance_compute_blas_threshold kept its name and changed its unit: up to
# faiss-cpu 1.13.2 it is a number of queries, from 1.14.2 on queries times width. A program
# that sets it to 5, so that four queries are compared directly, gets the matrix product
# for every query with 1.15.1, and scores that differ in their last bits. Seen:
#   1.13.2 [('4', 'product'), ('5', 'direct'), ('384', 'direct'), ('385', 'direct')]
#   1.15.1 [('4', 'product'), ('5', 'product'), ('384', 'product'), ('385', 'direct')]
# for four queries of width 96. Which way was taken is told by the bits of the scores.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/look.py" <<'PY'
import faiss
import numpy as np

width, count = 96, 4
random = np.random.default_rng(0)
index = faiss.IndexFlatIP(width)
index.add(random.standard_normal((3000, width), dtype=np.float32))
queries = random.standard_normal((count, width), dtype=np.float32)


def scores(threshold):
    faiss.cvar.distance_compute_blas_threshold = threshold
    return index.search(queries, 50)[0]


direct, product = scores(1 << 30), scores(1)
assert not np.array_equal(direct, product)
found = []
for threshold in (count, count + 1, count * width, count * width + 1):
    equal = np.array_equal(scores(threshold), direct)
    assert equal or np.array_equal(scores(threshold), product)
    found.append((str(threshold), "direct" if equal else "product"))
print(faiss.__version__, found)
PY
look() {
  "$folder/venv/bin/pip" install -q "faiss-cpu==$1" "numpy==2.2.6"
  found=$("$folder/venv/bin/python" "$folder/look.py")
  echo "$found"
  test "$found" = "$1 $2"
}
look 1.13.2 "[('4', 'product'), ('5', 'direct'), ('384', 'direct'), ('385', 'direct')]"
look 1.15.1 "[('4', 'product'), ('5', 'product'), ('384', 'product'), ('385', 'direct')]"
