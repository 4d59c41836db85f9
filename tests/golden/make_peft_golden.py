"""Adapters for babyllama-char105 trained for three steps and saved by PEFT itself.

    python make_peft_golden.py [DATA]

Writes into tests/fixtures/
  peft_babyllama_r4/       r=4 on all seven linears, target_modules a list
  peft_babyllama_pattern/  r=2, rsLoRA, target_modules a regular expression, another rank for one
                           projection and another alpha for one layer
  peft_babyllama_dora/     DoRA, r=4 on four of the seven linears
each with adapter_config.json and adapter_model.safetensors as save_pretrained writes them, and
golden.safetensors: tokens I32 [64] (the first 64 characters of the held-out text), logits
F32 [64, 105] of base and adapter together, fp32, eager attention.
"""

import json
import sys

import torch
from make_lora_golden import LINEARS, mean_loss, micro_batch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from golden_util import FIXTURES, ROOT, character_ids, data_dir

CASES = {
    "peft_babyllama_r4": LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.05, target_modules=LINEARS
    ),
    "peft_babyllama_pattern": LoraConfig(
        task_type="CAUSAL_LM",
        r=2,
        lora_alpha=4,
        use_rslora=True,
        target_modules=r".*\.self_attn\.(q|v)_proj",
        rank_pattern={r"layers\.4\.self_attn\.q_proj": 4},
        alpha_pattern={r"layers\.0\..*": 8},
    ),
    "peft_babyllama_dora": LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=8,
        use_dora=True,
        target_modules=["q_proj", "v_proj", "gate_proj", "down_proj"],
    ),
}


def main():
    data = data_dir(sys.argv[1] if len(sys.argv) > 1 else None)
    base = data / "babyllama-char105"
    text = data / "tinyshakespeare" / "input.txt"
    train_ids, held_ids = character_ids(base / "tok105.vocab", text)
    tokens = torch.from_numpy(held_ids[:64])[None]
    for name, config in CASES.items():
        torch.manual_seed(3)

        def load():
            return LlamaForCausalLM.from_pretrained(base, attn_implementation="eager")

        model = get_peft_model(load(), config)
        params = [p for p in model.parameters() if p.requires_grad]
        opt = torch.optim.AdamW(params, lr=3e-3, weight_decay=0.0)
        for t in range(3):
            mean_loss(model, *micro_batch(train_ids, t)).backward()
            opt.step()
            opt.zero_grad()
        folder = FIXTURES / name
        # The place of the base on the machine that ran this says nothing to anyone else.
        model.peft_config["default"].base_model_name_or_path = base.name
        model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)

        read_back = PeftModel.from_pretrained(load(), folder).eval()
        with torch.no_grad():
            logits = read_back(tokens, use_cache=False).logits[0]
            with read_back.disable_adapter():
                change = (logits - read_back(tokens, use_cache=False).logits[0]).abs().max()
        save_file(
            {"tokens": tokens[0].to(torch.int32), "logits": logits.contiguous()},
            folder / "golden.safetensors",
            metadata={"format": "pt"},
        )
        size = sum(f.stat().st_size for f in folder.iterdir())
        scales = {m.scaling["default"] for m in read_back.modules() if isinstance(m, LoraLayer)}
        print(f"{folder.relative_to(ROOT)}: {size} bytes, changes logits by {change:.3f}, {scales}")
        assert base.name in json.loads((folder / "adapter_config.json").read_text()).values()


if __name__ == "__main__":
    main()
