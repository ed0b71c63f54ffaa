"""The table of the clients on whose held-out samples the model was evaluated."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fedsmu_ray.federation.tasks import ClientScore
from fedsmu_ray.files.folders import write
from fedsmu_ray.files.remote import Place
from fedsmu_ray.tracking.base import NewFile, Tracker

CLIENTS = "clients.csv"  # in the folder of a run, and an artifact

log = logging.getLogger(__name__)


def clients_csv(round: int, clients: Sequence[ClientScore]) -> str:
    """The values of clients after a round as a table, for `pandas.read_csv`; "" without clients.

    Columns: round, client, samples (that it holds out), loss, accuracy, personalised_loss,
    personalised_accuracy; without those that no client has. A value that the samples of a client do
    not define is empty.
    """
    if not clients:
        return ""
    order = ("loss", "accuracy", "personalised_loss", "personalised_accuracy")
    names = [name for name in order if any(name in score.values for score in clients)]
    lines = [",".join(["round", "client", "samples", *names])]
    for client, samples, values in clients:
        cells = [repr(values[name]) if name in values else "" for name in names]
        lines.append(",".join([str(round), str(client), str(samples), *cells]))
    return "\n".join(lines) + "\n"


def keep_clients(file: Place | None, text: str, tracker: Tracker, run_id: str) -> None:
    """Keep the table of a run that ends in a file, if it has a folder, and with its tracked run.

    text: of the table, or "" without one. A file that cannot be written is a warning.
    """
    if not text:
        return
    tracker.log_file(run_id, NewFile(CLIENTS, text, str(file or "")))
    if file is None:
        return
    try:
        write(file, text)
    except OSError as error:
        log.warning("the table of the clients is not in %s (%s)", file, error)
