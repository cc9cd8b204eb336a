"""The one road: streamed in parts it gives what a whole read gives, and leaves everything behind that it promises."""

from __future__ import annotations

import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import InputError
from mri_unroll.io.registry import read_scan
from mri_unroll.metrics import nmse
from mri_unroll.physics.phantom import phantom_kspace
from mri_unroll.pipeline import reconstruct_file
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.recon.retrospective import undersample
from mri_unroll.recon.slicewise import EMPTY
from mri_unroll.trust.verdict import ANSWERS

CONFIG = ReconstructionConfig(
    method="cg-sense", accelerate=2.0, mask="random", center_fraction=0.2, seed=3, device="cpu"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five slices without a stored reference, the last of them empty."""
    kspace = phantom_kspace((48, 41), 3, n_slices=5, noise=0.003)
    kspace[4] = 0
    with h5py.File(tmp_path / "scan.h5", "w") as stored:
        stored["kspace"] = kspace
    return tmp_path / "scan.h5"


def test_streaming_equals_reading_at_once(file: Path, tmp_path: Path) -> None:
    outcome = reconstruct_file(file, tmp_path / "out", CONFIG)
    scan = read_scan(file)
    whole = make_reconstructor("cg-sense", CONFIG).reconstruct(undersample(scan, "random", 2.0, 0.2, seed=3)).pixels
    with h5py.File(outcome.volume) as stored:
        streamed = stored["reconstruction"][:]
        assert stored.attrs["input_digest"] == scan.source.digest
    np.testing.assert_array_equal(streamed, whole)
    reference = make_reconstructor("zero-filled").reconstruct(scan).pixels
    assert outcome.summary["metrics"]["nmse"] == pytest.approx(nmse(reference, whole), rel=1e-9)
    assert "computed here" in outcome.summary["metrics_reference"]


def test_sidecar_is_strict_json_and_says_what_ran(file: Path, tmp_path: Path) -> None:
    outcome = reconstruct_file(file, tmp_path / "out", CONFIG)

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    sidecar = json.loads(outcome.sidecar.read_text(), parse_constant=refuse)
    assert sidecar["retrospective"] == {"accelerate": 2.0, "mask": "random", "center_fraction": 0.2, "seed": 3}
    assert sidecar["status"][4] == EMPTY
    assert sidecar["data_residual"][4] is None
    assert math.isfinite(sidecar["data_residual"][0])
    assert sidecar["verdict"] in ANSWERS
    assert sidecar["advice"]
    assert any("Slice 4 holds only zeros" in warning for warning in sidecar["warnings"])
    assert len(sidecar["scale"]) == len(sidecar["seconds_per_slice"]) == 5


def test_some_slices_are_those_of_the_whole(file: Path, tmp_path: Path) -> None:
    whole = reconstruct_file(file, tmp_path / "whole.npy", ReconstructionConfig(method="zero-filled"))
    part = reconstruct_file(file, tmp_path / "part.npy", ReconstructionConfig(method="zero-filled", slices=(1, 4)))
    np.testing.assert_array_equal(np.load(part.volume), np.load(whole.volume)[1:4])
    assert part.summary["slices"] == [1, 4]
    with pytest.raises(InputError, match="within 0:5"):
        reconstruct_file(file, tmp_path / "none.npy", ReconstructionConfig(method="zero-filled", slices=(3, 9)))


def test_events_count_every_slice(file: Path, tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    reconstruct_file(file, tmp_path / "out", ReconstructionConfig(method="zero-filled"), events=events.append)
    assert [event["done"] for event in events if event["event"] == "progress"] == [0, 1, 2, 3, 4, 5]
    assert [event["event"] for event in events][-2:] == ["writing", "done"]


def test_the_input_is_never_the_output(file: Path) -> None:
    with pytest.raises(InputError, match="input file itself"):
        reconstruct_file(file, file, ReconstructionConfig(method="zero-filled", overwrite=True))
    with pytest.raises(InputError, match="input file itself"):
        reconstruct_file(file, file.parent, ReconstructionConfig(method="zero-filled", overwrite=True))


def test_real_scans_give_their_own_picture(shared_data: Path, tmp_path: Path) -> None:
    """Fully sampled real files of three scanners: the plain transform is the file's own reconstruction."""
    names = (
        "brain_t1_7coil",
        "knee_fatsat_1coil_readout640",
        "brain_t1_sag_1coil_noheader",
        "lowfield_0p055T_sub1_FLAIR",
    )
    for name in names:
        config = ReconstructionConfig(method="zero-filled")
        outcome = reconstruct_file(shared_data / "kspace" / f"{name}.h5", tmp_path / name, config)
        assert outcome.summary["metrics"]["nmse"] < 1e-6, name


def test_shipped_network_beats_compressed_sensing_on_a_real_brain(shared_data: Path, tmp_path: Path) -> None:
    """One mask of what scripts/compare_methods.py measures over five."""
    path = shared_data / "kspace" / "brain_t1_7coil.h5"
    scores = {}
    for method in ("zero-filled", "l1-wavelet", "unrolled"):
        config = ReconstructionConfig(method=method, accelerate=6.0, device="cpu")
        scores[method] = reconstruct_file(path, tmp_path / method, config).summary["metrics"]["psnr"]
    assert scores["unrolled"] > scores["l1-wavelet"] + 1.0
    assert scores["l1-wavelet"] > scores["zero-filled"] + 1.0
