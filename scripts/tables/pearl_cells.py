"""The cells of scripts/tables/pearl.sh: which runs of hone-pearl there are, and their data.

A cell is one run: stream/model/kind-s<seed>. Options of a run are a dict, so that a kind can change
what its model or stream says; None takes an option away. Hyper-parameters are those of the
specification's section 6: scratch networks SGD without momentum at 0.03, batches of 32; the vision
transformer AdamW at 5e-4, batches of 128, its probe at 1e-4.
"""

import gzip
import itertools
import json
import pathlib
import struct
from typing import NamedTuple

RANKS = (1, 2, 4, 8, 16)
MAIN = ("pearl", "lora-8", "head", "single", "sequential", "joint", "lwf", "ewc")
ENERGIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
EPSILONS = (0.01, 0.02, 0.05, 0.1)
PROBES = (0.5, 1, 2, 5, 10)


class Stream(NamedTuple):
    options: dict
    files: tuple  # below HONE_DATA, all that it reads
    two: tuple  # classes of tasks 1 and 2


class Model(NamedTuple):
    options: dict
    pearl: dict  # only of strategy pearl
    epochs: float
    files: tuple = ()
    layers: tuple = ()  # parts that --layers can pick
    norms: bool = True


class Cell(NamedTuple):
    stream: str
    model: str
    kind: str
    seed: int
    options: dict
    budget_rank: int  # not 0: its budget is what this rank takes in all layers

    @property
    def name(self):
        return f"{self.stream}/{self.model}/{self.kind}-s{self.seed}"


class Suite(NamedTuple):
    streams: dict
    models: dict
    plan: tuple  # of (stream, model, groups)
    ranks: tuple = RANKS
    energies: tuple = ENERGIES
    epsilons: tuple = EPSILONS
    probes: tuple = PROBES


# ---- the streams and models ----

CIFAR100 = tuple(
    f"cifar100/{name}"
    for name in ("train_1of3.bin.gz", "train_2of3.bin.gz", "train_3of3.bin.gz", "test_5000.bin.gz")
) + ("cifar100/fine_classes.txt",)
CIFAR10 = tuple(
    f"cifar10/{name}"
    for name in ("train_10000_1of2.bin.gz", "train_10000_2of2.bin.gz", "test_2000.bin.gz")
)
MNIST = tuple(
    f"mnist/{part}-{what}-ubyte.gz"
    for part in ("train", "t10k")
    for what in ("images-idx3", "labels-idx1")
)
FASHION = ("fashion-mnist/t10k-images-idx3-ubyte.gz", "fashion-mnist/t10k-labels-idx1-ubyte.gz")
VIT = "vit-tiny-imagenet/model.f16.safetensors"

STREAMS = {
    "cifar100-10x10": Stream(
        {"data": "{data}/cifar100", "increment": 10}, CIFAR100, ("0-9", "10-19")
    ),
    "cifar100-20x5": Stream({"data": "{data}/cifar100", "increment": 5}, CIFAR100, ("0-4", "5-9")),
    "cifar10-5x2": Stream(
        {
            "data": "{data}/cifar10/train_10000_*of2.bin.gz",
            "eval-data": "{data}/" + CIFAR10[2],
            "increment": 2,
        },
        CIFAR10,
        ("0,1", "2,3"),
    ),
    "mnist-5x2": Stream({"data": "{data}/mnist", "increment": 2}, MNIST, ("0,1", "2,3")),
    "fashion-5x2": Stream(  # only the 10,000 test images are there
        {"data": "{data}/" + FASHION[0], "eval-split": 0.2, "increment": 2}, FASHION, ("0,1", "2,3")
    ),
    "mnist-fashion-2x10": Stream(
        {"data": "{data}/mnist+{data}/" + FASHION[0], "eval-split": 0.2, "by-part": "on"},
        MNIST + FASHION,
        ("0-9", "10-19"),
    ),
}

SGD = {"optimizer": "sgd", "lr": 0.03, "batch-size": 32}
MODELS = {
    "resnet18": Model({"model": "resnet18-cifar", **SGD}, {"energy": 0.9}, 50),
    "separable": Model({"model": "separable-cifar", **SGD}, {"energy": 0.9}, 50),
    "vit": Model(
        {
            "model": "vit_tiny_patch16_224",
            "weights": "{data}/" + VIT,
            "augment": "crop-flip",  # 28 of 224 pixels: the crop of 4 in 32
            "pad": 28,
            "optimizer": "adamw",
            "lr": 5e-4,
            "weight-decay": 0.01,
            "batch-size": 128,
        },
        {"energy": 0.8, "probe-epochs": 1, "probe-lr": 1e-4},
        15,
        (VIT,),
        ("attention", "mlp"),
    ),
    "mnist-cnn": Model(
        {"model": "mnist-cnn", **SGD}, {"energy": 0.9}, 10, (), ("conv", "mlp"), False
    ),
}

# What is run without --full, and with it.
PLAN = (
    ("cifar100-10x10", "resnet18", "equal main twice"),
    ("cifar100-10x10", "separable", "equal main"),
    ("cifar100-10x10", "vit", "equal main twice"),
    ("cifar10-5x2", "resnet18", "main"),
    ("cifar100-20x5", "resnet18", "main"),
    ("mnist-5x2", "mnist-cnn", "main"),
    ("fashion-5x2", "mnist-cnn", "main"),
    ("mnist-fashion-2x10", "mnist-cnn", "main"),
)
MORE = (
    ("cifar100-10x10", "resnet18", "sweep ablation"),
    ("cifar100-10x10", "vit", "sweep ablation"),
    ("cifar100-10x10", "separable", "sweep ablation twice"),
    ("cifar10-5x2", "resnet18", "equal"),
    ("cifar10-5x2", "separable", "main equal"),
    ("cifar10-5x2", "vit", "main equal"),
    ("cifar100-20x5", "resnet18", "equal"),
    ("cifar100-20x5", "separable", "main equal"),
    ("cifar100-20x5", "vit", "main equal"),
    ("mnist-5x2", "mnist-cnn", "equal sweep ablation twice"),
    ("fashion-5x2", "mnist-cnn", "equal"),
    ("mnist-fashion-2x10", "mnist-cnn", "equal"),
)


def whole(full):
    return Suite(STREAMS, MODELS, PLAN + MORE if full else PLAN)


# ---- minutes on a CPU ----

TINY = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "image_size": 28,
    "patch_size": 7,
    "num_channels": 1,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def first_images(source, to, part, n):
    """The first n images of a part of MNIST, as plain idx files."""
    for what, header, each in (("images-idx3", 16, 28 * 28), ("labels-idx1", 8, 1)):
        with gzip.open(source / f"{part}-{what}-ubyte.gz") as file:
            head, data = file.read(header), file.read(n * each)
        cut = head[:4] + struct.pack(">i", n) + head[8:]
        (to / f"{part}-{what}-ubyte").write_bytes(cut + data)


def smoke(data, out):
    """Everything in small: 500 images of MNIST, networks of a few thousand weights."""
    to = pathlib.Path(out) / "smoke-data"
    if not (to / "vit.json").exists():
        to.mkdir(parents=True, exist_ok=True)
        first_images(pathlib.Path(data) / "mnist", to, "train", 500)
        first_images(pathlib.Path(data) / "mnist", to, "t10k", 200)
        (to / "vit.json").write_text(json.dumps(TINY))
    adamw = {"optimizer": "adamw", "lr": 0.01, "batch-size": 16}
    tiny = Model({"model": f"{to}/vit.json", **adamw}, {"energy": 0.9}, 3, (), ("attention", "mlp"))
    stream = Stream({"data": str(to), "increment": 2}, MNIST, ("0,1", "2,3"))
    return Suite(
        {"mnist-5x2": stream},
        {"tiny-vit": tiny, "mnist-cnn": MODELS["mnist-cnn"]._replace(epochs=2)},
        (
            ("mnist-5x2", "tiny-vit", "equal main twice sweep ablation"),
            ("mnist-5x2", "mnist-cnn", "short"),
        ),
        ranks=(1, 2),
        energies=(0.7, 0.9),
        epsilons=(0.02, 0.05),
        probes=(0.5,),
    )


# ---- kinds of cells ----


def main_kinds(pearl, model, suite):
    yield "pearl", pearl
    yield "lora-8", {"strategy": "lora", "rank": 8}
    for strategy in MAIN[2:]:
        yield strategy, {"strategy": strategy}


def equal_kinds(pearl, model, suite):
    for k in suite.ranks:
        yield f"lora-{k}", {"strategy": "lora", "rank": k}
        yield f"pearl-b{k}", {**pearl, "energy": None}


def twice_kinds(pearl, model, suite):
    """Task 1 again, or the next one; what it has come to is the reference."""
    for rule, more in (("r1", {}), ("r2", {"rank-rule": "r2", "energy": None, "eps": 0.05})):
        for kind, tasks in (("twice", "{0}/{0}"), ("next", "{0}/{1}")):
            pair = {"tasks": tasks, "allow-repeats": "on", "increment": None, "by-part": None}
            yield f"{kind}-{rule}", {**pearl, "ref": "first", **more, **pair}


def sweep_kinds(pearl, model, suite):
    for energy in suite.energies:
        if energy != pearl["energy"]:
            yield f"energy-{energy}", {**pearl, "energy": energy}
    for eps in suite.epsilons:
        yield f"eps-{eps}", {**pearl, "rank-rule": "r2", "energy": None, "eps": eps}


def ablation_kinds(pearl, model, suite):
    for probe in suite.probes:
        yield f"probe-{probe}", {**pearl, "probe-epochs": probe}
    yield "init-zero", {**pearl, "init": "zero", "floor": 1}
    yield "rule-l1", {**pearl, "rank-rule": "l1"}
    yield "rule-both", {**pearl, "rank-rule": "both", "eps": 0.02}
    for ref in ("first", "previous", "nearest"):
        if ref != "first" or "weights" in model.options:
            yield f"ref-{ref}", {**pearl, "ref": ref}
    for norm in ("shared", "frozen") if model.norms else ():
        yield f"norm-{norm}", {**pearl, "norm": norm}
    for layers in model.layers:
        yield f"layers-{layers}", {**pearl, "layers": layers}
    yield "truncate", {**pearl, "truncate": "on"}


def short_kinds(pearl, model, suite):
    yield "pearl", pearl
    yield "lora-8", {"strategy": "lora", "rank": 8}


GROUPS = {
    "short": short_kinds,
    "equal": equal_kinds,
    "main": main_kinds,
    "twice": twice_kinds,
    "sweep": sweep_kinds,
    "ablation": ablation_kinds,
}


def cells_of(suite, stream_name, model_name, groups, seeds, settings):
    """Cells of a plan's row; the seeds outermost, so that whatever ran is whole."""
    stream, model = suite.streams[stream_name], suite.models[model_name]
    pearl = {"strategy": "pearl", **model.pearl}
    kinds = itertools.chain(*(GROUPS[g](pearl, model, suite) for g in groups.split()))
    kinds = list(dict(kinds).items())
    for seed in seeds:
        for kind, options in kinds:
            o = {**model.options, **stream.options, "epochs": model.epochs, "seed": seed}
            o.update({**settings, **options})
            o = {key: v for key, v in o.items() if v is not None}
            if "tasks" in o:
                o["tasks"] = o["tasks"].format(*stream.two)
            if kind.startswith("probe-") and o["probe-epochs"] >= o["epochs"]:
                continue  # nothing would be left for the factors
            budget = int(kind[7:]) if kind.startswith("pearl-b") else 0
            yield Cell(stream_name, model_name, kind, seed, o, budget)


def make(suite, seeds, settings):
    """All cells, each once, in the order of the plan."""
    cells = {}
    for stream, model, groups in suite.plan:
        for cell in cells_of(suite, stream, model, groups, seeds, settings):
            cells.setdefault(cell.name, cell)
    return list(cells.values())


def files_of(suite, cell):
    return suite.streams[cell.stream].files + suite.models[cell.model].files
