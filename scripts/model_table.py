"""Hold trained networks against classical methods on simulated scans of people whom no network was trained on.

    python scripts/model_table.py --cases 3 --out results/model_table
    python scripts/model_table.py --methods unrolled --out results/model_table   # add or renew one method

Every cell (acceleration, mask family, number of coils) holds `--cases` slices of the validation people, acquired by
the simulation that training uses, with noise of 0.3 to 5 % of bright tissue. A case is scored twice: against the root
sum of squares of its fully sampled k-space *with its noise*, as a real reference has it (the fastMRI definitions over
the whole picture, and inside the body), and inside the body against the same *without noise*. Networks are given
`denoise = 0` for the first and 1 for the second. A classical method gets, for every case and each of the two
references, the regularisation weight that is best there by the truth (PSNR in the body), so that nobody can say it was
handicapped.

Each reconstruction is a row of OUT/rows.csv; what is there is not done again, so a killed run goes on. The tables are
printed and written to OUT/table.md, the figure to OUT/figure.png.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mri_unroll import metrics
from mri_unroll.config import ReconstructionConfig, load_toml
from mri_unroll.physics.sampling import make_mask
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.scan import Geometry, Scan, Source
from mri_unroll.training.dataset import find_volumes
from mri_unroll.training.settings import TrainingConfig
from mri_unroll.training.simulate import simulate

HERE = Path(__file__).resolve().parent
ACCELERATIONS = (2, 4, 6, 8)
MASKS = ("random", "equispaced_fraction", "poisson")
COILS = (1, 4, 8, 16)
# Where the search for the best weight of a method begins, and the factor between neighbours.
CLASSICAL = {"zero-filled": None, "cg-sense": 0.01, "l1-wavelet": 0.005, "tv": 0.005}
FACTOR = 2.0
LIMITS = (1e-4, 1.0)
SCORES = ("nmse", "psnr", "ssim", "body_nmse", "body_psnr", "body_ssim", "clean_nmse", "clean_psnr", "clean_ssim")
KEY = ("acceleration", "mask", "coils", "case", "method", "weight")
Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Case:
    """A simulated scan and its two references."""

    scan: Scan
    noisy: NDArray[np.float32]  # (1, y, x) root sum of squares of the fully sampled scan
    clean: NDArray[np.float32]  # the same without noise
    body: NDArray[np.bool_]


def make_case(cell: int, acceleration: float, mask: str, coils: int, case: int, config: TrainingConfig) -> Case:
    """Case ``case`` of a cell: the same in every run."""
    _, volumes = find_volumes(Path(config.data), config.held_out)
    volume = volumes[(cell * 3 + case) % len(volumes)]
    rng = np.random.default_rng([20, cell, case])
    with np.load(volume.path) as file:
        images = file["images"][volume.first : volume.last]
    filled = [i for i, image in enumerate(images) if np.count_nonzero(image > image.max() // 8) > 0.02 * image.size]
    image = images[filled[int(rng.integers(len(filled) // 4, max(len(filled) // 4 + 1, 3 * len(filled) // 4)))]]
    acquired = simulate(
        image,
        rng,
        n_coils=coils,
        noise=10 ** rng.uniform(-2.5, -1.3),
        sampling=lambda shape: make_mask(mask, shape, acceleration, seed=int(rng.integers(2**31))),
    )
    clean = np.linalg.norm(acquired.coil_images, axis=0)[None]
    scan = Scan(
        kspace=acquired.kspace[None],
        mask=acquired.mask,
        geometry=Geometry(recon_shape=(clean.shape[1], clean.shape[2])),
        source=Source(format="simulated", digest="", n_slices=1, slices=(0, 1)),
    )
    noisy = np.linalg.norm(acquired.coil_images + acquired.noise_images, axis=0)[None]
    return Case(scan, noisy.astype(np.float32), clean.astype(np.float32), metrics.body_mask(clean))


def score(case: Case, method: str, weight: float | None, denoise: float = 0.0) -> dict[str, float]:
    """Reconstruct on the road that users take, and score."""
    config = ReconstructionConfig(method=method, reg_weight=weight, denoise=denoise)
    picture = make_reconstructor(method, config).reconstruct(case.scan).pixels
    result = {name: float(getattr(metrics, name)(case.noisy, picture)) for name in ("nmse", "psnr", "ssim")}
    for prefix, reference in (("body", case.noisy), ("clean", case.clean)):
        inside = metrics.in_body(reference, picture, case.body)
        result |= {f"{prefix}_{name}": value for name, value in inside.items()}
    return result


def searched(start: float, found: Callable[[float], dict[str, float]], criteria: tuple[str, ...]) -> None:
    """Climb from ``start`` in both directions until each criterion's best weight has worse neighbours."""
    grid = [start * FACTOR**k for k in range(-12, 13)]
    grid = [weight for weight in grid if LIMITS[0] <= weight <= LIMITS[1]]
    for criterion in criteria:
        here = grid.index(start)
        value = found(grid[here])[criterion]
        for direction in (-1, 1):
            place, best = here, value
            while 0 <= place + direction < len(grid):
                following = found(grid[place + direction])[criterion]
                if following <= best:
                    break
                place, best = place + direction, following
            if best > value:
                break  # it rose on this side, so the other side falls


class Rows:
    """The rows that exist, in memory and on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: dict[tuple[str, ...], Row] = {}
        if path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    if all(row.get(name) for name in SCORES):
                        self.rows[tuple(row[name] for name in KEY)] = row

    def add(self, key: tuple[str, ...], values: dict[str, float]) -> Row:
        """Append one row and keep it."""
        row = dict(zip(KEY, key, strict=True)) | {name: repr(values[name]) for name in SCORES}
        is_new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, [*KEY, *SCORES])
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        self.rows[key] = row
        return row


class CaseScores:
    """The scores of one case, from the rows that exist or from a reconstruction."""

    def __init__(self, rows: Rows, place: tuple[str, ...], make: Callable[[], Case], renew: bool) -> None:
        self.rows = rows
        self.place = place  # acceleration, mask, coils, case
        self.make = functools.cache(make)
        self.renew = renew

    def classical(self, method: str, weight: float | None) -> dict[str, float]:
        """Of a classical method with one weight."""
        return self._found(method, weight, 0.0, "" if weight is None else f"{weight:.6g}", False)

    def learned(self, method: str, denoise: float) -> dict[str, float]:
        """Of a network that removes a share of the noise."""
        return self._found(method, None, denoise, f"denoise={denoise:g}", self.renew)

    def _found(self, method: str, weight: float | None, denoise: float, label: str, renew: bool) -> dict[str, float]:
        key = (*self.place, method, label)
        if key not in self.rows.rows or renew:
            self.rows.add(key, score(self.make(), method, weight, denoise))
        return {name: float(self.rows.rows[key][name]) for name in SCORES}


def run(rows: Rows, methods: list[str], cases: int, config: TrainingConfig, renew: bool) -> None:
    """Fill in what is missing."""
    cells = list(itertools.product(ACCELERATIONS, MASKS, COILS))
    for case, (cell, what) in itertools.product(range(cases), enumerate(cells)):
        make = functools.partial(make_case, cell, *what, case, config)
        scores = CaseScores(rows, (*map(str, what), str(case)), make, renew)
        for method in methods:
            if method not in CLASSICAL:
                for denoise in (0.0, 1.0):
                    scores.learned(method, denoise)
            elif (start := CLASSICAL[method]) is None:
                scores.classical(method, None)
            else:
                searched(start, functools.partial(scores.classical, method), ("body_psnr", "clean_psnr"))
        print(f"case {case}, cell {cell + 1} of {len(cells)}", flush=True)


def best_rows(rows: Rows, cases: int) -> Iterator[tuple[tuple[str, ...], str, str, Row]]:
    """Yield cell, method, kind of reference and the row that counts, of each case that every method has done."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows.rows.values():
        if int(row["case"]) < cases:
            groups[(row["acceleration"], row["mask"], row["coils"], row["case"], row["method"])].append(row)
    methods = {group[-1] for group in groups}
    for group, members in groups.items():
        if any((*group[:-1], method) not in groups for method in methods):
            continue
        for kind in ("body", "clean"):
            wanted = {"body": "denoise=0", "clean": "denoise=1"}[kind]
            fitting = [r for r in members if r["weight"] == wanted] or [
                r for r in members if "denoise" not in r["weight"]
            ]
            if fitting:
                yield group[:3], group[4], kind, max(fitting, key=lambda row: float(row[f"{kind}_psnr"]))


def table(rows: Rows, cases: int, network: str) -> str:
    """The tables as Markdown: means by acceleration, the gain of the network, its worst cell, and a line a cell."""
    scores: dict[tuple[str, str, str], dict[tuple[str, ...], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for cell, method, kind, row in best_rows(rows, cases):
        scores[(cell[0], method, kind)][cell].append(row)

    def mean(acceleration: str, method: str, name: str, cell: tuple[str, ...] | None = None) -> float:
        kind = "clean" if name.startswith("clean") else "body"
        chosen = scores[(acceleration, method, kind)]
        members = chosen[cell] if cell is not None else [row for cells in chosen.values() for row in cells]
        values = [float(row[name]) for row in members]
        return float(np.mean(values)) if values else math.nan

    methods = [*CLASSICAL, network]
    names = ("psnr", "ssim", "body_psnr", "body_ssim", "clean_psnr", "clean_ssim")
    lines = [
        f"{cases} cases a cell; PSNR in dB. RSS: root sum of squares of the fully sampled scan with its noise.",
        "",
        "| R | method | RSS: PSNR | SSIM | in body: PSNR | SSIM | noise-free, in body: PSNR | SSIM |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for acceleration in map(str, ACCELERATIONS):
        for method in methods:
            values = [mean(acceleration, method, name) for name in names]
            cells = [f"{v:.2f}" if "psnr" in name else f"{v:.3f}" for name, v in zip(names, values, strict=True)]
            lines.append(f"| {acceleration} | `{method}` | {' | '.join(cells)} |")
    lines += ["", f"`{network}` over the best classical method of each cell (in body):", ""]
    lines += ["| R | RSS: PSNR gain | SSIM gain | worst cell | noise-free: PSNR gain | SSIM gain | worst cell |"]
    lines += ["|---|---|---|---|---|---|---|"]
    details = []
    for acceleration in map(str, ACCELERATIONS):
        entries = []
        for kind in ("body", "clean"):
            gains: dict[str, list[tuple[float, tuple[str, ...]]]] = {"psnr": [], "ssim": []}
            for mask, coils in itertools.product(MASKS, map(str, COILS)):
                cell = (acceleration, mask, coils)
                for measure, found in gains.items():
                    rivals = [mean(acceleration, m, f"{kind}_{measure}", cell) for m in CLASSICAL]
                    found.append((mean(acceleration, network, f"{kind}_{measure}", cell) - max(rivals), cell))
            worst = min(gains["psnr"])
            entries += [
                f"{np.mean([g for g, _ in gains['psnr']]):+.2f}",
                f"{np.mean([g for g, _ in gains['ssim']]):+.3f}",
            ]
            entries += [f"{worst[0]:+.2f} ({worst[1][1]}, {worst[1][2]} coils)"]
            details += [
                (*cell, kind, gain, s) for (gain, cell), (s, _) in zip(gains["psnr"], gains["ssim"], strict=True)
            ]
        lines.append(f"| {acceleration} | {' | '.join(entries)} |")
    lines += ["", "Every cell, gain in the body over its best classical method:", ""]
    lines += ["| R | mask | coils | reference | PSNR gain | SSIM gain |", "|---|---|---|---|---|---|"]
    for acceleration, mask, coils, kind, gain, similarity in details:
        reference = {"body": "RSS", "clean": "noise-free"}[kind]
        lines.append(f"| {acceleration} | {mask} | {coils} | {reference} | {gain:+.2f} | {similarity:+.3f} |")
    return "\n".join(lines) + "\n"


def figure(rows: Rows, cases: int, networks: list[str], path: Path) -> None:
    """PSNR and SSIM in the body against acceleration, a line a method; bars span a quarter to three quarters."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    points: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for cell, method, kind, row in best_rows(rows, cases):
        points[(method, kind, cell[0])].append(row)
    panels = [("body", "psnr", "PSNR in body against RSS [dB]"), ("body", "ssim", "SSIM in body against RSS")]
    panels += [("clean", "psnr", "PSNR in body, noise-free [dB]"), ("clean", "ssim", "SSIM in body, noise-free")]
    fig, axes = pyplot.subplots(1, 4, figsize=(15, 3.8), layout="constrained")
    for axis, (kind, measure, label) in zip(axes, panels, strict=True):
        for shift, method in enumerate([*CLASSICAL, *networks]):
            found = [[float(r[f"{kind}_{measure}"]) for r in points[(method, kind, str(a))]] for a in ACCELERATIONS]
            if not all(found):
                continue
            place = np.array(ACCELERATIONS) + 0.08 * (shift - 2)
            low, middle, high = (np.array([np.percentile(f, q) for f in found]) for q in (25, 50, 75))
            axis.errorbar(place, middle, [middle - low, high - middle], marker="o", ms=4, capsize=2, label=method)
        axis.set(xlabel="acceleration", ylabel=label, xticks=ACCELERATIONS)
    axes[0].legend(fontsize=8)
    fig.savefig(path, dpi=110)


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE / "train_unrolled.toml", help="whose validation people")
    parser.add_argument("--data", type=Path, help="folder of images, if it lies elsewhere than the config says")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "model_table")
    parser.add_argument("--methods", nargs="+", default=[*CLASSICAL, "unrolled"])
    parser.add_argument("--network", default="unrolled", help="whose gain is tabulated")
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--renew", action="store_true", help="score networks again: their weights have changed")
    parser.add_argument("--only-table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = load_toml(arguments.config, TrainingConfig)
    data = arguments.data or arguments.config.resolve().parent / config.data
    config = dataclasses.replace(config, data=str(data))
    rows = Rows(arguments.out / "rows.csv")
    if not arguments.only_table:
        run(rows, arguments.methods, arguments.cases, config, arguments.renew)
    text = table(rows, arguments.cases, arguments.network)
    (arguments.out / "table.md").write_text(text)
    figure(rows, arguments.cases, [m for m in arguments.methods if m not in CLASSICAL], arguments.out / "figure.png")
    print(text)


if __name__ == "__main__":
    main()
