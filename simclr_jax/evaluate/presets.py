"""Settings of the papers' evaluations, by protocol and name.

| `linear_augmented` | optimiser | rate | batch | epochs | schedule | features |
|---|---|---|---|---|---|---|
| `simclr` | Nesterov | 1.6 | 4096 | 90 | cosine | `h` |
| `byol` | Nesterov | best of .2 to 1.6 | 1024 | 80 | cosine | `h` |
| `moco` | SGD | 30 | 256 | 100 | / 10 at 60, 80 | `h` |
| `mocov3` | SGD | 0.4 | 1024 | 90 | cosine by epoch | `h` |
| `mocov3_vit` | SGD | 12 | 1024 | 90 | cosine by epoch | `h` |
| `simsiam` | SGD with LARC | 1.6 | 4096 | 90 | cosine by epoch | `h` |
| `dino_vit_s` | SGD | 0.004 | 1024 | 100 | cosine by epoch | `cls4` |
| `dino_vit_b` | SGD | 0.004 | 1024 | 100 | cosine by epoch | `cls_patch` |
| `dino_resnet50` | SGD | 0.3 | 1024 | 100 | cosine by epoch | `h` |
| `tsimcne` | SGD | 30 | 1024 | 100 | cosine by epoch | `h` |

The rate is the first one, lr B / 256. Momentum is 0.9 and nothing decays, but with
`tsimcne` (5e-4). DINO's rates were swept; these are its code's default and, of
ResNet-50, that of its log. All authors but BYOL's report the best epoch or its like on
the test pictures; here it is always the last.
"""

from typing import Any, NamedTuple

Settings = dict[str, Any]


class Preset(NamedTuple):
    """The settings of a protocol that differ from its defaults."""

    settings: Settings
    features: str = "h"


TORCH: Settings = {  # what the codes in PyTorch share
    "optimiser": "sgd",
    "schedule": "epochs",
    "length": "moco",
    "initializer": "normal",
    "crops": "torchvision",
}
DINO = TORCH | {"lr": 0.001, "batch_size": 1024, "epochs": 100}
MOCO_V3 = TORCH | {"lr": 0.1, "batch_size": 1024}

LINEAR = {
    "simclr": Preset({}),  # arXiv:2002.05709, appendix B.6
    "byol": Preset(  # arXiv:2006.07733, appendix C.1
        {
            "rates": (0.4, 0.3, 0.2, 0.1, 0.05),
            "batch_size": 1024,
            "epochs": 80,
            "length": "byol",
            "initializer": "haiku",
            "crops": "byol",
        }
    ),
    "moco": Preset(  # arXiv:1911.05722 and its code, main_lincls.py
        TORCH | {"lr": 30.0, "batch_size": 256, "epochs": 100, "schedule": "steps"}
    ),
    "mocov3": Preset(MOCO_V3),  # arXiv:2104.02057 and its code, CONFIG.md
    "mocov3_vit": Preset(MOCO_V3 | {"lr": 3.0}),
    "simsiam": Preset(TORCH | {"optimiser": "larc"}),  # arXiv:2011.10566, its code
    "dino_vit_s": Preset(DINO, "cls4"),  # arXiv:2104.14294, its code, eval_linear.py
    "dino_vit_b": Preset(DINO, "cls_patch"),
    "dino_resnet50": Preset(DINO | {"lr": 0.075}),
    "tsimcne": Preset(  # arXiv:2210.09879
        DINO | {"lr": 7.5, "weight_decay": 5e-4}
    ),
}
KNN = {
    "dino": Preset({"k": 20, "temperature": 0.07}),  # arXiv:2104.14294, eval_knn.py
    "instdisc": Preset({"k": 200, "temperature": 0.07}),  # arXiv:1805.01978
    "plain": Preset({"k": 20, "weighted": False}),
}
PRESETS: dict[str, dict[str, Preset]] = {"linear_augmented": LINEAR, "knn": KNN}
