"""Large arrays in temporary files that are mapped into memory.

A data set is copied into Ray's object store. While that happens, the pages of a mapped file can be
given back as they are read, those of a process's own memory cannot: the data would be in memory
twice. The files have no name and end with their last array.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fedsmu_ray import environment
from fedsmu_ray.datasets.dataset import Dataset
from fedsmu_ray.errors import ConfigError

log = logging.getLogger(__name__)

LARGE = 1 << 25  # bytes; smaller arrays stay in memory
BLOCK = 1 << 24  # bytes converted or written at a time
RELEASE_EVERY_S = 0.01  # in which a copy reads tens of megabytes


class RowWriter:
    """Makes one array of blocks of rows, in a file if it is large."""

    def __init__(self, nbytes: int = 0) -> None:
        """nbytes: size of all rows, where it is known."""
        folder = environment.cache_folder()
        with contextlib.suppress(OSError):  # small arrays do not need it
            folder.mkdir(parents=True, exist_ok=True)
        self.file = tempfile.SpooledTemporaryFile(LARGE, dir=str(folder))  # noqa: SIM115
        if nbytes > LARGE:
            try:
                self.file.rollover()
            except OSError:
                self.file.close()
                raise
        self.rows = 0

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def append(self, block: NDArray[Any]) -> None:
        """Add rows; raises OSError if the disk is full.

        block: [n, ...], with the shape of a row and the dtype of the first block.
        """
        self.file.write(np.ascontiguousarray(block).data)
        self.rows, self.row_shape, self.dtype = self.rows + len(block), block.shape[1:], block.dtype

    def array(self) -> NDArray[Any]:
        """All rows, read-only; only with at least one row that is not empty."""
        nbytes = self.file.tell()
        self.file.seek(0)
        if nbytes > LARGE:
            source: Any = mmap.mmap(self.file.fileno(), nbytes, access=mmap.ACCESS_READ)
        else:
            source = self.file.read()
        return np.frombuffer(source, self.dtype).reshape(self.rows, *self.row_shape)


def in_files(dataset: Dataset) -> Dataset:
    """The same data set with its large arrays in files; in memory, if the disk has no space."""
    return replace(dataset, train_x=_in_file(dataset.train_x), test_x=_in_file(dataset.test_x))


def converted(x: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """x, contiguous and of this dtype; a large array that has to be copied is copied to a file."""
    if x.nbytes <= LARGE or (x.dtype == dtype and x.flags.c_contiguous):
        return np.ascontiguousarray(x, dtype)
    with space_needed():
        return _copied(x, dtype)


@contextlib.contextmanager
def space_needed() -> Iterator[None]:
    """Have errors of writing to a file say what to do."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            [
                f"{environment.cache_folder()} has no space for the data ({error}); set "
                "$FEDSMU_CACHE to a folder that has"
            ]
        ) from error


@contextlib.contextmanager
def pages_released(*arrays: NDArray[Any]) -> Iterator[None]:
    """Give the pages of mapped arrays back to the system while the arrays are read once.

    They are read from the file again where they are needed later.
    """
    mappings = {id(m): m for m in map(_mapping, arrays) if m}
    done = threading.Event()

    def release() -> None:
        is_last = False
        while not is_last:
            is_last = done.wait(RELEASE_EVERY_S)
            for mapping in mappings.values():
                mapping.madvise(mmap.MADV_DONTNEED)

    thread = threading.Thread(target=release, daemon=True)
    if mappings:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if mappings:
            thread.join()


def _in_file(x: NDArray[Any]) -> NDArray[Any]:
    if x.nbytes <= LARGE or _mapping(x) is not None:
        return x
    try:
        return _copied(x, x.dtype)
    except OSError as error:
        log.info("%s: %s; the data stay in memory", environment.cache_folder(), error)
        return x


def _copied(x: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """A copy in a file; raises OSError."""
    rows, source = max(1, BLOCK * len(x) // x.nbytes), _mapping(x)
    with RowWriter(x.nbytes) as writer:
        for start in range(0, len(x), rows):
            writer.append(x[start : start + rows].astype(dtype, copy=False))
            if source is not None:
                source.madvise(mmap.MADV_DONTNEED)
        return writer.array()


def _mapping(array: Any) -> mmap.mmap | None:
    """The mapped file behind an array, if nothing can be written to it."""
    while array is not None and not isinstance(array, mmap.mmap):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array if array is not None and memoryview(array).readonly else None
