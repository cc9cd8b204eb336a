"""Hold the verdict against the truth, on people that neither networks, heads, intervals nor limits have seen.

    python scripts/trust/table.py --method unrolled --evidence runs/trust --out docs/trust

Writes OUT/METHOD.md: predicted against true error, coverage, where errors lie, and how many faults are found.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import torch
from collect import HERE, SMALL, acquire, people
from evidence_files import Collected, has, joined, load
from faults import FAULT_NAMES, NOISE_FAULT, OTHER_BODY, fourfold_noise, measured
from fit import FLOOR
from numpy.typing import NDArray
from scanners import PLAIN, PLANAR
from scipy.stats import rankdata
from torch import Tensor

from mri_unroll.config import ReconstructionConfig, load_toml
from mri_unroll.recon.reconstructor import weights_folder
from mri_unroll.training.settings import TrainingConfig
from mri_unroll.trust import familiarity
from mri_unroll.trust import heads as calibrations
from mri_unroll.trust.acquisition import NOISE_LIMIT
from mri_unroll.trust.checks import FALSE_ALARMS, fault_scores
from mri_unroll.trust.heads import Heads
from mri_unroll.trust.noise import noise_over_announced
from mri_unroll.trust.prediction import deviations, log_errors, numbers, quantile
from mri_unroll.trust.witness import SUFFIX

matplotlib.use("Agg")
ACCELERATIONS = ((1.0, 1.5), (1.5, 3.0), (3.0, 5.0), (5.0, 7.0), (7.0, math.inf))
TOP = 0.05  # share of pixels with the largest true error, which the map is to find


def auroc(score: NDArray[np.floating], error: NDArray[np.floating]) -> float:
    """Probability that a pixel among the `TOP` errors has a higher score than one that is not (Mann and Whitney)."""
    positive = (error > np.quantile(error, 1 - TOP)).ravel()
    ranks, count = rankdata(score.ravel()), int(positive.sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(ranks) - count)))


def errors(test: Collected, heads: Heads) -> Iterator[str]:
    """Lines of the table of predicted and true error."""
    with torch.inference_mode():
        means, spreads = log_errors(heads.standard(test.named()), heads)
    low, middle, high = deviations(heads.error_scores, 0.9)
    predicted, truth = (means + middle * spreads).numpy(), np.log(test.nmse + FLOOR)
    score = (truth - means.numpy()) / spreads.numpy()
    inside = (low <= score) & (score <= high)
    factor = np.exp((high - low) / 2 * spreads.numpy())
    acceleration = np.exp(-test.features[:, test.names.index("fraction")])
    yield (
        "| acceleration | scans | correlation of log NMSE | median error of prediction | inside the 90 % interval "
        "| half width (median) |"
    )
    yield "|---|---|---|---|---|---|"
    for low, high in ((1.0, math.inf), *ACCELERATIONS):
        chosen = (acceleration >= low) & (acceleration < high)
        if chosen.sum() < 8:
            continue
        name = "all" if (low, high) == (1.0, math.inf) else f"{low:g} to {high:g}"
        miss = 10 / np.log(10) * np.median(np.abs(truth - predicted)[chosen])
        yield (
            f"| {name} | {chosen.sum()} | {np.corrcoef(predicted[chosen], truth[chosen])[0, 1]:.3f} | {miss:.2f} dB "
            f"| {100 * inside[chosen].mean():.0f} % | x {np.median(factor[chosen]):.2f} |"
        )


def places(test: Collected, heads: Heads) -> Iterator[str]:
    """Lines on the error map."""
    areas, covered, plain, maps, errors = [], [], [], [], []
    features = heads.standard(test.named())
    scale = quantile(heads.place_scores, 0.9)
    with torch.inference_mode():
        for index, (pictures, error) in enumerate(zip(test.pictures, test.errors, strict=True)):
            row, true = features[index : index + 1], error.astype(np.float64)
            if not true.max() > 1e-3:  # fully sampled: there is no error to find
                continue
            found = (
                heads.places(torch.from_numpy(pictures.astype(np.float32))[None], numbers(row, heads))[0].exp().numpy()
            )
            areas.append(auroc(found, true))
            plain.append(auroc(pictures[0].astype(np.float64), true))
            covered.append(float((true <= scale * found).mean()))
            maps.append(found.ravel())
            errors.append(true.ravel())
    yield (
        f"Error map, {len(areas)} scans: AUROC for the {100 * TOP:.0f} % of pixels with the largest error, mean "
        f"{np.mean(areas):.3f}, median {np.median(areas):.3f}, lowest tenth {np.quantile(areas, 0.1):.3f} (of the "
        f"magnitude itself: {np.mean(plain):.3f}), of all pictures together "
        f"{auroc(np.concatenate(maps), np.concatenate(errors)):.3f}; pixels below the map at coverage 90 %: "
        f"{100 * np.mean(covered):.1f} %."
    )


def sabotage(folder: Path, method: str, heads: Heads, kind: str) -> Iterator[str]:
    """Lines on false alarms, and the table of faults, for a kind of scans."""
    network, about = familiarity.shipped()
    limits = torch.cat([heads.limits, torch.tensor([[about["limit"]], [math.inf]])], dim=1)

    def scores_of(fault: str) -> tuple[Tensor, Collected]:
        found = load(folder, method, "test", fault, pictures=False)
        with torch.inference_mode():
            faults = fault_scores(heads.standard(joined([found], heads.names).named()), heads)
            strange = familiarity.log_odds(torch.from_numpy(found.thumbnails).float(), network)
        return torch.cat([faults, strange[:, None]], dim=1), found

    clean, sound = scores_of("none")
    alarms = float((clean > limits[0]).any(1).float().mean())
    sure = float((clean > limits[1]).any(1).float().mean())
    yield (
        f"{kind}: false alarms on {len(clean)} faultless scans of {len(set(sound.people))} test people, all checks "
        f"together: {100 * alarms:.1f} % with the limits as shipped, {100 * sure:.1f} % with the hard ones."
    )
    yield ""
    known = (*FAULT_NAMES, OTHER_BODY)
    faults = [fault for fault in known if has(folder, method, "test", fault)]
    if not faults:
        return
    yield (
        "| fault | scans (people) | found, limits as shipped | named rightly | its check alone at 5 % false alarms "
        "| NMSE, median |"
    )
    yield "|---|---|---|---|---|---|"
    for fault in faults:
        scores, found = scores_of(fault)
        index = known.index(fault)
        over = scores > limits[0]
        alone = scores[:, index] > torch.quantile(clean[:, index], 1 - FALSE_ALARMS)
        yield (
            f"| {fault} | {len(scores)} ({len(set(found.people))}) | {100 * float(over.any(1).float().mean()):.0f} % "
            f"| {100 * float(over[:, index].float().mean()):.0f} % | {100 * float(alone.float().mean()):.0f} % "
            f"| {np.median(found.nmse):.3g} |"
        )
        if fault == OTHER_BODY:
            names = np.array(found.people)
            shares = {name: float(alone[torch.from_numpy(names == name)].float().mean()) for name in sorted(set(names))}
    yield ""
    if OTHER_BODY in faults:
        yield "Other bodies, alone: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items()) + "."
        yield ""


def noise_lines(count: int, data: Path) -> Iterator[str]:
    """Lines on the check of noise against the noise scan, which needs no reconstruction."""
    volumes = people("test", data / "truth", load_toml(HERE.parent / "train_unrolled.toml", TrainingConfig).held_out)
    found: dict[str, list[tuple[bool, bool]]] = {"faultless": [], NOISE_FAULT: []}
    settings = argparse.Namespace(people="test", data=data, coarse=SMALL, planar=PLANAR, plain=PLAIN, uneven=0.0)
    whose = set()
    for index in range(count):
        rng = np.random.default_rng([57, index])
        acquisition, person = acquire(volumes, "none", settings, rng)
        whose.add(person)
        scan = measured(acquisition)
        for name, kspace in (("faultless", scan.kspace), (NOISE_FAULT, fourfold_noise(scan, rng).kspace)):
            power = noise_over_announced(
                torch.from_numpy(kspace.astype(np.complex64)), torch.from_numpy(scan.mask), scan.noise_cov
            )
            ratio = 0.5 * math.log(power) if power else 0.0
            found[name].append((power > 0, ratio > NOISE_LIMIT))
    known, alarm = (np.mean([pair[i] for pair in found["faultless"]]) for i in (0, 1))
    known_4, alarm_4 = (np.mean([pair[i] for pair in found[NOISE_FAULT]]) for i in (0, 1))
    yield (
        f"Noise against the noise scan, {count} scans of {len(whose)} people: it could be judged in {100 * known:.0f} "
        f"% and gave an alarm in {100 * alarm:.1f} %; with {NOISE_FAULT} it could be judged in {100 * known_4:.0f} % "
        f"and gave an alarm in **{100 * alarm_4:.0f} %**."
    )


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="unrolled")
    parser.add_argument("--evidence", type=Path, required=True)
    parser.add_argument("--plain", type=Path, help="evidence of collect.py --plain 1")
    parser.add_argument("--heads", type=Path, help="default: as shipped")
    parser.add_argument("--out", type=Path, help="default: standard output alone")
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared" / "data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heads = calibrations.load(arguments.heads or weights_folder() / "trust" / f"{arguments.method}{SUFFIX}")
    clean = load(arguments.evidence, arguments.method, "test", "none")
    lines = [f"# The verdict on pictures of `{arguments.method}`", "", *errors(clean, heads), ""]
    if clean.pictures:
        lines += [*places(clean, heads), ""]
    lines += sabotage(arguments.evidence, arguments.method, heads, "Varied scans")
    if arguments.plain and has(arguments.plain, arguments.method, "test", "none"):
        lines += sabotage(arguments.plain, arguments.method, heads, "Plain scans")
    if arguments.method == ReconstructionConfig().method:  # the check of noise needs no picture
        lines += noise_lines(300, arguments.data)
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"{arguments.method}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
