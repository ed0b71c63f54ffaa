"""JSON files of any size, read piece by piece: neither the file nor what it holds is in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import inf
from typing import Any, BinaryIO

from pydantic_core import from_json

CHUNK = 1 << 20  # bytes read at a time, and of the elements of a list that are decoded at a time
LARGEST = 1 << 30  # bytes of one value

_SPACE = re.compile(rb"[ \t\n\r]*")
_SCALAR = re.compile(rb"[-+.\w]*(?![-+.\w])")  # a number, true, false or null
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# Past the next bracket, or past some strings: what is in them is no bracket.
_STEP = re.compile(
    rb'[^][{}"]*(?:[][{}]|%b(?:[^][{}"]*%b){0,99})' % (_STRING.pattern, _STRING.pattern), re.DOTALL
)
_LEVELS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class JsonStream:
    """A JSON document from which one value after another is taken.

    Methods raise ValueError if what comes next is not JSON, and TypeError if it is JSON of another
    type than they take.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.text = b""  # a part of the file
        self.at = 0  # bytes of it that were taken
        self.passed = 0  # bytes of the file before it

    def members(self) -> Iterator[str]:
        """The keys of an object; the value of each has to be taken before the next one."""
        for _ in self._items(b"{", b"}", "an object"):
            if self.peek() != b'"':
                raise self._error("expected a key")
            key: str = self.value()
            self._skip(b":")
            yield key

    def blocks(self) -> Iterator[list[Any]]:
        """The elements of a list, about CHUNK bytes of text at a time; no block is empty."""
        for _ in self._items(b"[", b"]", "a list"):
            yield self._decoded(self._length(0, CHUNK), b"[%b]")

    def value(self) -> Any:
        """A value of any type, as Python has it."""
        first = self.peek()
        if first in b"[{":
            return self._decoded(self._length(1) + 1)
        pattern = _STRING if first == b'"' else _SCALAR
        while not (found := pattern.match(self.text, self.at)) or found.end() == len(self.text):
            self._read()
        return self._decoded(found.end() - self.at)

    def peek(self) -> bytes:
        """The first character of what comes next."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at : self.at + 1]
            self._read()

    def end(self) -> None:
        """Check that nothing but white space is left."""
        rest = self.text[self.at :] or self.file.read(CHUNK)
        while rest:
            if rest.strip(b" \t\n\r"):
                raise self._error("expected the end of the file")
            rest = self.file.read(CHUNK)

    def _items(self, opening: bytes, closing: bytes, what: str) -> Iterator[None]:
        """Go to the first item of a list or object, to each next one, and past the end."""
        first = self.peek()
        if first != opening and first in b'[{"-0123456789tfnNI':
            raise TypeError(f"expected {what} at byte {self.passed + self.at:,}")
        self._skip(opening)
        if self.peek() != closing:
            yield
            while self.peek() != closing:
                self._skip(b",")
                if self.peek() == closing:
                    raise self._error("expected a value after the comma")
                yield
        self._skip(closing)

    def _skip(self, wanted: bytes) -> None:
        if self.peek() != wanted:
            raise self._error(f"expected {wanted.decode()}")
        self.at += 1

    def _length(self, begin: int, most: float = inf) -> int:
        """Bytes from here to the closing bracket of the list or object that we are in.

        begin: bytes from here that are not looked at. most: stop when so many bytes are passed and
        an element ends.
        """
        level, length = 0, begin
        while True:
            step = _STEP.match(self.text, self.at + length)
            if step is None:
                self._read()
                continue
            length = step.end() - self.at
            level += _LEVELS.get(self.text[step.end() - 1], 0)
            if level < 0:
                return length - 1
            if level == 0 and length >= most:
                return length

    def _decoded(self, length: int, form: bytes = b"%b") -> Any:
        """Take so many bytes, which are a value in this form."""
        try:
            value = from_json(form % self.text[self.at : self.at + length])
        except ValueError as error:
            raise self._error(f"in a value: {error}") from None
        self.at += length
        return value

    def _read(self) -> None:
        """Read more of the file; as much as there is, so that a long value takes few attempts."""
        kept = self.text[self.at :]
        more = self.file.read(max(CHUNK, len(kept)))
        if not more:
            raise ValueError(f"it ends after {self.passed + len(self.text):,} bytes")
        self.text, self.at, self.passed = kept + more, 0, self.passed + self.at
        if len(self.text) > LARGEST:
            raise self._error(f"a value of more than {LARGEST:,} bytes")

    def _error(self, problem: str) -> ValueError:
        return ValueError(f"{problem}, at byte {self.passed + self.at:,}")
