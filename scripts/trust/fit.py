"""Fit the heads of the verdict to collected evidence, and write them where the package finds them.

    python scripts/trust/fit.py --method unrolled --evidence runs/trust

Networks are fitted to scans of people that reconstruction networks were trained on, intervals and limits to others
(``calibration``), and `scripts/trust/table.py` tests on yet others (``test``).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
from evidence_files import Collected, load
from faults import FAULT_NAMES, OTHER_BODY
from torch import Tensor, nn

from mri_unroll.recon.reconstructor import make_reconstructor, weights_folder
from mri_unroll.recon.slicewise import SlicewiseReconstructor
from mri_unroll.trust import heads as calibrations
from mri_unroll.trust.checks import FALSE_ALARMS, SURE, fault_scores
from mri_unroll.trust.heads import Discriminants, Ensemble, ErrorMap, Heads
from mri_unroll.trust.prediction import log_errors, numbers
from mri_unroll.trust.witness import SUFFIX

FLOOR = 1e-6  # added to errors before their logarithm: fully sampled scans have next to none
JITTER = 0.15  # standard deviations by which features are shaken while fitting, against overfitting
SMALLNESS = 0.01  # by which squares of the weights of the discriminants are held down
COVERED = 0.9  # quantile of errors that the map is fitted to
RATIO_LEVELS = 2000


def standardised(train: Collected) -> tuple[Tensor, Tensor]:
    """Mean and spread of every feature over faultless scans."""
    mean, spread = np.nanmean(train.features, 0), np.nanstd(train.features, 0)
    return torch.from_numpy(np.nan_to_num(mean)), torch.from_numpy(np.nan_to_num(spread)).clamp_min(1e-3)


def fit_error(features: Tensor, log_nmse: Tensor, weight: Tensor, steps: int = 1500) -> Ensemble:
    """Mean and spread of the logarithm of the error, by maximum likelihood; each member sees its own sample."""
    torch.manual_seed(0)
    network = Ensemble(features.shape[1], 2)
    network.biases[-1].data[..., 0] = log_nmse.mean()
    drawn = torch.poisson(torch.ones(5, len(features))) * weight
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
    unfit = () if fault == OTHER_BODY else (*appearance, *(weak if fault == "missing coil" else ("coil_silent",)))
    return torch.tensor([0.0 if name.startswith(unfit) else 1.0 for name in names]) if unfit else torch.ones(len(names))


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

    Checks share the alarms so that the fault which is found least is found as often as can be: the limit of the worst
    is lowered by one faultless scan after the other.

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
    ranks = torch.zeros(clean.shape[1], dtype=torch.long)  # as many faultless scans lie above each limit
    open_ = set(range(clean.shape[1]))

    def limits(ranks: Tensor) -> Tensor:
        return ordered.gather(0, ranks[None])[0]

    while open_:
        now = limits(ranks)
        rates = {i: float((damaged[i] > now).any(1).float().mean()) for i in open_}
        weakest = min(open_, key=lambda i: (rates[i], i))
        tried = ranks.clone()
        tried[weakest] += 1
        if float((clean > limits(tried)).any(1).float().mean()) <= false_alarms and int(tried[weakest]) < len(clean):
            ranks = tried
        else:
            open_.remove(weakest)
    return limits(ranks)


def fit_places(collected: Collected, told: Tensor, steps: int = 1500, side: int = 72) -> ErrorMap:
    """The logarithm of what a share `COVERED` of errors stays below, by the pinball loss on random cut-outs."""
    torch.manual_seed(2)
    random = np.random.default_rng(2)
    network = ErrorMap()
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
            pieces.append(np.pad(pictures[:, *piece].astype(np.float32), [(0, 0), *pad], mode="edge"))
            errors.append(np.pad(error[piece].astype(np.float32), pad, mode="edge"))
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


def fit(method: str, folder: Path) -> Heads:
    """All heads of a method."""
    train, calibration = load(folder, method, "train", "none"), load(folder, method, "calibration", "none")
    mean, spread = standardised(train)
    damaged = [load(folder, method, "train", fault) for fault in FAULT_NAMES]
    everything = torch.cat([torch.from_numpy(part.features) for part in (train, *damaged)])
    features = ((everything - mean) / spread).clamp(-5, 5).nan_to_num(0.0)
    labels = torch.cat([torch.full((len(part.nmse),), i) for i, part in enumerate((train, *damaged))])
    log_nmse = torch.from_numpy(np.log(np.concatenate([part.nmse for part in (train, *damaged)]) + FLOOR)).float()
    error = fit_error(features, log_nmse, torch.where(labels == 0, 1.0, 0.3))
    faults = fit_faults(features, labels, train.names)
    reconstructor = make_reconstructor(method)
    assert isinstance(reconstructor, SlicewiseReconstructor)
    about = {
        "method": method,
        "weights_digest": reconstructor.weights_digest,
        "scans": {
            "train": len(train.nmse),
            "calibration": len(calibration.nmse),
            "faults": [len(d.nmse) for d in damaged],
        },
    }
    empty = torch.zeros(1)
    heads = Heads(train.names, mean, spread, error, ErrorMap(), faults, FAULT_NAMES, empty, empty, empty, about)
    told = numbers(heads.standard(train.named()), heads).detach()
    heads = dataclasses.replace(heads, places=fit_places(train, told))
    with torch.inference_mode():
        standard = heads.standard(calibration.named())
        means, spreads = log_errors(standard, heads)
        residual = (torch.from_numpy(np.log(calibration.nmse + FLOOR)).float() - means).abs() / spreads
        clean = fault_scores(standard, heads)
        found = [fault_scores(heads.standard(part.named()), heads) for part in damaged]
        limits = torch.stack([limits_for(clean, found, share) for share in (FALSE_ALARMS, SURE)])
        heads = dataclasses.replace(heads, error_scores=residual.sort().values, limits=limits)
    return dataclasses.replace(heads, place_scores=place_ratios(calibration, heads))


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="unrolled")
    parser.add_argument("--evidence", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="default: where the package finds it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heads = fit(arguments.method, arguments.evidence)
    out = arguments.out or weights_folder() / "trust" / f"{arguments.method}{SUFFIX}"
    out.parent.mkdir(exist_ok=True)
    calibrations.save(heads, out)
    print(f"{out.name}: {heads.about['scans']}")


if __name__ == "__main__":
    main()
