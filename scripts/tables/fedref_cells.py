"""The cells of scripts/tables/fedref.sh: which runs of hone-fedref there are, and their data.

A cell is stream/part/kind-s<seed>. Parts: `choice` are runs at every learning rate with one seed of
their own, measured on images that the tables never show; `run` are those of the tables, at the
rate chosen there; `robust`, `time` and `ways` have a fixed rate. The seed decides who has which images,
who is asked in which round, and the first weights: runs of one seed are pairs.
"""

import csv
import gzip
import json
import os
import pathlib
import shutil
import struct
from typing import NamedTuple

RATES = (0.003, 0.01, 0.03, 0.1)
CHOICE_SEED = 1000  # of no run in a table
LAMBDAS = (0, 0.03, 0.1, 0.3, 1)


class Stream(NamedTuple):
    """Images, and who has which."""

    options: dict
    test: dict  # what the tables measure with
    valid: dict  # what the learning rate is chosen by
    files: tuple  # below HONE_DATA, all that it reads
    model: str
    target: float
    made: str = ""  # what prepare() writes for it
    whole: bool = False  # rates are tried over all rounds: the best over half break down behind it


class Model(NamedTuple):
    options: dict
    simulate: str  # on a GPU
    files: tuple = ()
    targets: str = "all-linear"  # of pairs and of blocks
    lanes: int = 4  # clients at a time, where they are simulated as "one"; 1: no option of it

    def way(self, options):
        """How clients of a run with such a payload are simulated: a block of the GPU knows whole
        networks only, replicas no blocks of weights."""
        payload = options.get("payload", "full")
        if payload == "sparse":
            return "one"
        return "replicas" if payload != "full" and self.simulate == "block" else self.simulate


class Cell(NamedTuple):
    stream: str
    part: str
    kind: str
    seed: int
    options: dict
    simulate: str
    files: tuple
    made: str
    rate_of: str = ""  # the kind whose rate it takes; "": its options have one
    lanes: int = 1

    @property
    def name(self):
        rate = f"-lr{self.options['lr']:g}" if self.part == "choice" else ""
        return f"{self.stream}/{self.part}/{self.kind}{rate}-s{self.seed}"

    @property
    def group(self):
        """Runs are where the choice of their rate is."""
        if self.part in ("choice", "run"):
            return f"{self.stream}/{self.rate_of or self.kind}"
        return self.name

    def at(self, rate):
        """With the rate that was chosen; "{lr}" among the options stands for it."""
        chosen = {k: rate if v == "{lr}" else v for k, v in self.options.items()}
        return self._replace(options={**chosen, "lr": rate})


class Suite(NamedTuple):
    streams: dict
    models: dict
    plan: tuple  # of (stream, groups)
    robust: str  # the stream of part robust
    time: str
    rounds: dict  # of part robust and part time
    clients: int = 10  # of part robust, all of them asked
    rates: tuple = RATES
    lora_rates: tuple = RATES + (0.3, 1.0)  # pairs begin at zero and move slowly
    adamw_rates: tuple = (0.0003, 0.001, 0.003, 0.01)
    ways: tuple = ()  # of (stream, payload, rounds): times of every way to simulate its clients


# ---- models ----

VIT = "vit-tiny-imagenet/model.f16.safetensors"

MODELS = {
    # Two convolutions of 8 and 16 channels, 64 hidden: a client fits into a block of the GPU.
    "small": Model({"model": "mnist-cnn-small"}, "block"),
    # Many programs side by side keep a GPU busy: replicas of a group would wait for its longest.
    "cinic": Model({"model": "cinic-cnn"}, "one", lanes=3),
    # Its three classes are background, white and grey matter.
    "unet": Model({"model": "unet3d-fets", "classes": 3}, "one", lanes=1),
    "unet4": Model({"model": "unet3d-fets"}, "one", lanes=1),
    "vit": Model(
        {"model": "vit_tiny_patch16_224", "weights": "{data}/" + VIT, "dtype": "bf16"},
        "one",
        (VIT,),
        "attn.qkv",
    ),
}

# ---- streams ----
#
# Targets were declared before any cell of these streams was run. The same network was trained on
# all of a stream's images in one place (one client with everything: sgd, 0.03, batches of 32, seed
# 1000). The odds of an error there, wrong to right, are multiplied by 1.5 where the clients are alike or
# differ in size alone, by 2 at alpha 0.5, and by 3 at alpha 0.1, and the accuracy is rounded to
# half a percent: what a user might still accept for leaving the images where they are, by one rule
# for all streams that knows nothing of any method.
#
#   in one place     images   epochs   test accuracy, %, late
#   MNIST            60,000   10       98.75
#   Fashion-MNIST     8,000   20       84.2
#   CIFAR-10         10,000   20       63.5
#   PneumoniaMNIST    4,708   20       83.9
#
# CIFAR-10 with the transformer: 90 %, the MNI volume: 80 % (mean Dice), FeTS: 50 %: round
# figures; nothing was measured for them.


def mnist_names(*parts):
    return tuple(f"{p}-{what}-ubyte" for p in parts for what in ("images-idx3", "labels-idx1"))


MNIST = tuple(f"mnist/{name}.gz" for name in mnist_names("train", "t10k"))
FASHION = tuple(f"fashion-mnist/{name}.gz" for name in mnist_names("t10k"))
PNEUMONIA = tuple(
    f"pneumoniamnist/{part}-{name}"
    for part in ("train", "val", "test")
    for name in ("images-idx3-ubyte.gz", "labels-idx1-ubyte")
)
CIFAR10 = tuple(
    f"cifar10/{name}"
    for name in ("train_10000_1of2.bin.gz", "train_10000_2of2.bin.gz", "test_2000.bin.gz")
)
TENTH = {"eval-split": 0.1}  # of the training images
MANY = {"clients": 100, "per-round": 10, "rounds": 200, "batch-size": 32}
# MNIST's 10,000 test images cost more than a round of its clients.
SPARING = {**MANY, "eval-every": 2, "eval-batch": 1000}
# A client of CIFAR-10 or of Fashion-MNIST's 10,000 has a hundred images or fewer, three batches;
# five epochs are what others let such clients do (Li et al. 2022).
FEW = {**MANY, "epochs": 5, "eval-batch": 1000}
# All of them asked.
SITES = {"clients": 10, "min-samples": 20, "rounds": 200, "batch-size": 32, "eval-batch": 1000}


def dirichlet(alpha):
    return {"partition": "dirichlet", "alpha": alpha}


def mnist(alpha, target):
    images = {"data": f"{{data}}/{MNIST[0]}"}
    test = {"eval-data": f"{{data}}/{MNIST[2]}"}
    return Stream({**images, **SPARING, **dirichlet(alpha)}, test, TENTH, MNIST, "small", target)


def cifar10(alpha, target, model="cinic", **more):
    images = {"data": "{data}/cifar10/train_10000_*of2.bin.gz"}
    test = {"eval-data": f"{{data}}/{CIFAR10[2]}"}
    options = {**images, **FEW, **dirichlet(alpha), **more}
    return Stream(options, test, TENTH, CIFAR10, model, target)


def fashion(alpha, target):
    """Only the 10,000 test images are there: every fifth one is held out."""
    images = {"data": "{out}/data/fashion/train-images-idx3-ubyte"}
    test = {"eval-data": "{out}/data/fashion/t10k-images-idx3-ubyte"}
    options = {**images, **FEW, **dirichlet(alpha)}
    return Stream(options, test, TENTH, FASHION, "small", target, "fashion")


def pneumonia(target, **sites):
    part = lambda name: f"{{data}}/pneumoniamnist/{name}-images-idx3-ubyte.gz"
    test, valid = {"eval-data": part("test")}, {"eval-data": part("val")}
    options = {"data": part("train"), **SITES, **sites}
    return Stream(options, test, valid, PNEUMONIA, "small", target)


# The MNI volume: the 80 % of the brain in front are the sites', a grid of columns whose scanners
# scale and shift values differently; they are measured on what lies behind, with the same scanners.
MNI = ("nifti/mni_icbm152_t1.nii.gz", "meshnet-brain/meshnet5_on_mni_t1.nii.gz")
VOLUMES = {
    "partition": "group",
    "clients": 0,  # as many as sites
    "optimizer": "sgd",
    "momentum": 0.9,
    "scale-spread": 0.3,
    "shift-spread": 0.3,
}


def mni(target, made, **more):
    part = lambda name: f"{{out}}/data/{made}/{name}.csv"
    options = {"data": part("train"), **VOLUMES, **more}
    return Stream(
        options, {"eval-data": part("test")}, {"eval-split": 0.2}, MNI, "unet", target, made
    )


MODALITIES = ("t1", "t1ce", "t2", "flair")


def fets(modality="all"):
    """The authors' network and loss, on patches and with scaled values (spec, section 6: theirs
    reads whole volumes of stored numbers). All four modalities as channels, or one."""
    made = "fets" if modality == "all" else f"fets-{modality}"
    part = lambda name: f"{{out}}/data/{made}/{name}.csv"
    test = {"data": part("train"), "eval-data": part("test")}
    valid = {"data": part("fit"), "eval-data": part("valid")}
    options = {"partition": "group", "clients": 0, "relabel": "4:3", "rounds": 60, "eval-every": 10}
    options.update({"patch": 128, "per-region": 1, "batch-size": 1, "overlap": 0.25})
    options.update({"cross-weight": 0, "focal-weight": 1, "focal-alpha": 0.1, "focal-gamma": 4.5})
    options.update({"optimizer": "sgd", "momentum": 0.9})
    options["channels"] = ",".join(channels_of(modality))
    return Stream(options, test, valid, (), "unet4", 0.5, made)


def channels_of(modality):
    return MODALITIES if modality == "all" else (modality,)


STREAMS = {
    "mnist-a0.1": mnist(0.1, 0.965),
    "mnist-a0.5": mnist(0.5, 0.975),
    "mnist-a100": mnist(100, 0.98),
    "cifar10-a0.1": cifar10(0.1, 0.365)._replace(whole=True),
    "cifar10-a0.5": cifar10(0.5, 0.465),
    "cifar10-a100": cifar10(100, 0.535),
    "fashion-a0.1": fashion(0.1, 0.64),
    "fashion-a0.5": fashion(0.5, 0.725),
    "fashion-a100": fashion(100, 0.78),
    # Sites that differ in size alone, and in their share of the sick.
    "pneumonia-sizes": pneumonia(0.775, partition="quantity", alpha=0.5),
    "pneumonia-labels": pneumonia(0.725, **dirichlet(0.5)),
    "cifar10-vit": cifar10(0.5, 0.9, "vit", epochs=1, rounds=20, **{"eval-batch": 250}),
    "mni-sites": mni(
        0.8,
        "mni",
        **{"sites": "3x1x3", "patch": 32, "per-region": 8, "batch-size": 4, "epochs": 2},
        **{"window": 48, "overlap": 0.5, "rounds": 60, "eval-every": 4},
    ),
}

PLAN = (
    ("mnist-a0.1", "methods penalties"),
    ("mnist-a0.5", "methods parts"),
    ("mnist-a100", "methods"),
    ("cifar10-a0.1", "methods"),
    ("cifar10-a0.5", "methods"),
    ("cifar10-a100", "methods"),
    ("fashion-a0.1", "methods penalties"),
    ("pneumonia-sizes", "methods"),
    ("pneumonia-labels", "methods"),
    ("cifar10-vit", "payload"),
    ("mni-sites", "segmentation"),
)
MORE = (
    ("mnist-a0.5", "penalties"),
    ("mnist-a100", "penalties"),
    ("cifar10-a0.1", "penalties"),
    ("cifar10-a0.5", "penalties"),
    ("cifar10-a100", "penalties"),
    ("fashion-a0.5", "methods penalties"),
    ("fashion-a100", "methods penalties"),
    ("pneumonia-sizes", "penalties"),
    ("pneumonia-labels", "penalties"),
)


def whole(full, with_fets, modality="all"):
    more = (("fets", "segmentation"),) if with_fets else ()
    return Suite(
        streams={**STREAMS, "fets": fets(modality)},
        models=MODELS,
        plan=(PLAN + MORE if full else PLAN) + more,
        robust="mnist-a0.5",
        time="mnist-a0.5",
        rounds={"robust": 50, "time": 20},
        ways=(("mnist-a0.5", "full", 20), ("cifar10-vit", "lora", 4)),
    )


# ---- minutes on a CPU ----

TINY = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "image_size": 28,
    "patch_size": 7,
    "num_channels": 1,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def smoke():
    """Every table in small: 500 images of MNIST, six clients, five rounds, two rates."""
    folder = "{out}/data/small"
    images = {"data": f"{folder}/train-images-idx3-ubyte"}
    test = {"eval-data": f"{folder}/t10k-images-idx3-ubyte"}
    few = {"clients": 6, "per-round": 3, "rounds": 5, "epochs": 2}
    few.update({"batch-size": 8, "eval-batch": 50})

    def stream(model, target, **part):
        return Stream({**images, **few, **part}, test, TENTH, MNIST, model, target, "small")

    targets = "attention.attention.query,attention.attention.value"
    return Suite(
        streams={
            "mnist-a0.5": stream("small", 0.3, **dirichlet(0.5)),
            "mnist-sizes": stream("small", 0.3, partition="quantity", alpha=0.5),
            "mnist-vit": stream("vit", 0.3, **dirichlet(0.5)),
            "mni-sites": mni(
                0.6,
                "mni-small",
                **{"sites": "2x1x2", "patch": 16, "per-region": 4, "batch-size": 4, "epochs": 2},
                **{"rounds": 4, "eval-every": 2},
            ),
        },
        models={
            "small": MODELS["small"],
            "unet": MODELS["unet"],
            "vit": Model({"model": f"{folder}/vit.json"}, "one", (), targets),
        },
        plan=(
            ("mnist-a0.5", "methods penalties parts"),
            ("mnist-sizes", "short"),
            ("mnist-vit", "payload"),
            ("mni-sites", "short"),
        ),
        robust="mnist-a0.5",
        time="mnist-a0.5",
        rounds={"robust": 3, "time": 3},
        clients=6,
        rates=(0.03, 0.1),
        lora_rates=(0.03, 0.1),
        adamw_rates=(0.003, 0.01),
        ways=(("mnist-a0.5", "full", 3), ("mnist-vit", "lora", 2)),
    )


# ---- kinds of runs: name, options, and the kind whose rate it takes, "" for its own ----

METHODS = (
    *("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "median", "trimmed-mean", "ema"),
    *("fedref-v1", "fedref-v2", "fedref-v3"),
)
MU = {"fedprox": {"mu": 0.1}}  # of the 0.001 to 1 of Li et al. 2020


def method(name):
    return {"method": name, **MU.get(name, {})}


def methods(*names):
    """fedref-v1 as released is FedAvg but for rounding (spec, section 3), and takes its rate."""
    for name in names:
        yield name, method(name), "fedavg" if name == "fedref-v1" else ""


def method_kinds(model):
    yield from methods(*METHODS)


def short_kinds(model):
    yield from methods("fedavg", "fedref-v3")


def segmentation_kinds(model):
    """Those that the authors compare on FeTS (their FedOpt is FedAdam), and ours."""
    yield from methods("fedavg", "fedprox", "fedadam", "ema", "fedref-v1", "fedref-v2", "fedref-v3")


def penalty_kinds(model):
    """Lambda of the reference, which stays as it is; its other forms; mu of FedProx."""
    yield "fedavg", method("fedavg"), ""
    for value in LAMBDAS:
        o = {"method": "fedref-v3", "lambda2": value, "growth": 1, "lambda2-cap": value}
        yield f"lambda-{value:g}", o, "" if value else "fedavg"  # which it is, bit for bit
    yield "fedref-v3", method("fedref-v3"), ""
    yield "v3-uniform", {"method": "fedref-v3", "reference-weights": "uniform"}, ""
    yield "v3-sent", {"method": "fedref-v3", "lambda1": 0.1}, ""
    yield "v1-client-rate", {"method": "fedref-v1", "server-rate": "{lr}"}, "fedavg"
    for value in (0.01, 1):
        yield f"mu-{value:g}", {"method": "fedprox", "mu": value}, ""


def payload(name, model):
    """Options of what travels. Pairs and blocks of the same matrices, and as many values of both."""
    lora = {"lora-rank": 8, "lora-targets": model.targets}
    sparse = {"sparse-budget": "lora:8", "sparse-targets": model.targets}
    return {"payload": name, **{"lora": lora, "sparse": sparse}.get(name, {})}


def parts_kinds(model):
    """What travels of a network. Blocks are trained by adamw alone, hence pairs by both rules."""
    for name in ("full", "lora", "head"):
        yield name, {"method": "fedavg", **payload(name, model)}, ""
    for kind, name in (("adamw-lora", "lora"), ("adamw-sparse", "sparse")):
        yield kind, {"method": "fedavg", "optimizer": "adamw", **payload(name, model)}, ""


def payload_kinds(model):
    """The same, and shorter. An encoding runs at the rate of what it encodes."""
    yield from parts_kinds(model)
    for name in ("full", "lora"):
        for encoding in ({"encoding": "bf16"}, {"encoding": "topk", "topk": 0.05}):
            o = {"method": "fedavg", **payload(name, model), **encoding}
            yield f"{name}-{encoding['encoding']}", o, name


GROUPS = {
    "methods": method_kinds,
    "short": short_kinds,
    "segmentation": segmentation_kinds,
    "penalties": penalty_kinds,
    "payload": payload_kinds,
    "parts": parts_kinds,
}


def cells_of(suite, name, groups, seeds, settings):
    """Cells of a plan's row; the seeds outermost, so that whatever ran is whole."""
    stream = suite.streams[name]
    model = suite.models[stream.model]
    files, made = stream.files + model.files, stream.made
    common = {**model.options, **stream.options, "below-quorum": "skip", **settings}
    kinds = {}
    for group in groups.split():
        for kind, options, rate_of in GROUPS[group](model):
            kinds.setdefault(kind, (options, rate_of))
    for kind, (options, rate_of) in kinds.items():
        for rate in () if rate_of else rates_of(suite, kind):
            o = {**common, **stream.valid, **options, "lr": rate, "seed": CHOICE_SEED}
            o.update(sparing(o["rounds"], o.get("eval-every", 1), stream.whole))
            way = model.way(options)
            cell = Cell(name, "choice", kind, CHOICE_SEED, o, way, files, made)
            yield cell._replace(lanes=model.lanes)
    for seed in seeds:
        for kind, (options, rate_of) in kinds.items():
            o = {**common, **stream.test, "target": stream.target, **options, "seed": seed}
            run = Cell(name, "run", kind, seed, o, model.way(options), files, made)
            yield run._replace(rate_of=rate_of or kind, lanes=model.lanes)


def sparing(rounds, every, whole):
    """A rate is chosen in half of the rounds, at least 20, or in all; about 20 are measured."""
    rounds = rounds if whole else max(min(rounds, 20), rounds // 2)
    return {"rounds": rounds, "eval-every": max(every, rounds // 20)}


def rates_of(suite, kind):
    if kind.startswith("adamw-"):
        return suite.adamw_rates
    return suite.lora_rates if kind.startswith(("lora", "head")) else suite.rates


# ---- cells with a fixed rate ----

DAMAGE = ("nan", "shape", "stale", "garbage", "truncated")


def injections(clients, rounds):
    """Two clients in every round send what cannot be used; all do in turn, in all ways in turn."""
    words = []
    for r in range(1, rounds + 1):
        for k, client in enumerate((r % clients, (r + clients // 2) % clients)):
            words.append(f"{DAMAGE[(r + k) % len(DAMAGE)]}:{client}@{r}")
    return ",".join(words)


def robust_cells(suite, seeds, settings):
    stream = suite.streams[suite.robust]
    model, rounds = suite.models[stream.model], suite.rounds["robust"]
    all_asked = {"clients": suite.clients, "per-round": suite.clients, "rounds": rounds}
    common = {**model.options, **stream.options, **stream.test, **settings, **all_asked}
    common.update({"quorum": suite.clients // 2, "below-quorum": "skip", "lr": 0.03})
    trouble = {
        "clean": {},
        "injected": {"inject": injections(suite.clients, rounds)},
        "absent": {"dropout": 0.2, "late": 0.2},
    }
    for seed in seeds:
        for name in ("fedavg", "median", "trimmed-mean", "fedref-v3"):
            for what, options in trouble.items():
                o = {**common, **method(name), **options, "seed": seed}
                yield Cell(
                    suite.robust,
                    "robust",
                    f"{name}-{what}",
                    seed,
                    o,
                    model.simulate,
                    stream.files,
                    stream.made,
                )


def time_cells(suite, settings):
    stream = suite.streams[suite.time]
    model = suite.models[stream.model]
    more = {"rounds": suite.rounds["time"], "lr": 0.03, "below-quorum": "skip", "seed": 0}
    common = {**model.options, **stream.options, **stream.test, **settings, **more}
    for name in METHODS:
        o = {**common, **method(name)}
        yield Cell(suite.time, "time", name, 0, o, model.simulate, stream.files, stream.made)


def way_cells(suite, settings):
    """Every way to simulate clients that there is for a payload."""
    for name, what, rounds in suite.ways:
        stream = suite.streams[name]
        model = suite.models[stream.model]
        more = {"rounds": rounds, "lr": 0.03, "seed": 0, "method": "fedavg"}
        o = {**model.options, **stream.options, **stream.test, **settings, **more}
        o.update({"below-quorum": "skip", "eval-every": rounds, **payload(what, model)})
        ways = [("one", "one", 1)] + [(f"lanes-{n}", "one", n) for n in (2, 4, 8)]
        if model.simulate != "one":
            ways.append(("replicas", "replicas", 1))
        if model.way(o) == "block":
            ways.append(("block", "block", 1))
        for way, simulate, lanes in ways:
            files = stream.files + model.files
            cell = Cell(name, "ways", way, 0, o, simulate, files, stream.made)
            yield cell._replace(lanes=lanes)


def make(suite, seeds, settings):
    """All cells, each once, in the order of the plan."""
    cells = {}
    for stream, groups in suite.plan:
        for cell in cells_of(suite, stream, groups, seeds, settings):
            cells.setdefault(cell.name, cell)
    own = {k: v for k, v in settings.items() if k != "rounds"}
    fixed = (robust_cells(suite, seeds, own), time_cells(suite, own), way_cells(suite, own))
    for cell in (cell for those in fixed for cell in those):
        cells[cell.name] = cell
    return list(cells.values())


# ---- data, written once into DIR/data ----


def read_idx(path):
    """Sizes and bytes of a file of MNIST's kind."""
    with gzip.open(path) as file:
        text = file.read()
    n = text[3]
    return struct.unpack(f">{n}i", text[4 : 4 + 4 * n]), text[:4], text[4 + 4 * n :]


def write_idx(source, to, part, ids):
    """Images `ids` of a pair of files, and their labels, as plain idx files."""
    for what in ("images-idx3", "labels-idx1"):
        sizes, magic, data = read_idx(f"{source}-{what}-ubyte.gz")
        each = len(data) // sizes[0]
        head = magic + struct.pack(f">{len(sizes)}i", len(ids), *sizes[1:])
        body = b"".join(data[i * each : (i + 1) * each] for i in ids)
        (to / f"{part}-{what}-ubyte").write_bytes(head + body)


def write_fashion(data, to):
    source = f"{data}/fashion-mnist/t10k"
    write_idx(source, to, "train", [i for i in range(10000) if i % 5 != 4])
    write_idx(source, to, "t10k", [i for i in range(10000) if i % 5 == 4])


def write_small(data, to):
    write_idx(f"{data}/mnist/train", to, "train", range(500))
    write_idx(f"{data}/mnist/t10k", to, "t10k", range(100))
    (to / "vit.json").write_text(json.dumps(TINY))


class Nifti:
    """A NIfTI-1 file of bytes in one piece: what the MNI volume and its labels are."""

    def __init__(self, path):
        with gzip.open(path) as file:
            text = file.read()
        self.size = struct.unpack("<3h", text[42:48])
        first = int(struct.unpack("<f", text[108:112])[0])
        whole = self.size[0] * self.size[1] * self.size[2]
        if struct.unpack("<h", text[70:72])[0] != 2 or len(text) != first + whole:
            raise ValueError(f"{path}: not a volume of unsigned bytes")
        self.head, self.data = text[:first], text[first:]

    def planes(self):
        """Where along the second axis there are voxels that are not 0."""
        x, y, z = self.size
        lines = (self.data[i * x : (i + 1) * x] for i in range(y * z))
        found = {i % y for i, line in enumerate(lines) if any(line)}
        return min(found), max(found) + 1

    def write(self, path, box):
        """The box [from, to) along each axis. Its place in space is not moved with it."""
        x, y, _ = self.size
        (x0, x1), (y0, y1), (z0, z1) = box
        head = bytearray(self.head)
        head[42:48] = struct.pack("<3h", x1 - x0, y1 - y0, z1 - z0)
        lines = ((k * y + j) * x for k in range(z0, z1) for j in range(y0, y1))
        path.write_bytes(bytes(head) + b"".join(self.data[i + x0 : i + x1] for i in lines))


def write_sites(data, to, box=None):
    """Training and test part of the MNI volume, or of a box of it, and their lists."""
    value, label = (Nifti(f"{data}/{name}") for name in MNI)
    x, (first, end), z = box or ((0, value.size[0]), label.planes(), (0, value.size[2]))
    middle = first + (end - first) // 5
    for part, y in (("test", (first, middle)), ("train", (middle, end))):
        value.write(to / f"{part}.nii", (x, y, z))
        label.write(to / f"{part}_seg.nii", (x, y, z))
        (to / f"{part}.csv").write_text(f"{part}.nii,{part}_seg.nii\n")


def write_small_sites(data, to):
    write_sites(data, to, ((66, 130), (70, 150), (60, 124)))


class Fets(NamedTuple):
    """A user's copy of FeTS2022: DIR/<subject>/<subject>_<modality>.nii.gz and _seg.nii.gz, sites by
    the columns Partition_ID and Subject_ID of a CSV file."""

    folder: pathlib.Path
    partition: pathlib.Path
    modality: str  # "all": each of MODALITIES
    most: int  # subjects of a site

    def sites(self):
        """{site: [subject]} in the order of the file."""
        found = {}
        with self.partition.open(newline="") as file:
            for line in csv.DictReader(file):
                found.setdefault(line["Partition_ID"], []).append(line["Subject_ID"])
        return {site: those[: self.most] for site, those in found.items()}

    def line(self, site, subject):
        parts = (*channels_of(self.modality), "seg")
        names = [self.folder / subject / f"{subject}_{what}" for what in parts]
        files = []
        for name in names:
            there = [
                f"{name}{end}" for end in (".nii.gz", ".nii") if os.path.exists(f"{name}{end}")
            ]
            if not there:
                raise FileNotFoundError(f"{name}.nii.gz")
            files.append(os.path.abspath(there[0]))
        return "\t".join((*files, f"site {site}"))


    def facts(self):
        """What the lists follow from."""
        paths = {"folder": self.folder, "partition": self.partition}
        return {**self._asdict(), **{k: os.path.abspath(v) for k, v in paths.items()}}

    def other(self, out):
        """What the lists in `out` were made with where that is not this, as text."""
        for path in sorted(pathlib.Path(out).glob("data/fets*/copy.json")):
            had, now = json.loads(path.read_text()), self.facts()
            for k in now:
                if had.get(k) != now[k]:
                    return f"{path} was made with {k} {had.get(k)}, not {now[k]}"
        return ""


def write_fets(copy, to):
    """Every fifth subject of a site is held out for the tables, and of the others every fifth for
    the choice of the rate; sites with fewer than five give none."""
    lists = {"train": [], "test": [], "fit": [], "valid": []}
    for site, subjects in copy.sites().items():
        lines = [copy.line(site, subject) for subject in subjects]
        train = [line for i, line in enumerate(lines) if i % 5 != 4]
        lists["test"] += lines[4::5]
        lists["train"] += train
        lists["valid"] += train[4::5]
        lists["fit"] += [line for i, line in enumerate(train) if i % 5 != 4]
    for name, lines in lists.items():
        if not lines:
            raise ValueError(f"{copy.partition}: too few subjects: none for {name}")
        (to / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (to / "copy.json").write_text(json.dumps(copy.facts()) + "\n")


MADE = {
    "fashion": write_fashion,
    "small": write_small,
    "mni": write_sites,
    "mni-small": write_small_sites,
}


def prepare(made, data, out, copy=None):
    """Whole or not at all, even where several calls share `out`. copy: of FeTS"""
    to = pathlib.Path(out) / "data" / made
    if to.exists():
        return
    part = to.with_name(f"{made}.part{os.getpid()}")
    part.mkdir(parents=True)
    try:
        if made.startswith("fets"):
            write_fets(copy, part)
        else:
            MADE[made](data, part)
        part.rename(to)
    except OSError:
        if not to.exists():  # another one was not faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
