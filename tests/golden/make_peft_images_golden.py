"""An adapter of a small image classifier, trained for three steps and saved by PEFT itself.

    python make_peft_images_golden.py

Writes into tests/fixtures/peft_resnet/ a residual network of Transformers (base/), an adapter with
LoRA on its convolutions and its head among modules_to_save, as save_pretrained writes both, and
golden.safetensors: pixels U8 [4, 16, 16, 3], logits F32 [4, 3] of base and adapter together, fp32.
"""

import json
import shutil

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import ResNetConfig, ResNetForImageClassification

from golden_util import FIXTURES

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIDE = 16
MODEL = ResNetConfig(
    embedding_size=4,
    hidden_sizes=[4, 8],
    depths=[1, 1],
    layer_type="basic",
    id2label={0: "cat", 1: "dog", 2: "hen"},
    label2id={"cat": 0, "dog": 1, "hen": 2},
)
ADAPTER = LoraConfig(
    r=2,
    lora_alpha=4,
    target_modules=["0.convolution", "1.convolution", "shortcut.convolution"],
    modules_to_save=["classifier.1"],
)
PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": MEAN,
    "image_processor_type": "ViTImageProcessor",
    "image_std": STD,
    "rescale_factor": 1 / 255,
    "resample": 2,
    "size": {"height": SIDE, "width": SIDE},
}


def inputs(pixels):
    x = pixels.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def scramble(model):
    """Running statistics and norms that are not those of a fresh model."""
    for name, t in list(model.named_parameters()) + list(model.named_buffers()):
        if t.dtype == torch.float32 and t.dim() == 1:
            t.data += 0.2 * torch.rand_like(t)


def main():
    torch.manual_seed(5)
    out = FIXTURES / "peft_resnet"
    shutil.rmtree(out, ignore_errors=True)
    base = ResNetForImageClassification(MODEL).eval()
    scramble(base)
    base.save_pretrained(out / "base")
    (out / "base" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2))
    pixels = torch.randint(0, 256, (4, SIDE, SIDE, 3), dtype=torch.uint8)
    model = get_peft_model(base, ADAPTER).eval()
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    for _ in range(3):
        logits = model(pixel_values=inputs(pixels)).logits
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
        opt.step()
        opt.zero_grad()
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)
    again = ResNetForImageClassification.from_pretrained(out / "base")
    model = PeftModel.from_pretrained(again, out).eval()
    with torch.no_grad():
        logits = model(pixel_values=inputs(pixels)).logits
    save_file({"pixels": pixels, "logits": logits}, out / "golden.safetensors")
    print(out, sum(f.stat().st_size for f in out.rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main()
