"""SHiRA adapters of PEFT, for runtime/file/shira.h.

    python make_shira_golden.py

Writes into tests/fixtures/peft_shira/
  adapter_config.json, adapter_model.safetensors
      as save_pretrained writes them, of two linear layers with a random mask and random values
  golden.safetensors
      <module>.delta   F32 [out, in]: what PEFT adds to the weight
      <module>.ids     I32 [n] ids of blocks, and <module>.values F32 [n, br bc]: a change that hone
                       is to write
  written/adapter_config.json, written/adapter_model.safetensors
      that change as hone writes it: filled up with zeros, positions in ascending order. PEFT has
      read it here, and its output was that of the layers with W + delta.
"""

import json

import torch
from peft import PeftModel, ShiraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

from golden_util import FIXTURES

BLOCKS = {"block.up": (1, 1), "block.down": (2, 2)}
R = 2


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 6, bias=False)

    def forward(self, x):
        return self.down(torch.tanh(self.up(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(x)


def new_net():
    torch.manual_seed(0)
    return Net()


def scatter(ids, values, shape, block):
    delta = torch.zeros(shape)
    across = shape[1] // block[1]
    for i, v in zip(ids.tolist(), values):
        r, c = i // across * block[0], i % across * block[1]
        delta[r : r + block[0], c : c + block[1]] = v.reshape(block)
    return delta


def slots(delta, r):
    """Positions and values as hone fills them up: r (in + out) in ascending order."""
    used = (delta.flatten() != 0).nonzero().flatten().tolist()
    free = sorted(set(range(delta.numel())) - set(used))
    at = torch.tensor(sorted(used + free[: r * sum(delta.shape) - len(used)]))
    rows, cols = at // delta.shape[1], at % delta.shape[1]
    return delta.flatten()[at], torch.stack([rows, cols]).to(torch.int32)


def main():
    out = FIXTURES / "peft_shira"
    (out / "written").mkdir(parents=True, exist_ok=True)
    golden = {}

    config = ShiraConfig(r=R, random_seed=5, target_modules=["up", "down"], init_weights=False)
    torch.manual_seed(1)
    model = get_peft_model(new_net(), config)
    torch.manual_seed(2)
    for name, module in model.named_modules():
        if hasattr(module, "shira_weight") and isinstance(module.shira_weight, nn.ParameterDict):
            nn.init.normal_(module.shira_weight["default"], std=0.1)
            path = name.removeprefix("base_model.model.")
            golden[path + ".delta"] = module.get_delta_weight("default").to_dense().detach()
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)

    file, merged = {}, new_net()
    torch.manual_seed(3)
    for path, block in BLOCKS.items():
        weight = merged.get_submodule(path).weight
        blocks = weight.numel() // (block[0] * block[1])
        n = 20 // (block[0] * block[1])
        ids = torch.randperm(blocks)[:n].sort().values.to(torch.int32)
        values = 0.1 * torch.randn(n, block[0] * block[1])
        golden[path + ".ids"], golden[path + ".values"] = ids, values
        delta = scatter(ids, values, weight.shape, block)
        prefix = "base_model.model." + path
        file[prefix + ".shira_weight"], file[prefix + ".shira_indices"] = slots(delta, R)
        weight.data += delta
    save_file(golden, out / "golden.safetensors")
    save_file(file, out / "written" / "adapter_model.safetensors", metadata={"format": "pt"})
    written = {
        "base_model_name_or_path": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_weights": True,
        "mask_type": "random",
        "modules_to_save": None,
        "peft_type": "SHIRA",
        "r": R,
        "random_seed": None,
        "revision": None,
        "target_modules": ["up", "down"],
        "task_type": None,
    }
    text = json.dumps(written, indent=2) + "\n"
    (out / "written" / "adapter_config.json").write_text(text)

    x = torch.randn(16, 6)
    loaded = PeftModel.from_pretrained(new_net(), out / "written")
    assert torch.equal(loaded(x), merged(x)), "PEFT computes something else than W + delta"
    assert not torch.allclose(loaded(x), new_net()(x)), "the adapter changes nothing"


if __name__ == "__main__":
    main()
