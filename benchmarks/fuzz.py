"""Fuzz the message decoder: every altered message must be rejected or be a valid encoding.

    python benchmarks/fuzz.py [--messages 1000000] [--seed 0]

Every message starts as a valid one and is altered: single bits or bytes, its length, parts of other
messages, its header and field table, or all of it at random. Half of the messages get a valid
checksum afterwards, so that they reach the codecs. The decoder must reject a message with a
MessageError, or accept it if an encoder writes the same bytes for the decoded values; without a new
checksum it must reject every altered message. Anything else ends the program and prints the
message.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch

from fedsmu_ray.errors import MessageError
from fedsmu_ray.wire import message
from fedsmu_ray.wire.base import Codec, Fields
from fedsmu_ray.wire.codecs import Float32, Integers, Sign, Trit
from fedsmu_ray.wire.compressors import BlockSign, HeavySign, Quantizer, Support, TopK

SIZES = (9, 1, 20)
DIM = sum(SIZES)
ROUND, CLIENT = 3, 7
CODECS: dict[str, Codec] = {
    "Float32": Float32(),
    "Sign": Sign(),
    "Trit": Trit(),
    "Integers": Integers(5),
    "Integers (votes)": Integers(10, 2),
    "TopK (indices)": TopK(Support(SIZES, 0.1, "index")),
    "TopK (mask)": TopK(Support(SIZES, 0.3, "mask")),
    "TopK (index32)": TopK(Support((DIM,), 0.1, "index32")),
    "HeavySign": HeavySign(Support(SIZES, 0.2, "min")),
    "BlockSign": BlockSign(SIZES),
    "Quantizer (mid-tread)": Quantizer(SIZES, 4, scaled=True),
    "Quantizer (mid-rise)": Quantizer(SIZES, 3, False, scaled=True),
    "Quantizer (no scale)": Quantizer(SIZES, 5),
}
SETS: dict[str, Fields] = {
    **{name: {"u": codec} for name, codec in CODECS.items()},
    "two fields": {"u": Sign(), "m": Float32()},
}
VALID = 64  # valid messages per codec, which are then altered


class Draws:
    def sign(self, v: torch.Tensor, zero_rule: str) -> torch.Tensor:
        return (torch.sign(v) + (v == 0) * (zero_rule != "zero")).to(torch.int8)

    def uniform(self, v: torch.Tensor) -> torch.Tensor:
        return torch.rand(v.shape)


@dataclass
class Tally:
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def valid_messages(fields: Fields, noise: np.random.Generator) -> list[bytes]:
    """Valid messages of ROUND and CLIENT with ordinary, sparse, tiny and zero values."""
    messages = []
    for i in range(VALID):
        kept = noise.random((1, DIM)) < (1, 0.1, 0.5, 0)[i % 4]
        v = noise.standard_normal((1, DIM)) * 10.0 ** noise.integers(-40, 20)
        v = torch.from_numpy(v * kept).float()
        values = {}
        for name, codec in fields.items():
            if isinstance(codec, Integers):
                codes = noise.integers(0, codec.values, (1, DIM))
                v = torch.from_numpy(codes * codec.step - codec.bound)
            values[name] = codec.compress(v, Draws())
        messages.append(message.encode(fields, values, ROUND, [CLIENT]).tobytes())
    return messages


def altered(raw: bytes, others: list[bytes], at: int, rng: random.Random) -> bytes:
    """Apply one random kind of alteration; `at` is the offset of the first payload."""
    out, kind = bytearray(raw), rng.randrange(8)
    if kind == 0:  # bits
        for _ in range(rng.randint(1, 4)):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    elif kind == 1:  # bytes of the payload, often set to the limits of their range
        for _ in range(rng.randint(1, 6)):
            out[rng.randrange(at, len(out))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    elif kind == 2:  # header and field table
        out[rng.randrange(at)] = rng.choice((0, 1, 255, rng.randrange(256)))
    elif kind == 3:  # truncated, or random bytes appended
        out = (
            out[: rng.randrange(len(out))]
            if rng.random() < 0.5
            else out + rng.randbytes(rng.randint(1, 40))
        )
    elif kind == 4:  # the end of another message
        cut = rng.randrange(len(out))
        out[cut:] = rng.choice(others)[-(len(out) - cut) :]
    elif kind == 5:  # a range of bytes moved to another offset
        start, end = sorted(rng.sample(range(len(out) + 1), 2))
        part = out[start:end]
        del out[start:end]
        to = rng.randrange(len(out) + 1)
        out[to:to] = part
    elif kind == 6:  # a valid header and random payloads
        out[at:] = rng.randbytes(len(out) - at)
    else:  # random bytes
        out = bytearray(rng.randbytes(rng.choice((len(out), rng.randrange(200)))))
    return bytes(out)


def attempt(fields: Fields, raw: bytes, resealed: bool) -> str:
    """Decode a message; the result is `refused`, or `canonical` if it was accepted.

    `canonical`: an encoder writes the same bytes for the decoded values. Raises AssertionError if
    other bytes were accepted.
    """
    packed = np.frombuffer(raw, np.uint8)[None].copy()
    if resealed and packed.shape[1] >= message.CHECK.stop:
        check = message.checksum(packed[0]).to_bytes(4, "little")
        packed[0, message.CHECK] = np.frombuffer(check, np.uint8)
    try:
        values = message.decode(fields, packed, DIM, ROUND, [CLIENT])
    except MessageError:
        return "refused"
    if not all(torch.isfinite(value).all() for value in values.values()):
        raise AssertionError("values that are not finite were accepted")
    if not np.array_equal(message.encode(fields, values, ROUND, [CLIENT]), packed):
        raise AssertionError("bytes that no encoder writes were accepted")
    return "canonical"


def fuzz(
    fields: Fields, turns: range, rng: random.Random, noise: np.random.Generator
) -> tuple[Tally, str]:
    """Decode one altered message per turn; every other one gets a valid checksum.

    The str describes the error that ended it, and is empty if there was none.
    """
    pool, at, tally = valid_messages(fields, noise), message.overhead(fields), Tally()
    known, began = set(pool), time.perf_counter()
    for turn in turns:
        raw, resealed = altered(rng.choice(pool), pool, at, rng), turn % 2 == 1
        try:
            outcome = attempt(fields, raw, resealed)
            accepted = outcome != "refused"
            assert resealed or not accepted or raw in known, "altered bytes passed the checksum"
        except Exception as error:
            problem = f"{type(error).__name__}: {error}\n  resealed: {resealed}\n  {raw.hex()}"
            return tally, problem
        tally.counts["unchanged" if raw in known and accepted else outcome] += 1
    tally.seconds = time.perf_counter() - began
    return tally, ""


def row(name: str, tally: Tally) -> str:
    c = tally.counts
    counts = [c.total(), c["refused"], c["canonical"], c["unchanged"]]
    return f"| {name} | {' | '.join(f'{n:,}' for n in counts)} | {tally.seconds:.0f} |"


def peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, noise = random.Random(options.seed), np.random.default_rng(options.seed)
    tallies: dict[str, Tally] = {}
    start = 0
    for i, (name, fields) in enumerate(SETS.items()):
        first, stop = (options.messages * (i + k) // len(SETS) for k in (0, 1))
        tallies[name], problem = fuzz(fields, range(first, stop), rng, noise)
        if problem:
            raise SystemExit(f"{name}: {problem}")
        start = start or peak_kb()  # after the first fields everything lazy has been loaded
    print("| fields | tried | refused | accepted, canonical | altered without effect | seconds |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, tally in tallies.items():
        print(row(name, tally))
    counts = sum((tally.counts for tally in tallies.values()), Counter())
    print(row("**all**", Tally(counts, sum(tally.seconds for tally in tallies.values()))))
    grown = (peak_kb() - start) / 1000
    print(f"\npeak memory grew by {grown:.1f} MB after the first row")


if __name__ == "__main__":
    main()
