"""Read many damaged headers: prints how many, how many were refused, peak bytes.

Runs as a program, with 400 MiB of address space beyond what it starts with: a length
that is believed would end it.
"""

import random
import resource
import struct
import sys
import tracemalloc
from pathlib import Path

from deployer.errors import SourceError
from deployer.gguf.facts import model_of
from deployer.gguf.header import Stream, local, of_bytes, read_header

_LIMIT = 400 * 1024 * 1024
_NUMBERS = (0, 1, 8, 9, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**62, 2**64 - 1)


def main(rounds: int, seeds: list[bytes]) -> None:
    chance = random.Random(rounds)  # noqa: S311 - the same damage every time
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + _LIMIT, used + _LIMIT))
    refused = peak = 0
    for number in range(rounds):
        content = damaged(chance, chance.choice(seeds))
        watched = number % 500 == 0
        if watched:
            tracemalloc.start()
        try:
            model_of([read_header(behind(chance, content))])
        except SourceError:
            refused += 1
        if watched:
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    sys.stdout.write(f"{rounds} {refused} {peak}\n")


def behind(chance: random.Random, content: bytes) -> Stream:
    """The header as if weights followed, or as if nobody knew how much follows."""
    stream = of_bytes(content)
    stream.size = chance.choice((None, len(content), len(content) + 3_000_000))
    return stream


def whole(path: Path) -> bytes:
    """The header with a few tokens of its vocabulary, and no weights behind it."""
    content = path.read_bytes()
    with local(path) as stream:
        return content[: read_header(stream).length]


def damaged(chance: random.Random, seed: bytes) -> bytes:
    """A header with one to four things wrong."""
    content = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        content = content or bytearray(b"G")
        at = chance.randrange(len(content))
        match chance.randrange(6):
            case 0:
                content[at] = chance.randrange(256)
            case 1:
                content[at : at + 8] = struct.pack("<Q", chance.choice(_NUMBERS))
            case 2:
                content[at : at + 4] = struct.pack("<I", chance.randrange(14))
            case 3:
                del content[at : at + chance.randrange(1, 64)]
            case 4:
                content[at:at] = content[at : at + chance.randrange(1, 64)]
            case _:
                del content[max(24, at) :]
    return bytes(content) or b"G"


if __name__ == "__main__":
    # Small keys first, and little vocabulary: a header a millisecond.
    main(int(sys.argv[1]), [whole(Path(path)) for path in sys.argv[2:]])
