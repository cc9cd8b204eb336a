"""Change bytes of DICOM files at random and read them: run as a program, so that its peak memory is its own.

    python dicom_mutations.py FOLDER COUNT SEED

FOLDER holds folders of a series each. Of their files in turn the last gets some bytes changed, cut out, doubled or cut
off, and the series is read. One line of JSON says what came of it.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

from mri_unroll.errors import MriUnrollError
from mri_unroll.io.dicom.study import find_series, read_pixels


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with up to five accidents."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 5)):
        # Headers are short beside pixels, and it is headers that steer.
        at = rng.randrange(132, min(len(changed), 2500) if rng.random() < 0.8 else len(changed))
        accident = rng.randrange(6)
        if accident == 0:
            changed[at] = rng.randrange(256)
        elif accident == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif accident == 2:
            del changed[at : at + rng.randint(1, 40)]
        elif accident == 3:
            changed[at:at] = changed[at : at + rng.randint(1, 40)]
        elif accident == 4:
            changed[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f"))
        elif rng.random() < 0.3:
            del changed[at:]
        if len(changed) < 140:
            break
    return bytes(changed)


def main() -> None:
    """Read all of them, and print what happened."""
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    originals = [[path.read_bytes() for path in sorted(one.iterdir())] for one in sorted(folder.iterdir())]
    rng = random.Random(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told: list[str] = []
    wrong: list[str] = []
    read = refused = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        series = Path(scratch)
        for index in range(count):
            for path in series.iterdir():
                path.unlink()
            *others, last = originals[index % len(originals)]
            for number, content in enumerate([*others, mutated(last, rng)]):
                (series / f"{number}").write_bytes(content)
            started = time.perf_counter()
            try:
                study = find_series(series)
                told += study.warnings
                told += [sentence for one in study.series for sentence in (*one.refusals, *one.warnings)]
                told += [reason for _, reason in study.unreadable]
                read_pixels(study.pick())
                read += 1
            except MriUnrollError as error:
                told.append(str(error))
                refused += 1
            except Exception:
                wrong.append(f"{index}: {traceback.format_exc()}")
            slowest = max(slowest, time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"read": read, "refused": refused, "slowest_s": slowest, "peak_kb": peak, "before_kb": before}
    print(json.dumps({**found, "wrong": wrong, "told": sorted(set(told))}))


if __name__ == "__main__":
    main()
