"""Fit the heads of the verdict to collected evidence, and write them where the package finds them.

    python scripts/trust/fit.py --method unrolled --evidence runs/trust

Networks are fitted to scans of people that reconstruction networks were trained on, intervals and limits to others
(``calibration``), and `scripts/trust/table.py` tests on yet others (``test``).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from evidence_files import Collected, has, joined, load
from familiar import UNFAMILIAR
from faults import FAULT_NAMES
from torch import Tensor, nn

from mri_unroll.recon.reconstructor import make_reconstructor, weights_folder
from mri_unroll.recon.slicewise import SlicewiseReconstructor
from mri_unroll.trust import heads as calibrations
from mri_unroll.trust.checks import FALSE_ALARMS, SURE, fault_scores
from mri_unroll.trust.context import terms
from mri_unroll.trust.heads import Discriminants, Ensemble, ErrorMap, Heads
from mri_unroll.trust.prediction import log_errors, numbers
from mri_unroll.trust.witness import SUFFIX

FLOOR = 1e-6  # added to errors before their logarithm: fully sampled scans have next to none
MEMBERS = 15  # networks that predict the error: with five, one fit differed from the next
JITTER = 0.15  # standard deviations by which features are shaken while fitting, against overfitting
SMALLNESS = 0.01  # by which squares of the weights of the discriminants are held down
COVERED = 0.9  # quantile of errors that the map is fitted to
RATIO_LEVELS = 2000
STEPS = (1, 2, 4, 8)  # faultless scans by which a limit is lowered at once
HELD = 40.0  # by which what is usual for a kind of scan is held near what is usual for all
# Features that are not in the evidence of the plain scans, which was collected before there were any: for errors only.
YOUNG = ("missing_", "unexplained", "unmeasured", "error_")


def standardised(train: Collected) -> tuple[Tensor, Tensor]:
    """Mean and spread of every feature over faultless scans."""
    mean, spread = np.nanmean(train.features, 0), np.nanstd(train.features, 0)
    return torch.from_numpy(np.nan_to_num(mean)), torch.from_numpy(np.nan_to_num(spread)).clamp_min(1e-3)


def fit_error(features: Tensor, log_nmse: Tensor, weight: Tensor, steps: int = 1500) -> Ensemble:
    """Mean and spread of the logarithm of the error, by maximum likelihood; each member sees its own sample."""
    torch.manual_seed(0)
    network = Ensemble(features.shape[1], 2, MEMBERS)
    network.biases[-1].data[..., 0] = log_nmse.mean()
    drawn = torch.poisson(torch.ones(MEMBERS, len(features))) * weight
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=3e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        found = network(features + JITTER * torch.randn_like(features))
        mean, log_spread = found[..., 0], found[..., 1].clamp(-4, 2)
        loss = (drawn * (log_spread + 0.5 * ((log_nmse - mean) / log_spread.exp()) ** 2)).sum() / drawn.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def may_use(names: tuple[str, ...], fault: str) -> Tensor:
    """Which features a fault may be read from, ``(feature,)``, 1 or 0.

    What a picture looks like says which body it is and nothing of the acquisition: a knee that fills its field of
    view is no ghost. That a coil is weak is no fault either; only what it holds tells whether it works.
    """
    appearance = ("grey_", "band_", "edge_", "filled", "asymmetry", "roughness_")
    weak = ("coil_silent", "coil_spread", "coil_gain", "coil_worst")
    unfit = (*appearance, *(weak if fault == "missing coil" else ("coil_silent",)))
    return torch.tensor([0.0 if name.startswith((*unfit, *YOUNG)) else 1.0 for name in names])


def fit_faults(features: Tensor, labels: Tensor, names: tuple[str, ...]) -> Discriminants:
    """Logistic regression of each fault against none, held small; ``labels`` are 0 for none and 1 and up for faults."""
    n_faults = len(FAULT_NAMES)
    network = Discriminants(features.shape[1], n_faults)
    used = torch.stack([may_use(names, fault) for fault in FAULT_NAMES]).repeat(1, 2)
    with torch.no_grad():
        network.line.weight.zero_()
        network.line.bias.zero_()
    wanted = torch.nn.functional.one_hot(labels, n_faults + 1)[:, 1:].float()
    counts = torch.bincount(labels, minlength=n_faults + 1).float()
    # Against none only: scans with another fault have no part in it. Both sides weigh the same.
    weight = torch.where(wanted > 0, 0.5 / counts[1:], torch.where(labels[:, None] == 0, 0.5 / counts[0], 0.0))
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        network.line.weight.data *= used
        each = nn.functional.binary_cross_entropy_with_logits(network(features), wanted, reduction="none")
        loss = (weight * each).sum() + SMALLNESS * network.line.weight.square().sum()
        loss.backward()
        network.line.weight.grad *= used
        return loss

    optimizer.step(closure)
    return network.eval()


def limits_for(clean: Tensor, damaged: list[Tensor], false_alarms: float) -> Tensor:
    """Limits, one a fault, that a share ``false_alarms`` of faultless scans exceeds in any of them.

    Step by step that limit is lowered which finds most more scans with its fault for each new alarm on faultless ones.

    Parameters
    ----------
    clean
        Scores of faultless scans, ``(scan, fault)``.
    damaged
        Of each fault, the scores of scans that have it, ``(scan, fault)``.
    false_alarms
        0..1.
    """
    ordered = clean.sort(0, descending=True).values
    ranks = torch.zeros(clean.shape[1], dtype=torch.long)  # so many faultless lie above each limit

    def found(limits: Tensor) -> float:
        return sum(float((scores > limits).any(1).float().mean()) for scores in damaged)

    def alarms(limits: Tensor) -> float:
        return float((clean > limits).any(1).float().mean())

    while True:
        now = ordered.gather(0, ranks[None])[0]
        before, price = found(now), alarms(now)
        best, gained = None, -math.inf
        for index in range(len(ranks)):
            for step in STEPS:
                tried = ranks.clone()
                tried[index] = min(int(tried[index]) + step, len(clean) - 1)
                limits = ordered.gather(0, tried[None])[0]
                if alarms(limits) <= false_alarms and bool((tried != ranks).any()):
                    gain = (found(limits) - before) / max(alarms(limits) - price, 0.2 / len(clean))
                    best, gained = (tried, gain) if gain > gained else (best, gained)
        if best is None:
            return now
        ranks = best


def fit_places(collected: Collected, told: Tensor, steps: int = 1500, side: int = 72) -> ErrorMap:
    """The logarithm of what a share `COVERED` of errors stays below, by the pinball loss on random cut-outs."""
    torch.manual_seed(2)
    random = np.random.default_rng(2)
    network = ErrorMap(len(collected.pictures[0]))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = random.integers(len(collected.pictures), size=12)
        pieces, errors = [], []
        for index in chosen:
            pictures, error = collected.pictures[index], collected.errors[index]
            top, left = (int(random.integers(max(1, n - side + 1))) for n in error.shape)
            piece = np.s_[top : top + side, left : left + side]
            pad = [(0, side - n) for n in error[piece].shape]
            turns = tuple(np.s_[:: 1 if random.random() < 0.5 else -1] for _ in range(2))
            pieces.append(np.pad(pictures[:, *piece].astype(np.float32), [(0, 0), *pad], mode="edge")[:, *turns])
            errors.append(np.pad(error[piece].astype(np.float32), pad, mode="edge")[turns])
        found = network(torch.from_numpy(np.stack(pieces)), told[chosen])
        gap = (torch.from_numpy(np.stack(errors)) + 1e-4).log() - found
        loss = torch.maximum(COVERED * gap, (COVERED - 1) * gap).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def place_ratios(collected: Collected, heads: Heads) -> Tensor:
    """True error over the map, ascending, over pixels of all scans alike."""
    found = []
    features = heads.standard(collected.named())
    with torch.inference_mode():
        for index, (pictures, error) in enumerate(zip(collected.pictures, collected.errors, strict=True)):
            row = features[index : index + 1]
            expected = heads.places(torch.from_numpy(pictures.astype(np.float32))[None], numbers(row, heads))[0].exp()
            ratio = torch.from_numpy(error.astype(np.float32)) / expected
            found.append(torch.quantile(ratio.flatten()[:: max(1, ratio.numel() // 2**14)], torch.linspace(0, 1, 200)))
    ratios = torch.stack(found).flatten().sort().values
    return ratios[torch.linspace(0, len(ratios) - 1, RATIO_LEVELS).long()]


def usual_scores(scores: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Scores that faultless scans have by their context, and the logarithm of how far they are from that.

    Both ``(term, fault)``, by ridge regression.
    """
    ridge = HELD * torch.eye(context.shape[1])
    ridge[0, 0] = 0
    mean = torch.linalg.solve(context.mT @ context + ridge, context.mT @ scores)
    away = (scores - context @ mean).abs()
    log_away = (away + 0.1 * away.mean(0)).log()
    return mean, torch.linalg.solve(context.mT @ context + 5 * ridge, context.mT @ log_away)


def fit(method: str, folder: Path, others: Sequence[str], plain: Path | None) -> Heads:
    """All heads of a method; checks also from faults of ``others``, and from scans of the folder ``plain``."""
    train = load(folder, method, "train", "none", pictures=False)
    mean, spread = standardised(train)

    def standard_of(parts: Sequence[Collected]) -> Tensor:
        values = torch.cat([torch.from_numpy(part.features) for part in parts])
        return ((values - mean) / spread).clamp(-5, 5).nan_to_num(0.0)

    def from_all(people: str, fault: str, methods: Sequence[str] = (method, *others)) -> Collected:
        known = [(where, name) for where in (folder, plain) for name in dict.fromkeys(methods) if where is not None]
        parts = [load(where, name, people, fault, False) for where, name in known if has(where, name, people, fault)]
        return joined(parts, train.names)

    sound, damaged = from_all("train", "none"), [from_all("train", fault) for fault in FAULT_NAMES]
    labels = torch.cat([torch.full((len(part.nmse),), i) for i, part in enumerate((sound, *damaged))])
    faults = fit_faults(standard_of((sound, *damaged)), labels, train.names)
    limiting = from_all("calibration", "none", (method,))
    scans = {"checks": [len(part.nmse) for part in (sound, *damaged)], "limits": len(limiting.nmse)}
    with torch.inference_mode():
        standard = standard_of((sound,))
        usual, log_usual_spread = usual_scores(faults(standard), terms(standard, train.names))
    empty = torch.zeros(1)
    heads = Heads(
        names=train.names,
        mean=mean,
        spread=spread,
        error=Ensemble(len(train.names), 2),
        places=ErrorMap(),
        faults=faults,
        fault_names=FAULT_NAMES,
        usual=usual,
        log_usual_spread=log_usual_spread,
        limits=empty,
        error_scores=empty,
        place_scores=empty,
        about={"scans": scans},
    )
    with torch.inference_mode():
        clean = fault_scores(heads.standard(limiting.named()), heads)
        found = [fault_scores(heads.standard(part.named()), heads) for part in damaged]
        shares = ((1 - UNFAMILIAR) * FALSE_ALARMS, SURE)
        limits = torch.stack([limits_for(clean, found, share) for share in shares]).cummax(0).values
    return fit_errors(method, folder, dataclasses.replace(heads, limits=limits), plain)


def fit_errors(method: str, folder: Path, known: Heads, plain: Path | None) -> Heads:
    """What predicts errors and their places of the method as it is now; standardisation and checks stay as known."""
    train, calibration = (load(folder, method, people, "none") for people in ("train", "calibration"))
    where = [place for place in (folder, plain) if place is not None]

    def others(fault: str, places: Sequence[Path]) -> list[Collected]:
        return [load(place, method, "train", fault, False) for place in places if has(place, method, "train", fault)]

    sound = joined((train, *others("none", where[1:])), known.names)
    damaged = [part for fault in FAULT_NAMES for part in others(fault, where)]
    every = joined((sound, *damaged), known.names)
    log_nmse = torch.from_numpy(np.log(every.nmse + FLOOR)).float()
    weight = torch.full((len(log_nmse),), 0.3)
    weight[: len(sound.nmse)] = 1.0
    heads = dataclasses.replace(known, error=fit_error(known.standard(every.named()), log_nmse, weight))
    told = numbers(heads.standard(train.named()[: len(train.pictures)]), heads).detach()
    heads = dataclasses.replace(heads, places=fit_places(train, told))
    with torch.inference_mode():
        means, spreads = log_errors(heads.standard(calibration.named()), heads)
        residual = (torch.from_numpy(np.log(calibration.nmse + FLOOR)).float() - means) / spreads
    reconstructor = make_reconstructor(method)
    assert isinstance(reconstructor, SlicewiseReconstructor)
    about = {
        "method": method,
        "weights_digest": reconstructor.weights_digest,
        "settings": None if reconstructor.weights_digest else dict(reconstructor.parameters),
        "scans": known.about["scans"]
        | {"error": [len(sound.nmse), len(log_nmse) - len(sound.nmse)], "intervals": len(calibration.nmse)},
    }
    heads = dataclasses.replace(heads, error_scores=residual.sort().values, about=about)
    return dataclasses.replace(heads, place_scores=place_ratios(calibration, heads))


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="unrolled")
    parser.add_argument("--evidence", type=Path, required=True)
    parser.add_argument(
        "--checks-from", nargs="*", default=[], help="methods whose scans with faults serve too, to fit the checks"
    )
    parser.add_argument("--plain", type=Path, help="evidence of collect.py --plain 1, for checks and errors too")
    parser.add_argument("--errors-only", action="store_true", help="leave the checks of the shipped calibration")
    parser.add_argument("--out", type=Path, help="default: where the package finds it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    place = weights_folder() / "trust" / f"{arguments.method}{SUFFIX}"
    if arguments.errors_only:
        heads = fit_errors(arguments.method, arguments.evidence, calibrations.load(place), arguments.plain)
    else:
        heads = fit(arguments.method, arguments.evidence, arguments.checks_from, arguments.plain)
    out = arguments.out or place
    out.parent.mkdir(exist_ok=True)
    calibrations.save(heads, out)
    print(f"{out.name}: {heads.about['scans']}")


if __name__ == "__main__":
    main()
