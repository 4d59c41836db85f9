"""The peer of hone-bench-step: steps in PyTorch + transformers + PEFT, random weights.

    python3 bench/peer_step.py --model bench/shapes/llama-3.2-1b.json --adapters bf16 --sdpa flash

Base model in bf16, made on the device; LoRA of all seven linears; torch.compile; SDPA attention,
causal, with one backend and no other; no gradient checkpointing; AdamW (fused) on the adapters,
clipping at 1.0. --sdpa stock is transformers' own "sdpa" with the backend that PyTorch picks: what a
user gets who changes nothing (compiled, it hands over a mask). --mode reduce-overhead captures
CUDA graphs.
Under torchrun it is DistributedDataParallel, --batch a GPU; tokens_per_s is of all together:

    torchrun --nproc-per-node 2 bench/peer_step.py --model bench/shapes/llama-3.2-1b.json

--adapters fp32 is PEFT's default (autocast_adapter_dtype), run under autocast to bf16. --full trains
all weights instead, without PEFT: fp32 ones under autocast to bf16, what hone-full's masters in fp32
are; --zero 1 divides the optimizer's state among the ranks (ZeroRedundancyOptimizer). Tokens and
labels are random and every label counts; the loss is that of transformers (logits in fp32). No step
waits for the device. Prints one JSON line, with the keys of hone-bench-step.
"""

import argparse
import contextlib
import json
import time

import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AutoModelForCausalLM, LlamaConfig

from peer_clock import GIB, data_parallel, join, leave, timed, wait

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
BATCHES = 8


def causal_sdpa(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """What transformers' "sdpa" does for whole sequences, but never with a mask: under torch.compile
    that one hands over a mask instead of is_causal, which the flash backend refuses."""
    out = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register("causal_sdpa", causal_sdpa)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--model", required=True, help="config.json")
    p.add_argument("--adapters", choices=["bf16", "fp32"], default="bf16")
    p.add_argument("--full", action="store_true", help="all weights")
    p.add_argument("--zero", type=int, choices=[0, 1], default=0, help="with --full, under torchrun")
    p.add_argument("--sdpa", choices=[*BACKENDS, "stock"], default="flash")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--length", type=int, default=2048)
    p.add_argument("--rank", type=int, default=16)
    p.add_argument("--warmup", type=int, default=5, help="steps before the clock, the first compiles")
    p.add_argument("--seconds", type=float, default=8.0)
    p.add_argument("--steps", type=int, default=3, help="at least so many steps")
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda")
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--mode", choices=["default", "reduce-overhead"], default="default")
    a = p.parse_args()
    if a.zero and not a.full:
        p.error("--zero 1 is for --full")
    return a


def autocast(a):
    return a.full or a.adapters == "fp32"


def adamw(a, trained, ranks):
    options = {"lr": a.lr, "weight_decay": 0.0, "fused": True}
    if a.zero and ranks == 1:
        raise SystemExit("peer_step.py: --zero 1 wants several ranks: start it by torchrun")
    if a.zero:
        return ZeroRedundancyOptimizer(trained, torch.optim.AdamW, **options)
    return torch.optim.AdamW(trained, **options)


def build(a):
    torch.manual_seed(a.seed)
    config = LlamaConfig.from_json_file(a.model)
    config.use_cache = False
    attention = "sdpa" if a.sdpa == "stock" else "causal_sdpa"
    with torch.device(a.device):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=torch.float32 if a.full else torch.bfloat16,
            attn_implementation=attention,
        )
        if not a.full:
            lora = LoraConfig(
                task_type="CAUSAL_LM", r=a.rank, lora_alpha=2 * a.rank, target_modules=LINEARS
            )
            model = get_peft_model(model, lora, autocast_adapter_dtype=a.adapters == "fp32")
    wanted = torch.float32 if autocast(a) else torch.bfloat16
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.dtype == wanted for p in trained), "what is trained has another type"
    assert all(p.dtype == torch.bfloat16 for p in model.parameters() if not p.requires_grad)
    return model.train(), trained, config.vocab_size


def measure(a):
    cuda = a.device.startswith("cuda")
    began = time.perf_counter()
    rank, ranks, a.device = join(a.device)
    model, trained, vocab = build(a)
    model = data_parallel(model)
    torch.manual_seed(a.seed + 1 + rank)
    optimizer = adamw(a, trained, ranks)
    tokens = torch.randint(vocab, (BATCHES, a.batch, a.length + 1), device=a.device)

    def loss_of(inputs, labels):
        logits = model(input_ids=inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())

    run = loss_of if a.no_compile else torch.compile(loss_of, dynamic=False, mode=a.mode)

    def step(number):
        batch = tokens[number % BATCHES]
        torch.compiler.cudagraph_mark_step_begin()  # of nothing in the default mode
        with torch.autocast(a.device.split(":")[0], torch.bfloat16, enabled=autocast(a)):
            loss = run(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach().clone()  # the graph's own memory is written over by the next step

    one = contextlib.nullcontext() if a.sdpa == "stock" else sdpa_kernel(BACKENDS[a.sdpa])
    with one:
        first = step(0).item()
        ready_s = time.perf_counter() - began
        for number in range(1, max(a.warmup, 3)):
            step(number)
        wait(a.device)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        result = timed(step, a.device, a.seconds, a.steps)
    leave()
    if rank > 0:
        return None
    return {
        "who": (f"full, zero {a.zero}" if a.full else f"peft {a.adapters} adapters") + f", {a.sdpa}"
        + (", eager" if a.no_compile else "" if a.mode == "default" else f", {a.mode}"),
        "model": a.model,
        "ranks": ranks,
        "dtype": "bf16",
        "batch": a.batch,
        "length": a.length,
        "rank": 0 if a.full else a.rank,
        "tokens_per_s": ranks * result["steps"] * a.batch * a.length / result["seconds"],
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if cuda else 0.0,
        "reserved_gib": torch.cuda.max_memory_reserved() / GIB if cuda else 0.0,
        "loss_first": first,
        "trained": sum(p.numel() for p in trained),
        "compile_s": round(ready_s, 1),
        "executor": "eager" if a.no_compile else "torch.compile",
        "device": torch.cuda.get_device_name() if cuda else a.device,
        "versions": versions(),
    } | result


def versions():
    import peft
    import transformers

    return (
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"peft {peft.__version__}, cudnn {torch.backends.cudnn.version()}"
    )


if __name__ == "__main__":
    line = measure(arguments())
    if line is not None:
        print(json.dumps(line))
