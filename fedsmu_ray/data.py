"""`python -m fedsmu_ray.data [FILE] [key=value ...]`: show how the training data is split.

It trains nothing, so a split can be examined before an experiment.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedsmu_ray import cli

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from fedsmu_ray.config.schema import Config
    from fedsmu_ray.datasets.dataset import Dataset
    from fedsmu_ray.datasets.partition import PartitionConfig

MAX_COLUMNS = 20  # classes that have a column each
MAX_ROWS = 40  # clients shown unless --all

EXAMPLES = """examples:
  python -m fedsmu_ray.data                   the quickstart's split of the digits
  python -m fedsmu_ray.data shakespeare data.root=/data
  python -m fedsmu_ray.data data.partition.alpha=0.05 --plot split.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse(argv)
    return cli.main(lambda: _show(options))


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "data", "Print the split of an experiment's training data over its clients.", EXAMPLES
    )
    parser.add_recipe()
    parser.add_argument(
        "--plot", metavar="FILE", help="also draw clients x classes into this .png, .pdf or .svg"
    )
    parser.add_argument(
        "--all", action="store_true", help=f"show all clients, not only the first {MAX_ROWS}"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print sizes and statistics as JSON on the last line of stdout",
    )
    return parser


def _show(options: argparse.Namespace) -> int:
    from fedsmu_ray.config.loading import load_config
    from fedsmu_ray.datasets.registry import load_dataset
    from fedsmu_ray.datasets.split import split
    from fedsmu_ray.datasets.statistics import statistics
    from fedsmu_ray.datasets.targets import labels_to_split

    config = load_config(*cli.split(options.arguments))
    data = config.data
    dataset = load_dataset(data.dataset, data.options, data.folder(), data.download)
    held_out = config.evaluation.held_out
    parts = split(dataset, data.partition, data.clients, config.seed, data.validation, held_out)
    counts = parts.counts(*labels_to_split(dataset))
    facts = statistics(counts)
    rows = len(counts) if options.all else MAX_ROWS
    aside = {"for validation": len(parts.validation), "held out by clients": len(parts.held_out)}
    _print(config, dataset, counts, aside, facts, rows)
    if options.plot:
        _plot(counts, f"{data.dataset}, {_describe(data.partition)}", options.plot)
    if options.json:
        sizes = counts.sum(1).tolist()
        held = {"held_out": parts.held_out_sizes.tolist()} if held_out else {}
        cli.print_json({**facts, "validation": len(parts.validation), "sizes": sizes, **held})
    return 0


def _describe(partition: PartitionConfig) -> str:
    """The kind of the split and the keys that this kind reads."""
    keys = {"dirichlet": ("alpha", "sigma"), "quantity_skew": ("alpha",), "shards": ("shards",)}
    values = [f"{key} {getattr(partition, key):g}" for key in keys.get(partition.kind, ())]
    return ", ".join([partition.kind, *values])


def _print(
    config: Config,
    dataset: Dataset,
    counts: NDArray[np.int64],
    aside: Mapping[str, int],
    facts: Mapping[str, int | float],
    rows: int,
) -> None:
    """Print the data set, a table of the first `rows` clients, and the statistics of the split.

    aside: how many training samples no client trains on, by what they are for.
    """
    from fedsmu_ray.display.formatting import stdout

    console = stdout()
    console.print(
        f"{config.data.dataset}: {len(dataset.train_y):,} training and {len(dataset.test_y):,} "
        f"test samples {list(dataset.shape)} ({dataset.train_x.dtype}), {dataset.classes} "
        f"classes; {_describe(config.data.partition)}, seed {config.seed}"
        + "".join(f"; {n:,} of the training samples are {what}" for what, n in aside.items() if n),
        soft_wrap=True,
        markup=False,
    )
    console.print(_table(counts, rows))
    if rows < len(counts):
        console.print(f"... and {len(counts) - rows} more clients (--all shows them)")
    console.print(
        f"{facts['clients']} clients, {facts['samples']:,} samples; sizes {facts['size_min']} to "
        f"{facts['size_max']}, median {facts['size_median']:g}; classes covering 80 % of a client: "
        f"{facts['classes_covering_80_min']} to "
        f"{facts['classes_covering_80_max']}, median {facts['classes_covering_80_median']:g}",
        soft_wrap=True,
    )


def _table(counts: NDArray[np.int64], rows: int) -> Table:
    """The first `rows` clients, with the number of samples of each class.

    With more than MAX_COLUMNS classes, only the most frequent classes of each client.
    """
    from rich.table import Table

    from fedsmu_ray.datasets.statistics import covering

    classes = counts.shape[1]
    has_all_classes = classes <= MAX_COLUMNS
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    headings = ["client", "samples", "classes", "for 80 %"]
    headings += [str(c) for c in range(classes)] * has_all_classes
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    if not has_all_classes:
        table.add_column("most frequent classes", no_wrap=True)
    cover = covering(counts)
    for client, row in enumerate(counts[:rows]):
        if has_all_classes:
            cells = [str(n or ".") for n in row]
        else:
            top = (-row).argsort(kind="stable")[:6]
            cells = ["  ".join(f"{c}: {row[c]}" for c in top if row[c])]
        table.add_row(str(client), str(row.sum()), str((row > 0).sum()), str(cover[client]), *cells)
    return table


def _plot(counts: NDArray[np.int64], title: str, path: str) -> None:
    """Draw clients x classes as a heat map of sample counts, beside the sizes of the clients."""
    from fedsmu_ray.environment import expand_path
    from fedsmu_ray.errors import ConfigError

    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(["--plot: needs matplotlib; pip install matplotlib"]) from None
    figure = Figure(figsize=(8, 6), layout="constrained")
    grid, bars = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    image = grid.imshow(counts, aspect="auto", interpolation="nearest", cmap="Blues")
    figure.colorbar(image, ax=bars, label="samples of the class")
    grid.set(xlabel="class", ylabel="client", title=title)
    bars.barh(range(len(counts)), counts.sum(1), height=1.0)
    bars.set(xlabel="samples")
    try:
        figure.savefig(expand_path(path), dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError([f"--plot {path}: {error}"]) from None


if __name__ == "__main__":
    cli.run(main)
