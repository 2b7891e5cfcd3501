#!/usr/bin/env bash
# A BPE tokenizer remembers the tokens of up to 10,000 pieces of text. In tokenizers 0.22 that
# memory is the tokenizer's: `_clear_cache` or deleting the tokenizer frees it. In 0.23 it is
# the thread's: after both it is still there, as long as the thread lives. Each thread has its
# own, and so has each tokenizer that was loaded in a thread's life: here five, loaded one
# after the other and deleted, leave five times the memory. A server that loads a tokenizer
# with each model grows so. Seen (MB of the heap in use, Linux with glibc):
#   0.22.2: one filled 77, cleared 1, deleted 0, four more 0, thread ended 0
#   0.23.3: one filled 77, cleared 77, deleted 77, four more 384, thread ended 0
# (The script compares them as shares of the first, in quarters.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/words.py" <<'PY'
import ctypes
import gc
import random
import threading
import time

import tokenizers
from tokenizers import Tokenizer, models


class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


libc = ctypes.CDLL("libc.so.6")
libc.mallinfo2.restype = Info
LETTERS = "abcdefghijklmnop"


def used():
    """Megabytes that the program has asked for, and has not given back."""
    gc.collect()
    info = libc.mallinfo2()
    return (info.uordblks + info.hblkhd) / 2**20


def filled():
    """A tokenizer that has seen 10,000 texts of 240 letters."""
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(LETTERS)}, []))
    draw = random.Random(0)
    for _ in range(10_000):
        made.encode("".join(draw.choices(LETTERS, k=240)))
    return made


seen = []


def work():
    filled_one = filled()
    seen.append(("one filled", used() - start))
    filled_one.model._clear_cache()
    seen.append(("cleared", used() - start))
    del filled_one
    seen.append(("deleted", used() - start))
    for _ in range(4):
        filled()
    seen.append(("four more", used() - start))


Tokenizer(models.BPE({"a": 0}, [])).encode("a")
start = used()
thread = threading.Thread(target=work)
thread.start()
thread.join()
time.sleep(2)  # what a thread has is freed just after join() returns
seen.append(("thread ended", used() - start))
whole = seen[0][1]
print(f"{tokenizers.__version__}:", ", ".join(f"{n} {m:.0f} MB" for n, m in seen))
print("shares:", *(round(4 * megabytes / whole) / 4 for _, megabytes in seen))
PY
for version in 0.22.2 0.23.3; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install -q "tokenizers==$version"
  found=$(cd "$folder" && "$folder/$version/bin/python" words.py)
  echo "$found"
  case $version in
    0.22.2) test "${found##*shares: }" = "1.0 0.0 0.0 0.0 0.0" ;;
    0.23.3) test "${found##*shares: }" = "1.0 1.0 1.0 5.0 0.0" ;;
  esac
done
