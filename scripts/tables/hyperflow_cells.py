"""The cells of scripts/tables/hyperflow.sh: which stages of hone-hyperflow there are.

A cell is setting/stage/kind-s<seed>. A setting is one run of the program, in a folder that all of
its cells share: domains, protocol, backbone, trajectories. Stages: `generate` (one), `cost` (what
adaptation and fine-tuning would take), `base` (a method of fine-tuning), `train` (a drift network),
`flow` (that network integrated). The seed decides class splits, episodes, and all else.
"""

import pathlib
import zipfile
from typing import NamedTuple

METHODS = ("direct", "head", "bias", "ln", "lora", "full")
STAGES = ("generate", "cost", "base", "train", "flow")

VIT = "vit-tiny-imagenet/model.f16.safetensors"
CIFAR100 = tuple(f"cifar100/{n}.bin.gz" for n in ("train_1of3", "train_2of3", "train_3of3", "test_5000"))
OMNIGLOT = ("omniglot/images-105x105-idx3-ubyte.gz", "omniglot/labels-idx1-short")
RUNS = "omniglot/all_runs.zip"
FASHION = "fashion-mnist/t10k-images-idx3-ubyte.gz"
MNIST = "mnist/t10k-images-idx3-ubyte.gz"
PNEUMONIA = "pneumoniamnist/test-images-idx3-ubyte.gz"
CIFAR10 = "cifar10/test_2000.bin.gz"

# Superclasses of CIFAR-100 that no class of training, validation or in-domain test is of: things,
# plants, people, animals. 20 classes; the other 80 are split as 64 / 16 / 20.
HELD_OUT = "vehicles_1,trees,people,insects"


class Drift(NamedTuple):
    """A network of a setting: options of train; ways to integrate it beside the default."""

    options: dict
    integrate: tuple = ()


class Setting(NamedTuple):
    options: dict  # of generate
    train: dict  # of every network
    drifts: dict
    eval: dict
    methods: tuple
    targets: tuple  # as the program names them
    files: tuple
    adapt: str = ""  # the target whose episode is adapted to, for the time that takes


class Cell(NamedTuple):
    setting: str
    stage: str
    kind: str
    seed: int
    options: dict  # of the stage's verb
    files: tuple
    targets: tuple
    label: str = ""  # what the program calls the method
    drift: str = ""
    adapt: str = ""
    generate: dict = {}  # cost: options of the setting

    @property
    def name(self):
        return f"{self.setting}/{self.stage}/{self.kind}-s{self.seed}"

    @property
    def group(self):
        return f"{self.setting}-s{self.seed}"


# ---- settings ----

BACKBONE = {
    "model": "vit_tiny_patch16_224",
    "weights": "{data}/" + VIT,
    "dtype": "bf16",
}
STEPS = (1, 2, 5, 25, 50)


def main_setting(**more):
    targets = ("cifar100:test", "omniglot:test", "cifar100:held-out", "mnist=" + MNIST)
    targets += ("fashion-mnist=" + FASHION, "pneumoniamnist=" + PNEUMONIA, "cifar10=" + CIFAR10)
    return Setting(
        options={
            **BACKBONE,
            "data": "{data}",
            "train-domains": "cifar100,omniglot",
            "test-domains": ",".join(targets),
            "hold-out": HELD_OUT,
            "way": 5,
            "shot": 5,
            "query-shot": 15,
            "tune-steps": 50,
            "knots": 11,
            "trajectories": 4000,
            "inits": 4,
            "at-once": 64,
            **more,
        },
        train={"encoder": "resnet18-cifar", "iterations": 20000},
        drifts={"drift": Drift({}, ())},
        eval={"test-episodes": 600, "one-shot-runs": "{out}/omniglot-runs"},
        methods=METHODS,
        targets=(*(named(t) for t in targets), "omniglot-runs"),
        files=(VIT, *CIFAR100, *OMNIGLOT, RUNS, FASHION, MNIST, PNEUMONIA, CIFAR10),
        adapt="cifar10",
    )


def named(target):
    """What the program calls it in the names of files."""
    name, _, part = target.partition(":")
    return name.split("=")[0] + (f"-{part}" if part else "")


def whole(a):
    """The settings of a call."""
    s = main_setting()
    ways = tuple(("euler", m) for m in STEPS) + (("midpoint", 10), ("rk4", 10))
    drifts = {"drift": Drift({}, ways), "line": Drift({"curve": "L"})}
    if a.full:
        drifts["pieces"] = Drift({"curve": "PL"})
        drifts["still"] = Drift({"jitter": 0})
        drifts["wide"] = Drift({"width": 384})
    settings = {"main": s._replace(drifts=drifts)}
    if a.full:
        one = {"drift": Drift({})}
        short = ("direct", "bias")
        settings["one-shot"] = main_setting(shot=1)._replace(drifts=one)
        settings["biases"] = main_setting(adapted="biases")._replace(drifts=one, methods=short)
        settings["clean"] = main_setting(inits=1)._replace(drifts=one, methods=short)
        settings["noisy"] = main_setting(noise=1)._replace(drifts=one, methods=short)
        settings["knots"] = main_setting(knots=51)._replace(drifts=one, methods=short)
        settings["small-encoder"] = s._replace(  # a run has one encoder
            train={**s.train, "encoder": "separable-cifar"}, drifts=one, methods=short
        )
        settings["forty-thousand"] = main_setting(trajectories=40000)._replace(
            drifts=one, methods=short
        )
    return {**settings, **papers(a)}


# ---- the paper's benchmarks, for those who have them ----

SOURCES = ("ilsvrc_2012", "omniglot", "aircraft", "cu_birds", "dtd", "quickdraw", "fungi", "vgg_flower")
OTHERS = ("traffic_sign", "mscoco")
CDFSL = ("CropDisease", "EuroSAT", "ISIC", "ChestX")
SHOTS = (5, 20, 50)


def folders(root, names):
    return [f"{n}={pathlib.Path(root).resolve() / n}" for n in names]


def lists_of(a):
    """The published class splits, where they are given."""
    if not a.meta_splits:
        return {}
    root = pathlib.Path(a.meta_splits).resolve()
    return {"splits": ",".join(f"{n}={root / n}.txt" for n in SOURCES)}


def lacks_alphabets(root):
    """Omniglot is there as folders of characters that are in no folder of an alphabet."""
    folder = pathlib.Path(root) / "omniglot"
    folder = folder / "train" if (folder / "train").is_dir() else folder
    below = [p for p in folder.glob("[!.]*") if p.is_dir()]
    return bool(below) and not any(q.is_dir() for p in below for q in p.iterdir())


def images_of(a, protocol):
    """How many images of a class are used. Meta-Dataset draws shots by the sizes of the classes: all
    images, where no cap is asked for. Other protocols do not look: the program's default."""
    if a.class_images or protocol == "meta-dataset":
        return {"class-images": a.class_images}
    return {}


def papers(a):
    settings = {}
    base = main_setting()
    drop = ("hold-out", "way", "query-shot", "shot")
    plain = {k: v for k, v in base.options.items() if k not in drop}
    base = base._replace(
        train={**base.train, "encoder": "resnet18", "encoder-image": 128},
        eval={"test-episodes": 600},
    )
    if a.meta_dataset:
        train, other = folders(a.meta_dataset, SOURCES), folders(a.meta_dataset, OTHERS)
        settings["meta-dataset"] = base._replace(
            options={
                **plain,
                "train-domains": ",".join(train),
                "test-domains": ",".join([f"{n}:test" for n in SOURCES] + other),
                **lists_of(a),
                "protocol": "meta-dataset",
                **images_of(a, "meta-dataset"),
                "image-size": a.image,
                "trajectories": a.trajectories,
                "at-once": 8,
            },
            targets=tuple(f"{n}-test" for n in SOURCES) + OTHERS,
            files=(VIT,),
            adapt="traffic_sign",
        )
    if a.cdfsl:
        for shot in SHOTS:
            source = folders(a.meta_dataset, SOURCES) if a.meta_dataset else ["cifar100"]
            settings[f"cdfsl-{shot}"] = base._replace(
                options={
                    **plain,
                    "train-domains": ",".join(source),
                    "test-domains": ",".join(folders(a.cdfsl, CDFSL)),
                    **(lists_of(a) if a.meta_dataset else {}),
                    "protocol": "cdfsl",
                    **images_of(a, "cdfsl"),
                    "shot": shot,
                    "image-size": a.image,
                    "trajectories": a.trajectories,
                    "at-once": 32 if shot == 5 else 8,
                },
                targets=CDFSL,
                files=(VIT,) if a.meta_dataset else (VIT, *CIFAR100),
                adapt="EuroSAT",
            )
    return settings


def smoke():
    """All kinds of tables, on two small data sets and a small network."""
    s = main_setting()
    targets = ("mnist:test", "fashion-mnist=" + FASHION)
    small = {
        "model": "{out}/vit.json",
        "data": "{data}",
        "train-domains": "mnist=" + MNIST,
        "test-domains": ",".join(targets),
        "split": "50/20/30",
        "class-images": 60,
        "way": 2,
        "shot": 3,
        "query-shot": 5,
        "valid-episodes": 4,
        "tune-steps": 10,
        "knots": 6,
        "trajectories": 64,
        "inits": 2,
        "at-once": 8,
    }
    network = {"encoder": "mnist-cnn-small", "encoder-image": 28, "encoder-epochs": 2}
    network |= {"width": 32, "blocks": 1, "queries": 4, "iterations": 200, "warmup": 20}
    network |= {"drift-batch": 4, "times": 8, "save-every": 100}
    return {
        "main": s._replace(
            options=small,
            train=network,
            drifts={"drift": Drift({}, (("rk4", 10),)), "line": Drift({"curve": "L"})},
            eval={"test-episodes": 20},
            targets=tuple(named(t) for t in targets),
            files=(MNIST, FASHION),
            adapt="fashion-mnist",
        )
    }


# ---- cells ----


def flow_cells(name, s, seed, drift, d):
    kind = "hyperflow" if drift == "drift" else f"hyperflow@{drift}"
    base = {**s.eval, "drift": drift, "methods": "hyperflow,hyperflow-global,descent"}
    common = (s.files, s.targets)
    yield Cell(name, "flow", kind, seed, base, *common, label=kind, drift=drift)
    for integrator, steps in d.integrate:
        options = {**base, "integrator": integrator, "integration-steps": steps}
        options["methods"] = "hyperflow"
        label = f"{kind}@{integrator}{steps}"
        yield Cell(name, "flow", label, seed, options, *common, label=label, drift=drift)


def of_setting(name, s, seed):
    options = {**s.options, "seed": seed}
    yield Cell(name, "generate", "trajectories", seed, options, s.files, s.targets)
    for method in s.methods:
        o = {**s.eval, "methods": method}
        yield Cell(name, "base", method, seed, o, s.files, s.targets, label=method)
    for drift, d in s.drifts.items():
        o = {**s.train, **d.options, "drift": drift}
        yield Cell(name, "train", drift, seed, o, s.files, s.targets, drift=drift)
        yield from flow_cells(name, s, seed, drift, d)
    cost = {k: v for k, v in s.train.items() if k not in ("iterations", "warmup", "save-every")}
    yield Cell(
        name, "cost", "plan", seed, cost, s.files, s.targets, drift="drift", adapt=s.adapt,
        generate=options,
    )


def make(settings, seeds):
    return [c for name, s in settings.items() for seed in seeds for c in of_setting(name, s, seed)]


VIT_SMALL = (
    '{"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 28,'
    ' "patch_size": 7, "num_channels": 1, "hidden_size": 32, "num_hidden_layers": 2,'
    ' "num_attention_heads": 2, "intermediate_size": 64}\n'
)


def prepare_runs(out, data):
    """Omniglot's one-shot runs, unpacked once, for the settings that are measured on them."""
    folder, file = pathlib.Path(out) / "omniglot-runs", pathlib.Path(data) / RUNS
    if folder.exists() or not file.exists():
        return
    part = folder.with_name("omniglot-runs.part")
    with zipfile.ZipFile(file) as packed:
        packed.extractall(part)
    part.replace(folder)


def prepare(out):
    """What a smoke run reads besides data."""
    path = pathlib.Path(out) / "vit.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(VIT_SMALL)
