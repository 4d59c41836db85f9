"""Does PEFT read an adapter written by hone, and does it compute the same logits?

    python peft_check.py --base DIR --adapter DIR --golden FILE [--merged DIR] [--tolerance 2e-4]

--base     Hugging Face directory of the base model
--adapter  PEFT directory written by hone
--golden   safetensors written by hone: tokens (I32 or I64, [n] or [rows, n]) and logits
           ([n, vocab] or [rows, n, vocab]) of base and adapter together, no padding
--merged   Hugging Face directory of the merged model, compared with the same logits

Checked: nothing warns while loading (Python warnings and log records; deprecations inside the
libraries are printed but do not count), no key is missing or left over, every tensor of the file
arrives in the model bit for bit, logits agree within the tolerance, and the adapter changes them.
Prints one line a check and PASS or FAIL; exit code 0 or 1.
"""

import argparse
import logging
import pathlib
import sys
import warnings

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LIBRARY_NOISE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


class Report:
    def __init__(self):
        self.failed = False

    def check(self, ok, text):
        print(("ok    " if ok else "FAIL  ") + text)
        self.failed |= not ok


class Records(logging.Handler):
    """Keeps what the libraries log at WARNING and above."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def quietly(report, what, load):
    """Runs load() and fails the report for every warning."""
    records = Records()
    loggers = [logging.getLogger(n) for n in (None, "transformers", "peft", "safetensors")]
    for logger in loggers:
        logger.addHandler(records)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = load()
    for logger in loggers:
        logger.removeHandler(records)
    texts = list(records.texts)
    for w in caught:
        if issubclass(w.category, LIBRARY_NOISE):
            print(f"note  {w.category.__name__}: {w.message}")
        else:
            texts.append(str(w.message))
    report.check(not texts, f"{what} without a warning" + "".join(f"\n      {t}" for t in texts))
    return result


def load_model(path):
    # .float() instead of an argument: its name changed between versions of Transformers.
    return AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").float().eval()


def logits_of(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def compare(report, what, got, want, tolerance):
    if got.shape != want.shape:
        report.check(False, f"{what}: shape {tuple(got.shape)}, hone has {tuple(want.shape)}")
        return
    gap = (got - want).abs().max().item()
    report.check(gap <= tolerance, f"{what}: largest difference {gap:.3g}, limit {tolerance:g}")


def check_tensors(report, model, path):
    with safe_open(path, "pt") as f:
        meta, file = f.metadata(), {k: f.get_tensor(k) for k in f.keys()}
    report.check((meta or {}).get("format") == "pt", f"metadata format is pt: {meta}")
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    missing, extra = sorted(set(state) - set(file)), sorted(set(file) - set(state))
    report.check(not missing, f"{len(state)} tensors of the model are in the file {missing[:3]}")
    report.check(not extra, f"{len(file)} tensors of the file are in the model {extra[:3]}")
    changed = [k for k in file if k in state and not torch.equal(state[k], file[k].to(state[k]))]
    report.check(not changed, f"every tensor arrived bit for bit {changed[:3]}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--base", required=True)
    p.add_argument("--adapter", required=True, type=pathlib.Path)
    p.add_argument("--golden", required=True)
    p.add_argument("--merged")
    p.add_argument("--tolerance", type=float, default=2e-4)
    a = p.parse_args()
    report = Report()
    golden = load_file(a.golden)
    tokens, want = golden["tokens"].long(), golden["logits"].float()
    if tokens.dim() == 1:
        tokens, want = tokens[None], want[None]
    base = load_model(a.base)
    plain = logits_of(base, tokens)
    load = lambda: PeftModel.from_pretrained(base, a.adapter)
    model = quietly(report, "PEFT loads the adapter", load).eval()
    check_tensors(report, model, a.adapter / "adapter_model.safetensors")
    got = logits_of(model, tokens)
    compare(report, "logits with the adapter", got, want, a.tolerance)
    change = (got - plain).abs().max().item()
    report.check(change > 10 * a.tolerance, f"the adapter changes logits by up to {change:.3g}")
    if a.merged:
        merged = quietly(
            report, "Transformers loads the merged model", lambda: load_model(a.merged)
        )
        compare(report, "logits of the merged model", logits_of(merged, tokens), want, a.tolerance)
    print("FAIL" if report.failed else "PASS")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
