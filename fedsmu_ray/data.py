"""`python -m fedsmu_ray.data [FILE] [key=value ...]`: what every client gets, before anything is trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsmu_ray import cli

COLUMNS = 20  # classes that fit a table
ROWS = 40  # clients shown unless --all

EXAMPLES = """examples:
  python -m fedsmu_ray.data                                           the quickstart's split of the digits
  python -m fedsmu_ray.data tune_configs/shakespeare.yaml data.root=/data
  python -m fedsmu_ray.data data.partition.alpha=0.05 --plot split.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(
        prog="python -m fedsmu_ray.data",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Print the split of an experiment's training data over its clients.",
    )
    p.add_argument(
        "arguments",
        nargs="*",
        metavar="[FILE] key=value",
        help="a YAML recipe (default: the quickstart), then overrides",
    )
    p.add_argument(
        "--plot", metavar="FILE", help="also draw clients x classes into this .png, .pdf or .svg"
    )
    p.add_argument("--all", action="store_true", help=f"every client, not the first {ROWS}")
    p.add_argument(
        "--json",
        action="store_true",
        help="print sizes and statistics as JSON on the last line of stdout",
    )
    options = p.parse_intermixed_args(argv)

    def command() -> int:
        from fedsmu_ray.config.validation import load_config
        from fedsmu_ray.datasets.partition import partition
        from fedsmu_ray.datasets.registry import load_dataset

        config = load_config(*cli.split(options.arguments))
        data, dataset = config.data, load_dataset(config.data)
        split = partition(
            data.partition,
            dataset.train_y,
            dataset.classes,
            data.clients,
            config.seed,
            dataset.clients,
        )
        counts = split.counts(dataset.train_y, dataset.classes)
        facts = statistics(counts)
        _print(config, dataset, counts, facts, len(counts) if options.all else ROWS)
        if options.plot:
            plot(counts, f"{data.dataset}, {describe(data.partition)}", options.plot)
        if options.json:
            cli.print_json({**facts, "sizes": counts.sum(1).tolist()})
        return 0

    return cli.main(command)


def covering(counts: np.ndarray, share: float = 0.8) -> np.ndarray:
    """How many of a client's most frequent classes cover `share` of its samples; counts [clients, classes]."""
    shares = -np.sort(-counts, axis=1).cumsum(1) / counts.sum(1, keepdims=True)
    return (shares < share - 1e-12).sum(1) + 1


def statistics(counts: np.ndarray) -> dict[str, Any]:
    """The split in a few numbers, from counts [clients, classes]."""
    sizes, cover = counts.sum(1), covering(counts)
    return {
        "clients": len(counts),
        "samples": int(sizes.sum()),
        "size_min": int(sizes.min()),
        "size_median": float(np.median(sizes)),
        "size_max": int(sizes.max()),
        "classes_median": float(np.median((counts > 0).sum(1))),
        "classes_covering_80_min": int(cover.min()),
        "classes_covering_80_median": float(np.median(cover)),
        "classes_covering_80_max": int(cover.max()),
    }


def describe(partition: Any) -> str:
    """The split in words: its kind and the keys that kind reads."""
    read = {
        "dirichlet": ("alpha", "sigma"),
        "quantity_skew": ("alpha",),
        "shards": ("shards",),
    }.get(partition.kind, ())
    return ", ".join([partition.kind, *(f"{key} {getattr(partition, key):g}" for key in read)])


def _print(config: Any, dataset: Any, counts: np.ndarray, facts: dict[str, Any], rows: int) -> None:
    from rich.table import Table

    from fedsmu_ray.display.progress import stdout

    console = stdout()
    console.print(
        f"{config.data.dataset}: {len(dataset.train_y):,} training and {len(dataset.test_y):,} test samples "
        f"{list(dataset.shape)} ({dataset.train_x.dtype}), {dataset.classes} classes; "
        f"{describe(config.data.partition)}, seed {config.seed}",
        soft_wrap=True,
        markup=False,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    matrix = dataset.classes <= COLUMNS
    for heading in (
        "client",
        "samples",
        "classes",
        "for 80 %",
        *(range(dataset.classes) if matrix else ()),
    ):
        table.add_column(str(heading), justify="right", no_wrap=True)
    if not matrix:
        table.add_column("most frequent classes", no_wrap=True)
    cover = covering(counts)
    for client, row in enumerate(counts[:rows]):
        top = np.argsort(-row, kind="stable")[:6]
        cells = (
            [str(n or ".") for n in row]
            if matrix
            else ["  ".join(f"{c}: {row[c]}" for c in top if row[c])]
        )
        table.add_row(str(client), str(row.sum()), str((row > 0).sum()), str(cover[client]), *cells)
    console.print(table)
    if rows < len(counts):
        console.print(f"... and {len(counts) - rows} more clients (--all shows them)")
    console.print(
        f"{facts['clients']} clients, {facts['samples']:,} samples; sizes {facts['size_min']} to "
        f"{facts['size_max']}, median {facts['size_median']:g}; classes covering 80 % of a client: "
        f"{facts['classes_covering_80_min']} to "
        f"{facts['classes_covering_80_max']}, median {facts['classes_covering_80_median']:g}",
        soft_wrap=True,
    )


def plot(counts: np.ndarray, title: str, path: str) -> None:
    """Clients x classes as a heat map of sample counts, beside the sizes of the clients."""
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
    bars.barh(np.arange(len(counts)), counts.sum(1), height=1.0)
    bars.set(xlabel="samples")
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError([f"--plot {path}: {error}"]) from None


if __name__ == "__main__":
    cli.leave(main())
