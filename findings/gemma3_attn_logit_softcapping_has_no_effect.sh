#!/usr/bin/env bash
# Gemma3TextConfig of transformers documents `attn_logit_softcapping` ("scaling factor when
# applying tanh softcapping on the attention scores"), stores and writes it, and the model
# computes without it: the logits are the same, bit for bit, with a limit of 0.01 and with
# none. The same field of Gemma 2 works. Seen with transformers 5.24.0:
#   Gemma2 differs
#   Gemma3 equal
# A program that follows the field as it is documented gets other logits than this one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "transformers==5.24.0" "torch==2.13.0"
found=$("$folder/venv/bin/python" - 2>/dev/null <<'PY'
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig

shape = dict(vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
             num_attention_heads=2, num_key_value_heads=1, head_dim=16, pad_token_id=0,
             query_pre_attn_scalar=1, final_logit_softcapping=None)


def logits(config_class, model_class, cap):
    config = config_class(**shape, attn_logit_softcapping=cap)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.normal_(0, 0.5)
        return model(torch.arange(10)[None]).logits


for name, classes in (("Gemma2", (Gemma2Config, Gemma2ForCausalLM)),
                      ("Gemma3", (Gemma3TextConfig, Gemma3ForCausalLM))):
    same = torch.equal(logits(*classes, None), logits(*classes, 0.01))
    print(name, "equal" if same else "differs")
PY
)
echo "$found"
test "$found" = "Gemma2 differs
Gemma3 equal"
