"""Federated methods, one file per paper. `METHODS` is the one mapping from config name to class.

A method is a frozen dataclass whose fields are the keys of the YAML section `algorithm`. It is written on the
trailing axis of tensors: x is the flat model [P]; inside `client`, states and results are [C, P], one row per
client of the group. State goes in and comes out; nothing is mutated. See docs/architecture.md.
"""

from __future__ import annotations

from fedsmu_ray.algorithms.base import Round, Setting
from fedsmu_ray.algorithms.dlion import DLion
from fedsmu_ray.algorithms.ef21 import EF21
from fedsmu_ray.algorithms.fed_ef import FedEF
from fedsmu_ray.algorithms.fedams import FedAMS, FedCAMS
from fedsmu_ray.algorithms.fedavg import FedAvg
from fedsmu_ray.algorithms.fedavgm import FedAvgM
from fedsmu_ray.algorithms.feddyn import FedDyn
from fedsmu_ray.algorithms.fedlion import FedLion
from fedsmu_ray.algorithms.fedopt import FedAdam, FedYogi
from fedsmu_ray.algorithms.fedprox import FedProx
from fedsmu_ray.algorithms.fedsmu import FedSMU
from fedsmu_ray.algorithms.fedsmu_variants import FedGlobalLion, FedLocalLion, FedSMUMC
from fedsmu_ray.algorithms.scaffold import Scaffold
from fedsmu_ray.algorithms.scallion import Scallion
from fedsmu_ray.algorithms.signsgd_mv import SignSGDMV
from fedsmu_ray.wire.codecs import Codec

METHODS: dict[str, type] = {
    "fedsmu": FedSMU,
    "fedsmu_mc": FedSMUMC,
    "fed_local_lion": FedLocalLion,
    "fed_global_lion": FedGlobalLion,
    "fedavg": FedAvg,
    "scaffold": Scaffold,
    "scallion": Scallion,
    "fed_ef": FedEF,
    "fedlion": FedLion,
    "ef21": EF21,
    "fedams": FedAMS,
    "fedcams": FedCAMS,
    "dlion": DLion,
    "signsgd_mv": SignSGDMV,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "feddyn": FedDyn,
}
