#!/usr/bin/env bash
# bm25s chooses its top k by JAX if JAX can be imported, else by NumPy (backend_selection
# "auto", the default). Among equal scores the first takes the lowest numbers, the second
# others: the same saved index gives other documents on a machine where somebody has installed
# JAX, for a query with more equals than k. Twelve documents, every second one with the word;
# k = 3. Seen with bm25s 0.3.16 and jax 0.10.2:
#   without jax: [[11, 9, 5]]
#   with jax: [[1, 3, 5]]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/look.py" <<'PY'
import bm25s

documents = [["other", "text"], ["same", "words"]] * 6
index = bm25s.BM25()
index.index(documents, show_progress=False)
found = index.retrieve([["words"]], k=3, show_progress=False)
assert len(set(found.scores[0].tolist())) == 1
print(found.documents.tolist())
PY
look() {
  found="$1: $(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/look.py" 2>"$folder/errors")"
  echo "$found"
  test "$found" = "$1: $2"
}
"$folder/venv/bin/pip" install -q bm25s==0.3.16 numpy==2.2.6
look "without jax" "[[11, 9, 5]]"
"$folder/venv/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 numpy==2.2.6
look "with jax" "[[1, 3, 5]]"
