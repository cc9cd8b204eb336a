"""What an evaluation leaves behind: one page to read, everything as JSON, means and spread as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mri_unroll import __version__
from mri_unroll.evaluate import figures
from mri_unroll.evaluate.cases import MEASURE, Gallery, galleries
from mri_unroll.evaluate.conventions import MEASURES, convention_named
from mri_unroll.evaluate.record import FROM_FILE, BadFile, VolumeScore
from mri_unroll.evaluate.statistics import FEW, IN_BODY, LESS_IS_BETTER, PAIRED, SPREAD, Comparison, Group
from mri_unroll.evaluate.tables import Findings, as_json, brief_of, find, statement_of, write_summary_table
from mri_unroll.io.sidecar import write_sidecar
from mri_unroll.report.figures import ERROR_COLOURS
from mri_unroll.report.pictures import PERCENTILE, colour_bar, colours
from mri_unroll.report.template import environment, write_page
from mri_unroll.report.wording import described, number

TEMPLATE = "evaluation.html.j2"
MAX_GALLERIES = 4  # settings of which pictures are shown
OPEN_ROWS = 24  # rows up to which a table of differences is open from the start
_DECIMALS = {"nmse": 4, "psnr": 2, "ssim": 4}
_COLUMNS = {"nmse": "NMSE ↓", "psnr": "PSNR ↑ [dB]", "ssim": "SSIM ↑"}


def write_evaluation(
    out: Path, scores: Sequence[VolumeScore], bad: Sequence[BadFile], settings: Mapping[str, Any]
) -> dict[str, Path]:
    """Write ``summary.json``, ``summary.csv`` and ``report.html``; those of an earlier call are replaced.

    The same scores, in any order, give the same files.

    Parameters
    ----------
    out
        The folder of the evaluation, in which the pictures of the scores lie.
    scores
        All that there are; none is possible.
    bad
        Files that were not scored.
    settings
        How the evaluation was made, fit for JSON; shown, and ``methods`` gives their order.

    Returns
    -------
    Keys ``json``, ``csv`` and ``report``.

    Raises
    ------
    InputError, DeviceError
        If the folder cannot be written.
    """
    scores = sorted(scores, key=lambda score: score.key)
    bad = sorted(bad, key=lambda each: (each.file, each.method, each.reason))
    findings = find(scores, settings)
    paths = {"json": out / "summary.json", "csv": out / "summary.csv", "report": out / "report.html"}
    page = environment("evaluate").get_template(TEMPLATE).render(_values(out, scores, bad, settings, findings))
    write_sidecar(as_json(findings, scores, bad, settings), paths["json"], overwrite=True)
    write_summary_table(findings, paths["csv"])
    write_page(page, paths["report"], overwrite=True)
    return paths


def _values(
    out: Path,
    scores: Sequence[VolumeScore],
    bad: Sequence[BadFile],
    settings: Mapping[str, Any],
    findings: Findings,
) -> dict[str, Any]:
    """Everything that the template names."""
    masks = list(dict.fromkeys(group.mask for group in findings.groups))
    shown, complaints = _thinned(out, scores, findings)
    return {
        "version": __version__,
        "findings": findings,
        "n_slices": sum({score.volume: score.n_slices for score in scores}.values()),
        "n_scores": len(scores),
        "undersampling": _undersampling(findings.groups),
        "convention": ", ".join(convention_named(name).title for name in findings.conventions),
        "warnings": [*_warnings(scores, bad, settings, findings), *complaints],
        "statement": statement_of(findings),
        "brief": brief_of(findings),
        "spread": SPREAD,
        "paired": PAIRED,
        "signs": {sign.method: sign for sign in figures.signs(scores, findings.methods)},
        "columns": list(_COLUMNS.values()),
        "in_body": any(name in group.measures for group in findings.groups for name in IN_BODY),
        "masks": [
            {
                "name": mask,
                "scores": _score_rows([group for group in findings.groups if group.mask == mask]),
                "acquisitions": _score_rows([group for group in findings.by_acquisition if group.mask == mask]),
                "pairs": _pair_rows([pair for pair in findings.comparisons if pair.mask == mask]),
                "boxes": figures.boxes(scores, mask, findings.methods),
                "curves": figures.curves(scores, mask, findings.methods),
            }
            for mask in masks
        ],
        "own_masks": FROM_FILE in masks,
        "few": figures.FEW,
        "open_rows": OPEN_ROWS,
        "galleries": shown,
        "measure": MEASURE.upper(),
        "percentile": PERCENTILE,
        "greys": colour_bar(colours("gray")),
        "error_colours": colour_bar(colours(ERROR_COLOURS)),
        "bad": bad,
        "settings": _shown(settings),
    }


def _thinned(out: Path, scores: Sequence[VolumeScore], findings: Findings) -> tuple[list[Gallery], list[str]]:
    """Pictures of up to `MAX_GALLERIES` settings, from the first to the last."""
    places = sorted({(group.mask, group.acceleration) for group in findings.groups})
    last = len(places) - 1
    chosen = {places[round(i * last / (MAX_GALLERIES - 1))] for i in range(MAX_GALLERIES)} if places else set()
    return galleries(out, [s for s in scores if (s.mask, s.acceleration) in chosen], findings.methods)


def _undersampling(groups: Sequence[Group]) -> dict[str, str]:
    factors = [f"{factor:g}×" for factor in sorted({group.acceleration for group in groups})]
    return {
        "factors": ", ".join(factors) if len(factors) <= 4 else f"{factors[0]} to {factors[-1]}",
        "masks": ", ".join(dict.fromkeys(group.mask for group in groups)),
    }


def _warnings(
    scores: Sequence[VolumeScore], bad: Sequence[BadFile], settings: Mapping[str, Any], findings: Findings
) -> list[str]:
    found = []
    if not scores:
        found.append("No volume was scored.")
    if len(findings.conventions) > 1:
        found.append(f"Scores of different conventions lie side by side: {', '.join(findings.conventions)}.")
    expected = settings.get("expected_scores")
    if isinstance(expected, int) and len(scores) < expected:
        found.append(f"{len(scores)} of {expected} expected scores are there; the others are missing or failed.")
    if findings.n_missing:
        found.append(
            f"Not every method has every volume: {findings.n_missing} scores are missing. Means are over the volumes"
            " that each method has; differences are over those that both have."
        )
    if 0 < findings.n_volumes < FEW:
        volumes = "volume" if findings.n_volumes == 1 else "volumes"
        found.append(f"Only {findings.n_volumes} {volumes}: an example rather than a benchmark.")
    if bad:
        files = len({each.file for each in bad})
        found.append(f"{files} {'file was' if files == 1 else 'files were'} not scored or not by every method.")
    return found


def _score_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Blocks of one acceleration and acquisition, in each a row for every method; the best means are marked."""
    blocks = []
    for (acceleration, acquisition), members in groupby(groups, lambda group: (group.acceleration, group.acquisition)):
        block = list(members)
        best = {measure: _best(block, measure) for measure in (*MEASURES, *IN_BODY)}
        rows = [
            {
                "method": group.method,
                "n": group.n_volumes,
                "cells": [_cell(group, measure, best[measure]) for measure in MEASURES],
                "body": [_cell(group, measure, best[measure]) for measure in IN_BODY],
            }
            for group in block
        ]
        effective = sum(group.effective_acceleration for group in block) / len(block)
        blocks.append(
            {
                "acceleration": f"{acceleration:g}×",
                "effective": number(effective),
                "acquisition": acquisition,
                "rows": rows,
            }
        )
    return blocks


def _best(block: Sequence[Group], measure: str) -> float | None:
    """Best mean of several methods; None where there is nothing to choose from."""
    means = [group.measures[measure].mean for group in block if measure in group.measures]
    means = [mean for mean in means if mean == mean]
    if len(means) < 2:
        return None
    return min(means) if measure in LESS_IS_BETTER else max(means)


def _cell(group: Group, measure: str, best: float | None) -> dict[str, Any]:
    summary = group.measures.get(measure)
    if summary is None:
        return {"mean": "–", "sd": None, "best": False, "missing": 0}
    return {
        "mean": fixed(summary.mean, measure),
        "sd": fixed(summary.sd, measure) if summary.n > 1 else None,
        "best": summary.mean == best,
        "missing": summary.n_missing,
    }


def _pair_rows(pairs: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Blocks of one acceleration, in each a row for every two methods."""
    blocks: dict[float, dict[tuple[str, str], dict[str, Comparison]]] = {}
    for pair in pairs:
        blocks.setdefault(pair.acceleration, {}).setdefault((pair.method, pair.other), {})[pair.measure] = pair
    return [
        {
            "acceleration": f"{acceleration:g}×",
            "n_rows": len(rows),
            "rows": [
                {
                    "method": method,
                    "other": other,
                    "n": max(pair.n_pairs for pair in by_measure.values()),
                    "unpaired": min(pair.n_unpaired for pair in by_measure.values()),
                    "cells": [_difference(by_measure[measure]) for measure in MEASURES],
                }
                for (method, other), by_measure in rows.items()
            ],
        }
        for acceleration, rows in blocks.items()
    ]


def _difference(pair: Comparison) -> dict[str, Any]:
    return {
        "mean": fixed(pair.mean_difference, pair.measure, signed=True),
        "interval": None
        if pair.n_pairs < 2
        else f"{fixed(pair.low, pair.measure, signed=True)} to {fixed(pair.high, pair.measure, signed=True)}",
        "apart": pair.low > 0 or pair.high < 0,
        "counts": f"{pair.wins} : {pair.losses}" + (f" ({pair.ties} alike)" if pair.ties else ""),
    }


def fixed(value: float, measure: str, signed: bool = False) -> str:
    """A score with as many decimals as its measure deserves; tiny and infinite ones as `report.wording.number`."""
    decimals = _DECIMALS[measure.removeprefix("body_")]
    if not abs(value) < float("inf") or 0 < abs(value) < 5 * 10**-decimals:
        text = number(value, 2)
    else:
        text = f"{value:.{decimals}f}".replace("-", "−")
    return f"+{text}" if signed and value > 0 else text


def _shown(settings: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Settings as names and lines; of the methods each with its own."""
    methods = settings.get("methods", ())
    spoken = {}
    for name in methods:
        held = methods[name] if isinstance(methods, Mapping) else {}
        digest = held.get("weights_digest")
        own = {**held.get("parameters", {}), **({"weights": digest} if digest else {})}
        spoken[name] = own or "nothing to set"
    return described({**settings, "methods": spoken})
