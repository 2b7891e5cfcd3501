#!/usr/bin/env bash
# transformers' from_pretrained takes the folder of a peft adapter and gives the model with
# that adapter, A. PeftModel.from_pretrained then loads an adapter B, which was trained on
# the merged model and names A's folder as its base. peft warns that this "will lead to
# having multiple adapters in the model"; in fact there is one: both are called "default",
# B's tensors replace A's, and the logits are those of the base with B alone. Nothing says
# that A is gone. Seen with peft 0.21.2 and transformers 5.24.0:
#   loaded by transformers: the base with A
#   B loaded on top: the base with B
#   adapters in the model: default
#   warned of multiple adapters: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "peft==0.21.2" "transformers==5.24.0" "torch==2.13.0"
found=$(cd "$folder" && "$folder/venv/bin/python" - 2>/dev/null <<'PY'
import json
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

load, ids = AutoModelForCausalLM.from_pretrained, torch.arange(8)[None]
torch.manual_seed(0)
LlamaForCausalLM(
    LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48,
                num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
).save_pretrained("base")


def logits(model):
    with torch.no_grad():
        return model.eval()(ids).logits


def trained(model, name, base):
    """An adapter with random matrices, saved under a name; returns its logits."""
    settings = LoraConfig(r=2, lora_alpha=32, target_modules=["q_proj", "v_proj"],
                          init_lora_weights=False)
    made = get_peft_model(model, settings)
    made.save_pretrained(name)
    file = Path(name, "adapter_config.json")
    fields = json.loads(file.read_text()) | {"base_model_name_or_path": base}
    file.write_text(json.dumps(fields))
    return logits(made)


found = {"the base": logits(load("base")), "the base with A": trained(load("base"), "A", "base")}
merged = PeftModel.from_pretrained(load("base"), "A").merge_and_unload()
found["the base with A and B"] = trained(merged, "B", "A")
found["the base with B"] = logits(PeftModel.from_pretrained(load("base"), "B"))


def name_of(value):
    return ", ".join(name for name, own in found.items() if torch.equal(own, value))


first = load("A")
print("loaded by transformers:", name_of(logits(first)))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    both = PeftModel.from_pretrained(first, "B")
print("B loaded on top:", name_of(logits(both)))
print("adapters in the model:", *both.peft_config)
print("warned of multiple adapters:", any("multiple adapters" in str(w.message) for w in seen))
PY
)
echo "$found"
test "$found" = "loaded by transformers: the base with A
B loaded on top: the base with B
adapters in the model: default
warned of multiple adapters: True"
