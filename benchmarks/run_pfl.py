"""Run rounds of a workload in pfl-research's simulation, in one process."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from turns import turns
from workloads import LR, Workload


class Turns(TrainingProcessCallback):
    """Waits for the cohort of a round before the central iteration that trains it."""

    def __init__(self) -> None:
        self.turns = turns()
        self.cohort = iter(next(self.turns))

    def user(self) -> str:
        return str(next(self.cohort))

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        cohort = next(self.turns, None)
        self.cohort = iter(cohort or ())
        return cohort is None, Metrics()


def main(workload: Workload) -> None:
    torch.set_num_threads(1)
    np.random.seed(0)
    clients, module = workload.client_data(), workload.module()
    module.loss = lambda inputs, targets, is_eval=False: torch.nn.functional.cross_entropy(
        module(inputs), targets
    )
    module.metrics = lambda inputs, targets, is_eval=False: {}
    callback = Turns()
    data = FederatedDataset(lambda i: Dataset(clients[int(i)], user_id=i), callback.user)
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=10**6,
            evaluation_frequency=10**6,
            train_cohort_size=workload.cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=workload.epochs,
            local_learning_rate=LR,
            local_batch_size=workload.batch,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=workload.batch),
        callbacks=[callback],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main(Workload(**json.loads(sys.argv[1])))
