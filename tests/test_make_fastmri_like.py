"""Folders in fastMRI's likeness: what is in the files, who is in which split, and who reads them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest

from mri_unroll.io.registry import read_scan
from mri_unroll.metrics import center_crop, nmse
from mri_unroll.physics.sampling import fastmri_mask
from mri_unroll.recon.reconstructor import make_reconstructor

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "make_fastmri_like.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("make_fastmri_like", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["make_fastmri_like"] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def made(script: ModuleType, out: Path, *words: str) -> list[dict[str, Any]]:
    script.main([str(out), "--slices", "3", "--largest", "72", "--coils", "2,4", *words])
    return list(json.loads((out / "index.json").read_text()))


@pytest.fixture(scope="module")
def folder(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("likeness") / "out"
    made(script, out, "--split", "4,3,4", "--seed", "3", "--test-truth")
    return out


@pytest.fixture(scope="module")
def index(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "index.json").read_text()))


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with h5py.File(path) as file:
        return {name: file[name][()] for name in file}, dict(file.attrs)


def images(kspace: np.ndarray) -> np.ndarray:
    shifted = np.fft.ifft2(np.fft.ifftshift(kspace.astype(np.complex128), axes=(-2, -1)), norm="ortho")
    return np.fft.fftshift(shifted, axes=(-2, -1))


def test_every_file_is_listed_and_laid_out_as_fastmri_does(folder: Path, index: list[dict[str, Any]]) -> None:
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.h5")) == sorted(e["file"] for e in index)
    assert {entry["file"].partition("/")[0] for entry in index} == {
        "multicoil_train", "multicoil_val", "multicoil_test", "multicoil_test_full"
    }  # fmt: skip
    assert {entry["acquisition"] for entry in index} == {"AXT1", "AXT2", "AXFLAIR", "CORPD_FBK"}
    widths = {entry["kspace"][3] for entry in index}
    assert {width % 2 for width in widths} == {0, 1}
    for entry in index:
        data, attributes = contents(folder / entry["file"])
        assert data["kspace"].dtype == np.complex64
        assert list(data["kspace"].shape) == entry["kspace"]
        assert np.isfinite(data["kspace"].view(np.float32)).all()
        assert attributes["acquisition"] == entry["acquisition"]
        left, right = entry["measured_columns"]
        outside = np.delete(data["kspace"], np.s_[left:right], axis=-1)
        assert not outside.any()
        assert not np.signbit(outside.view(np.float32)).any()
        if "multicoil_test/" in entry["file"]:
            assert set(data) == {"kspace", "mask", "ismrmrd_header"}
            continue
        assert set(data) == {"kspace", "reconstruction_rss", "ismrmrd_header"}
        rss = data["reconstruction_rss"]
        assert rss.dtype == np.float32
        assert list(rss.shape[1:]) == entry["picture"]
        again = center_crop(np.linalg.norm(images(data["kspace"]), axis=1), tuple(entry["picture"]))
        np.testing.assert_allclose(rss, again, atol=2e-6 * again.max())
        assert attributes["max"] == rss.max()
        assert attributes["norm"] == pytest.approx(np.linalg.norm(rss.astype(float)), rel=1e-6)
        assert data["kspace"].shape[2] == 2 * rss.shape[1] or rss.shape[1] == rss.shape[2] == data["kspace"].shape[3]


def test_test_files_are_masked_by_fastmris_masks(folder: Path, index: list[dict[str, Any]]) -> None:
    accelerations = set()
    for path in sorted((folder / "multicoil_test").iterdir()):
        data, attributes = contents(path)
        full, _ = contents(folder / "multicoil_test_full" / path.name)
        mask = data["mask"]
        assert mask.shape == data["kspace"].shape[-1:]
        np.testing.assert_array_equal(data["kspace"], np.where(mask, full["kspace"], 0))
        kind = "equispaced_fraction" if attributes["acquisition"].startswith("AX") else "random"
        factor = int(attributes["acceleration"])
        np.testing.assert_array_equal(mask, fastmri_mask(kind, mask.size, 0.32 / factor, factor, file_name=path.name))
        assert attributes["num_low_frequency"] == round(mask.size * 0.32 / factor)
        assert not {"max", "norm"} & set(attributes)
        accelerations.add(factor)
    assert accelerations == {4, 8}


def test_one_test_file_is_narrower_than_its_picture(folder: Path) -> None:
    narrow = []
    for path in sorted((folder / "multicoil_test").iterdir()):
        scan = read_scan(path)
        width = scan.kspace.shape[-1]
        if scan.geometry.recon_shape == (width, width):
            full = read_scan(folder / "multicoil_test_full" / path.name)
            assert full.reference is not None
            assert full.reference.shape[1:] == (width, width)
            narrow.append(path.name)
    assert len(narrow) == 1
    assert narrow[0].startswith("file_brain")


def test_our_reader_takes_every_file_and_finds_the_reference(folder: Path, index: list[dict[str, Any]]) -> None:
    for entry in index:
        scan = read_scan(folder / entry["file"])
        assert scan.n_slices == 3
        assert scan.mask is not None
        left, right = entry["measured_columns"]
        assert not np.delete(scan.mask, np.s_[left:right], axis=-1).any()
        # the geometry is nominal, and nothing else is wrong
        assert [warning for warning in scan.source.warnings if "nominal" not in warning] == []
        if scan.reference is not None:
            zero_filled = make_reconstructor("zero-filled").reconstruct(scan)
            assert nmse(scan.reference, zero_filled.pixels) < 1e-9


def test_fastmris_reader_takes_every_file(folder: Path) -> None:
    pytest.importorskip("fastmri", reason="the package fastmri is not installed")
    from fastmri.data import SliceDataset
    from fastmri.data.transforms import VarNetDataTransform

    for split in ("train", "val", "test"):
        dataset = SliceDataset(folder / f"multicoil_{split}", challenge="multicoil", transform=VarNetDataTransform())
        if split != "test":
            dataset.transform = None
        assert len(dataset) == 3 * len(list((folder / f"multicoil_{split}").iterdir()))
        for index in range(0, len(dataset), 3):
            sample = dataset[index]
            if split == "test":
                assert sample.masked_kspace[sample.mask.expand_as(sample.masked_kspace)].any()
                assert not sample.masked_kspace[~sample.mask.expand_as(sample.masked_kspace)].any()
                continue
            kspace, mask, target, attributes, _, _ = sample
            assert mask is None
            assert not kspace[..., : attributes["padding_left"]].any()
            assert not kspace[..., attributes["padding_right"] :].any()
            assert kspace[0, :, attributes["padding_left"]].all()
            assert kspace[0, :, attributes["padding_right"] - 1].all()
            assert attributes["recon_size"][0] == target.shape[0]
            assert attributes["encoding_size"][:2] == kspace.shape[1:]


def test_slices_are_neighbours_that_share_their_coils_and_noise_differs(folder: Path) -> None:
    data, _ = contents(folder / next(e for e in _entries(folder) if e["file"].startswith("multicoil_train"))["file"])
    coil_images = images(data["kspace"])
    rss = np.linalg.norm(coil_images, axis=1)
    assert 0 < nmse(rss[0], rss[1]) < 0.2
    bright = (rss > 0.3 * rss.max()).all(0)
    # neighbouring slices see the same maps: the coils' shares of the picture stay, also their phase to one another
    shares = coil_images / rss[:, None]
    relative = (shares[:, 1] * shares[:, 0].conj())[:, bright]
    assert np.median(np.abs(relative[0] - relative[1])) < 0.1
    corner = coil_images[:, :, :8, :8]  # air
    overlap = np.abs((corner[0] * corner[1].conj()).sum()) / np.linalg.norm(corner[0]) / np.linalg.norm(corner[1])
    assert overlap < 0.4


def _entries(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "index.json").read_text()))


def test_the_same_seed_makes_the_same_and_another_another(script: ModuleType, tmp_path: Path) -> None:
    first, second, other = (
        made(script, tmp_path / str(i), "--split", "1,0,0", "--seed", seed) for i, seed in enumerate("112")
    )
    assert first == second
    assert first != other
    paths = [tmp_path / str(i) / entries[0]["file"] for i, entries in enumerate((first, second, other))]
    kspaces = [contents(path)[0]["kspace"] for path in paths]
    np.testing.assert_array_equal(kspaces[0], kspaces[1])
    assert kspaces[0].shape != kspaces[2].shape or not np.array_equal(kspaces[0], kspaces[2])


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """A folder of magnitude volumes: three heads, of whom one was scanned twice, and knees of four people in a file."""
    folder = tmp_path / "truth"
    folder.mkdir()
    random = np.random.default_rng(0)
    index = []
    for name, contrast, anatomy, n in (
        ("brain_anna_T1", "T1", "brain", 9),
        ("brain_anna_T2", "T2", "brain", 7),
        ("brain_bert_FLAIR", "FLAIR", "brain", 6),
        ("brain_carl_T1", "T1", "brain", 8),
        ("brain_dora_PD", "PD", "brain", 8),
        ("knee20", "PD 3D FSE", "knee", 20),
    ):
        y, x = np.mgrid[-1:1:90j, -1:1:80j]
        volume = np.array([3000 * (y**2 + (1.2 + 0.01 * i) * x**2 < 0.7) for i in range(n)]) + random.integers(
            0, 300, (n, 90, 80)
        )
        np.savez(folder / f"{name}.npz", images=volume.astype(np.uint16))
        index.append({"file": f"{name}.npz", "shape": [n, 90, 80], "contrast": contrast, "anatomy": anatomy,
                      "source": "drawn", "licence": "none needed"})  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def test_nobody_is_in_two_splits_and_no_slice_in_two_volumes(script: ModuleType, truth: Path, tmp_path: Path) -> None:
    held_out = "brain_anna_.*|brain_bert_.*|knee20:1[0-9]"
    entries = made(script, tmp_path / "out", "--from", str(truth), "--held-out", held_out, "--split", "3,4,2")
    people = {
        split: {e["person"] for e in entries if e["file"].startswith(f"multicoil_{split}/")}
        for split in ("train", "val", "test")
    }
    assert not people["train"] & people["val"]
    assert not people["train"] & people["test"]
    assert not people["val"] & people["test"]
    assert {person for person in people["train"] if person.startswith("brain")} == {"brain_carl"}  # dora's has no like
    assert all(int(person.partition(":")[2]) >= 10 for person in people["val"] | people["test"] if "knee" in person)
    used = [(e["person"], e["acquisition"], i) for e in entries for i in range(*e["slices"])]
    assert len(used) == len(set(used))
    identities = {contents(tmp_path / "out" / e["file"])[1]["patient_id"] for e in entries}
    assert len(identities) == len({e["person"] for e in entries})
    assert all("none needed" in e["source"] for e in entries)


def test_what_cannot_be_made_is_said(
    script: ModuleType, truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = "brain_anna_.*|brain_bert_.*|knee20:1[0-9]"
    with pytest.raises(SystemExit, match="suffice for"):
        made(script, tmp_path / "out", "--from", str(truth), "--held-out", held_out, "--split", "90,1,1")
    with pytest.raises(SystemExit, match=r"splits brain_anna"):
        made(script, tmp_path / "out", "--from", str(truth), "--held-out", "brain_anna_T1", "--split", "1,1,1")
    assert not (tmp_path / "out").exists()
    for words, said in (
        ([str(truth)], "name a new folder"),
        ([str(tmp_path / "out"), "--volumes", "3", "--split", "1,1,1"], "got both"),
        ([str(tmp_path / "out"), "--split", "1,1"], "three numbers"),
        ([str(tmp_path / "out"), "--held-out", ".*"], "no use for --held-out"),
    ):
        with pytest.raises(SystemExit, match="2"):
            script.main(words)
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_real_truth_serves(script: ModuleType, shared_data: Path, tmp_path: Path) -> None:
    held_out = "brain_patient20_.*|brain_skyra_T1|knee20:(1[6-9])"
    entries = made(
        script, tmp_path / "out", "--from", str(shared_data / "truth"), "--held-out", held_out, "--split", "1,2,1"
    )
    assert len(entries) == 4
    for entry in entries:
        assert read_scan(tmp_path / "out" / entry["file"]).kspace.any()
