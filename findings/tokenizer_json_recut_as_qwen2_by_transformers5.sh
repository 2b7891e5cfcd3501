#!/usr/bin/env bash
# In a folder of model_type qwen2, AutoTokenizer of transformers 5 keeps the vocabulary
# and merges of tokenizer.json and replaces its normalizer and pre-tokenizer by Qwen2's,
# without a word and whatever tokenizer_class says. "12" is one token of this file; the
# model gets two. Seen with transformers 5.24.0:
#   tokenizer.json [2] AutoTokenizer [0, 1]
# transformers 4.57.6 gives [2] for both. A tokenizer that doesn't cut as Qwen2's must be
# loaded with PreTrainedTokenizerFast there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "transformers==5.24.0"
mkdir "$folder/model"
echo '{"model_type": "qwen2"}' > "$folder/model/config.json"
echo '{"tokenizer_class": "PreTrainedTokenizerFast"}' > "$folder/model/tokenizer_config.json"
cat > "$folder/model/tokenizer.json" <<'JSON'
{"version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                   "use_regex": true},
 "decoder": null, "truncation": null, "padding": null,
 "model": {"type": "BPE", "vocab": {"1": 0, "2": 1, "12": 2, "<|endoftext|>": 3},
           "merges": [["1", "2"]]}}
JSON
found=$("$folder/venv/bin/python" -c '
import sys
from tokenizers import Tokenizer
from transformers import AutoTokenizer
file = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json").encode("12").ids
print("tokenizer.json", file, "AutoTokenizer", AutoTokenizer.from_pretrained(sys.argv[1]).encode("12"))
' "$folder/model" 2>/dev/null)
echo "$found"
test "$found" = "tokenizer.json [2] AutoTokenizer [0, 1]"
