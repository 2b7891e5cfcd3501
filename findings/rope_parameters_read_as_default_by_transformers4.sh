#!/usr/bin/env bash
# A config.json as transformers 5 writes it has its rotary base in `rope_parameters`
# only. transformers 4.57.6 reads it without a word and takes the default base, 10000:
# the model loads, and its positions are wrong. Seen with transformers 4.57.6:
#   rope_theta 10000.0
# An export for readers of both generations needs `rope_theta` at the top as well.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "transformers==4.57.6"
cat > "$folder/config.json" <<'JSON'
{"model_type": "qwen3", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1,
 "num_attention_heads": 2, "num_key_value_heads": 2,
 "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}
JSON
found=$("$folder/venv/bin/python" -c '
import sys
from transformers import AutoConfig
print("rope_theta", AutoConfig.from_pretrained(sys.argv[1]).rope_theta)' "$folder" 2>/dev/null)
echo "$found"
test "$found" = "rope_theta 10000.0"
