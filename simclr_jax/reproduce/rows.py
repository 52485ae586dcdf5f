"""Published numbers as data, each with the config of ours that stands for it.

| rows | from |
|---|---|
| `simclr_E_B[_sqrt]` | SimCLR, table B.1: epochs, batch, linear or square-root rate |
| `simclr_1000_Wx`, `simclr_v2_*` | SimCLR, table 6; SimCLR v2, README of the weights |
| `simclr_100_strength_*`, `_temperature_*` | SimCLR, tables 1 and 5 |
| `byol_*` | BYOL, linear evaluation; one of 300 epochs changed in one number |
| `moco_*`, `mocov3_*`, `simsiam_*`, `dino_*` | papers and READMEs of their projects |
| `*_cifar10` | the papers' where they have any, else solo-learn's README |
| `*_quickstart`, `*_laptop` | this project's own, measured here: no paper's |

Nothing here has been run unless `cards/` has a card of it.
"""

from typing import Any

from simclr_jax.reproduce import row
from simclr_jax.reproduce.row import Row, judge

TABLE_B1 = {  # batch: top-1 of the linear and the square-root rate, by epochs
    256: ((57.5, 62.8), (61.9, 64.3), (64.7, 65.7), (66.6, 66.5)),
    512: ((60.7, 63.8), (64.0, 65.6), (66.2, 66.7), (67.8, 67.4)),
    1024: ((62.8, 64.3), (65.3, 66.1), (67.2, 67.2), (68.5, 68.3)),
    2048: ((64.0, 64.7), (66.1, 66.8), (68.1, 67.9), (68.9, 68.8)),
    4096: ((64.6, 64.5), (66.5, 66.8), (68.2, 68.0), (68.9, 69.1)),
    8192: ((64.8, 64.8), (66.6, 67.0), (67.8, 68.3), (69.0, 69.1)),
}
SIMCLR_100 = {  # 100 epochs at 4096, changed in one thing; strength is without blur
    "augment.strength": {"0.125": 59.6, "0.25": 61.0, "0.5": 62.6, "1": 63.2},
    "method.temperature": {"0.05": 59.7, "0.5": 60.7, "1": 58.0},
}
V2 = {  # depth: (width, selective kernels): top-1 of linear evaluation
    50: {(1, 0): 71.7, (1, 1): 74.6, (2, 0): 75.6, (2, 1): 77.7},
    101: {(1, 0): 73.6, (1, 1): 76.3, (2, 0): 77.0, (2, 1): 79.0},
    152: {(1, 0): 74.5, (1, 1): 77.2, (2, 0): 77.4, (2, 1): 79.4, (3, 1): 79.8},
}
BYOL = {  # 1000 epochs: depth, width: top-1
    **{(50, 1): 74.3, (101, 1): 76.4, (152, 1): 77.3, (200, 1): 77.8, (50, 2): 77.4},
    **{(101, 2): 78.7, (50, 3): 78.2, (152, 2): 79.0, (200, 2): 79.6, (50, 4): 78.6},
    **{(101, 3): 78.4, (152, 3): 79.5},
}
BYOL_300 = {  # the 300-epoch run, changed in one number: top-1
    "optim.lr": {"0.1": 65.0, "0.2": 71.7, "0.4": 72.3, "0.5": 71.5, "1": 69.2},
    "optim.weight_decay": {"1e-7": 72.1, "5e-7": 72.6, "5e-6": 71.0, "1e-5": 69.6},
    "method.out": {"16": 69.9, "32": 71.3, "64": 72.2, "128": 72.5, "512": 72.6},
}
DINO = {  # run: model, epochs, batch, kNN, linear
    "vit_s16_100": ("ViT-S/16", 100, 512, 69.3, 74.0),
    "vit_s16": ("ViT-S/16", 300, 1024, 73.3, 76.0),
    "vit_s16_800": ("ViT-S/16", 800, 1024, 74.5, 77.0),
    "vit_s8": ("ViT-S/8", 800, 1024, 78.3, 79.7),
    "vit_b16": ("ViT-B/16", 400, 1024, 76.1, 78.2),
    "vit_b8": ("ViT-B/8", 300, 1056, 77.4, 80.1),
    "resnet50": ("ResNet-50", 800, 4080, 67.5, 75.3),
}
MOCO_V1 = {1: 60.6, 2: 65.4, 4: 68.6}  # width: top-1
SIMSIAM = {100: 68.1, 200: 70.0, 400: 70.8, 800: 71.3}  # epochs at batch 256: top-1
SIMSIAM_BATCH = {64: 66.1, 128: 67.3, 1024: 68.0, 2048: 67.9, 4096: 64.0}  # at 100
SOLO_LEARN = {"moco": 92.94, "mocov3": 93.10, "dino": 89.52, "byol": 92.58}
QUICKSTARTS = {  # measured: see the configs
    **{"": 46.8, "moco_": 39.0, "mocov3_": 41.8},
    **{"byol_": 41.4, "simsiam_": 37.3, "dino_": 40.2},
}


def simclr() -> list[Row]:
    told: dict[str, Any] = {"differs": (row.BF16, row.ONE_PASS, row.RESIZE, row.SIGMA)}
    paper, file, plan = "arXiv:2002.05709", "simclr_imagenet.py", "simclr_imagenet"
    rows = []
    for batch, cells in TABLE_B1.items():
        told["planned"] = plan if batch == 4096 else ""
        for epochs, cell in zip((100, 200, 400, 800), cells, strict=True):
            for rate, published in zip(("linear", "sqrt"), cell, strict=True):
                name = f"simclr_{epochs}_{batch}" + "_sqrt" * (rate == "sqrt")
                config = f"{file}:epochs={epochs},batch={batch},lr_scaling={rate}"
                about = name, paper, "B.1", "ResNet-50", epochs, batch, published
                rows.append(Row(*about, config, **told))
    plans = {1: plan} | {w: f"{plan}:width={w},epochs=1000" for w in (2, 4)}
    for width, published in {1: 69.3, 2: 74.2, 4: 76.5}.items():
        told["planned"] = plans[width]
        model = f"ResNet-50 {width}x"
        about = f"simclr_1000_{width}x", paper, "6", model, 1000, 4096, published
        rows.append(Row(*about, f"{file}:epochs=1000,width={width}", **told))
    for key, values in SIMCLR_100.items():
        word = key.rpartition(".")[2]
        coloured = key == "augment.strength"
        told["planned"] = "" if coloured else plan
        for value, published in values.items():
            name, table = f"simclr_100_{word}_{value}", "1" if coloured else "5"
            about = name, paper, table, "ResNet-50", 100, 4096, published
            changes = {key: value} | ({"augment.blur": "0"} if coloured else {})
            rows.append(Row(*about, f"{file}:epochs=100", changes, **told))
    return rows


def simclr_v2() -> list[Row]:
    differs = row.BF16, row.ONE_PASS, row.RESIZE, row.SIGMA, row.MEMORY
    rows = []
    for depth, nets in V2.items():
        for (width, sk), published in nets.items():
            name = f"simclr_v2_r{depth}_{width}x" + "_sk" * sk
            model = f"ResNet-{depth} {width}x" + " SK" * sk
            config = (
                f"simclr_imagenet.py:version=v2,encoder=resnet{depth},width={width}"
            )
            about = name, "arXiv:2006.10029", "README", model, 800, 4096, published
            rows.append(Row(*about, config + ",sk=true" * sk, differs=differs))
    return rows


def byol() -> list[Row]:
    told: dict[str, Any] = {
        "judged": judge(epochs=80, batch_size=1024, lr=0.2),
        "differs": (row.UNSAID, row.DEBIASED, row.OVERSHOOT, row.CROPS, row.SWEPT),
    }
    paper, config, plan = (
        "arXiv:2006.07733",
        "byol_imagenet.py:epochs=",
        "byol_imagenet",
    )

    def one(name, table, net, epochs, batch, published, changes, planned):
        about = f"byol_{name}", paper, table, net, epochs, batch, published
        text = f"{config}{epochs}" + ",batch=512" * (batch == 512)
        return Row(*about, text, changes, planned=planned, **told)

    rows = [
        one("300", "ablations", "ResNet-50", 300, 4096, 72.5, {}, plan),
        one("1000_512", "preset", "ResNet-50", 1000, 512, 73.7, {}, ""),
    ]
    for (depth, width), published in BYOL.items():
        net = f"ResNet-{depth} {width}x"
        name = "1000" if (depth, width) == (50, 1) else f"1000_r{depth}_{width}x"
        changes = {"encoder.name": f"resnet{depth}", "encoder.width": str(width)}
        planned = plan if (depth, width) == (50, 1) else ""
        table = "linear evaluation"
        rows.append(one(name, table, net, 1000, 4096, published, changes, planned))
    for key, values in BYOL_300.items():
        planned = "" if key == "method.out" else plan
        for value, published in values.items():
            name, changes = f"300_{key.rpartition('.')[2]}_{value}", {key: value}
            about = name, "ablations", "ResNet-50", 300, 4096, published
            rows.append(one(*about, changes, planned))
    return rows


def moco() -> list[Row]:
    config, plan = "moco_imagenet.py", "moco_imagenet"
    told: dict[str, Any] = {"differs": (row.BF16, row.FIRST, *row.TORCH, row.STEPS)}
    v1, v2 = "arXiv:1911.05722", "arXiv:2003.04297"
    rows = []
    for width, published in MOCO_V1.items():
        name, net = f"moco_v1_{width}x", f"ResNet-50 {width}x"
        about = name, v1, "linear evaluation", net, 200, 256, published
        changes = {"encoder.width": str(width)}
        rows.append(Row(*about, f"{config}:version=v1", changes, **told))
    for epochs, published in ((200, 67.5), (800, 71.1)):
        about = f"moco_v2_{epochs}", v2, "README", "ResNet-50", epochs, 256, published
        rows.append(Row(*about, f"{config}:epochs={epochs}", planned=plan, **told))
    return rows


def mocov3() -> list[Row]:
    paper, config = "arXiv:2104.02057", "mocov3_imagenet.py:"
    half = row.BF16._replace(published="float16, the loss scaled")
    differs = half, *row.TORCH
    rows = [
        Row(f"mocov3_r50_{epochs}", paper, "README", "ResNet-50", epochs, 4096,
            published, f"{config}epochs={epochs}", differs=differs,
            planned="mocov3_imagenet")
        for epochs, published in ((100, 68.9), (300, 72.8), (1000, 74.6))
    ]  # fmt: skip
    differs = half, row.CROPS, row.HEAD
    for letter, published in (("s", 73.2), ("b", 76.7)):
        name, net = f"mocov3_vit_{letter}", f"ViT-{letter.upper()}/16"
        about = name, paper, "README", net, 300, 4096, published
        rows.append(Row(*about, f"{config}encoder=vit_{letter}", differs=differs))
    return rows


def simsiam() -> list[Row]:
    told: dict[str, Any] = {
        "judged": judge(epochs=90, batch_size=256, lr=30.0),
        "differs": (row.UNSAID, *row.TORCH, row.LARC),
    }

    def one(name, table, epochs, batch, published):
        about = f"simsiam_{name}", "arXiv:2011.10566", table, "ResNet-50"
        config = f"simsiam_imagenet.py:epochs={epochs},batch={batch}"
        planned = "simsiam_imagenet" if batch == 512 else ""
        return Row(*about, epochs, batch, published, config, planned=planned, **told)

    main = [one(str(e), "4", e, 256, published) for e, published in SIMSIAM.items()]
    batches = [
        one(f"100_{b}", "batch sizes", 100, b, published)
        for b, published in SIMSIAM_BATCH.items()
    ]
    return [*main, one("100_512", "README", 100, 512, 68.1), *batches]


def dino() -> list[Row]:
    rows = []
    for run, (net, epochs, batch, knn, linear) in DINO.items():
        vit = net != "ResNet-50"
        dtype = row.UNSAID if "vit_s" in run else row.BF16
        differs = dtype, row.CROPS, *(() if vit else (row.RUNNING,))
        if run in ("vit_s16_800", "vit_s8"):
            differs = *differs, row.SECOND_HAND
        base = Row(f"dino_{run}_knn", "arXiv:2104.14294", "README", net, epochs, batch,
                   knn, f"dino_imagenet.py:run={run}", protocol="knn",
                   judged={"evaluate.knn.k": "20", "evaluate.knn.temperature": "0.07"},
                   differs=differs,
                   planned="dino_imagenet" if run == "vit_s16" else "")  # fmt: skip
        rate = 0.001 if vit else 0.075  # at batch 1024: 0.004, and the log's 0.3
        blocks = (row.BLOCKS,) if vit else ()
        rows += [
            base,
            base._replace(
                name=f"dino_{run}_linear",
                published=linear,
                protocol="linear_augmented",
                judged=judge(epochs=100, batch_size=1024, lr=rate),
                differs=(*differs, row.HEAD, *blocks),
            ),
        ]
    return rows


def cifar10() -> list[Row]:
    simclr, paper = "simclr_cifar10.py", "arXiv:2002.05709"
    wide = {"encoder.name": "resnet50", "data.batch_size": "1024"}
    rows = [
        Row("simclr_cifar10", paper, "README", "ResNet-18", 1000, 512, 91.0, simclr,
            differs=(row.ONE_PASS, row.ABOUT)),
        Row("simclr_cifar10_r50", paper, "appendix B", "ResNet-50", 1000, 1024, 94.0,
            simclr, wide, differs=(row.ONE_PASS, row.TUNED)),
        Row("simsiam_cifar10", "arXiv:2011.10566", "appendix D", "ResNet-18", 800, 512,
            91.8, "simsiam_cifar10.py", differs=row.TORCH),
    ]  # fmt: skip
    for method, published in SOLO_LEARN.items():
        about = f"{method}_cifar10", "solo-learn", "README", "ResNet-18", 1000, 256
        shorter = (row.SHORTER,) if method in ("moco", "dino") else ()
        differs = row.OTHERS, row.LARGER, *shorter, *row.TORCH
        rows.append(Row(*about, published, f"{method}_cifar10.py", differs=differs))
    rows = [each._replace(images=row.CIFAR10) for each in rows]
    about = (
        "tsimcne_cifar10",
        "arXiv:2210.09879",
        "coordinates",
        "ResNet-18",
        1500,
        1024,
    )
    both = row.CIFAR10 + 10_000  # it trains on the test pictures, too, without labels
    map2d = {"protocol": "map2d", "features": "z", "images": both, "stages": 3}
    differs = row.SHORT, row.RUNNING, row.JUDGED_HERE
    rows.append(Row(*about, 88.8, "tsimcne_cifar10.py", differs=differs, **map2d))
    return rows


def own() -> list[Row]:
    told: dict[str, Any] = {"images": row.EMBEDDED, "protocol": "linear", "own": True}
    paper = "this project", "measured"
    rows = [
        Row(f"{name}quickstart", *paper, "ResNet-10", 30, 256, measured,
            f"{name}quickstart.py", **told)
        for name, measured in QUICKSTARTS.items()
    ]  # fmt: skip
    both = row.EMBEDDED + 1_000
    told |= {"images": both, "protocol": "map2d", "features": "z", "stages": 3}
    about = "tsimcne_quickstart", *paper, "ResNet-10", 56, 256, 32.1
    rows.append(Row(*about, "tsimcne_quickstart.py", **told))
    told = {"images": row.CIFAR10, "protocol": "linear", "own": True}
    about = "simclr_cifar10_laptop", *paper, "ResNet-10", 36, 512, 67.7
    return [*rows, Row(*about, "simclr_cifar10_laptop.py", **told)]


PAPERS = simclr, simclr_v2, byol, moco, mocov3, simsiam, dino, cifar10, own
ROWS = {row.name: row for paper in PAPERS for row in paper()}
