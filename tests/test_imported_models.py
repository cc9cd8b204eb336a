"""Networks of others: their checkpoints load without running anything, and give what their own packages give.

Where the `fastmri` and `direct` packages are installed, random weights that they save are compared with them directly;
everywhere, weights by a formula are compared with pictures that these packages gave (`golden/imported_models.json`).
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import re
import types
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.files import write_fastmri
from torch import Tensor
from typer.testing import CliRunner

from mri_unroll.cli import app
from mri_unroll.config import ReconstructionConfig
from mri_unroll.errors import ConfigError, InputError, ModelError, UnsupportedScan
from mri_unroll.model_commands import ForeignKind
from mri_unroll.nets import imported, layouts
from mri_unroll.nets.foreign import import_checkpoint, read_pickle
from mri_unroll.nets.imported import ImportedConfig
from mri_unroll.nets.varnet import symmetric_centre, whole_centre
from mri_unroll.recon.reconstructor import make_reconstructor
from mri_unroll.scan import Geometry, Scan, Source

GOLDEN = json.loads((Path(__file__).parent / "golden" / "imported_models.json").read_text(encoding="utf-8"))
SMALL = {
    "fastmri-varnet": ImportedConfig("fastmri-varnet", 4, 3, n_cascades=2, maps_width=3, maps_pools=2),
    "fastmri-unet": ImportedConfig("fastmri-unet", 4, 3),
    "direct-varnet": ImportedConfig("direct-varnet", 4, 3, n_cascades=2, maps_width=3, maps_pools=2),
}
# (coil, ky, kx), picture, lines on either side of the central one, unit of k-space
CASES = {
    "knee": ((3, 640, 372), (320, 320), (12, 11), 1e-5),
    "odd": ((5, 61, 47), (45, 43), (4, 6), 1.0),
    "one coil": ((1, 50, 45), (50, 45), (9, 2), 1e3),
    "one line": ((2, 33, 64), (30, 31), (0, 0), 1e-3),
}


def lines_mask(width: int, before: int, after: int, every: int = 3) -> NDArray[np.bool_]:
    """Every third line, and an unbroken run around the central one that ends on both sides."""
    mask = np.arange(width) % every == 1
    centre = width // 2
    mask[centre - before : centre + after + 1] = True
    mask[[centre - before - 1, centre + after + 1]] = False
    return mask


def make_scan(
    shape: tuple[int, int, int], recon_shape: tuple[int, int], run: tuple[int, int], unit: float, n_slices: int = 1
) -> Scan:
    """Noise whose spectrum falls off, so that pictures are smooth, in whole lines."""
    random = np.random.RandomState(7)  # its numbers never change
    _, height, width = shape
    noise = random.standard_normal((n_slices, *shape)) + 1j * random.standard_normal((n_slices, *shape))
    y, x = np.arange(height)[:, None] - height // 2, np.arange(width) - width // 2
    fall = 1 / (1 + (np.hypot(y, x) / 4) ** 2)
    mask = np.broadcast_to(lines_mask(width, *run), (height, width)).copy()
    kspace = np.where(mask, noise * fall * unit, 0).astype(np.complex64)
    source = Source(format="test", digest="sha256:0", n_slices=n_slices, slices=(0, n_slices))
    return Scan(kspace=kspace, mask=mask, geometry=Geometry(recon_shape=recon_shape), source=source)


def formula_weights(config: ImportedConfig) -> dict[str, Tensor]:
    """Weights of a network by a formula of their names and places, of a size that keeps features near 1."""
    weights = {}
    for name, parameter in imported.build(config).named_parameters():
        place = torch.arange(parameter.numel(), dtype=torch.float64)
        phase = zlib.crc32(name.encode()) % 1000
        wave = torch.sin(1.7 * place + 0.013 * place**2 + phase).reshape(parameter.shape)
        size = 0.7 if parameter.numel() == 1 else 1.5 / max(parameter[0].numel(), 1) ** 0.5
        weights[name] = (size * wave if parameter.numel() > 1 else size + 0.1 * wave).float()
    return weights


def as_foreign(kind: str, weights: dict[str, Tensor], later: bool = False) -> dict[str, Any]:
    """The same under the names and in the containers of the package they belong to."""
    if kind == "fastmri-varnet":
        return weights
    if kind == "fastmri-unet":
        return {name.removeprefix("unet."): tensor for name, tensor in weights.items()}
    if later:
        weights = {later_name(name): tensor for name, tensor in weights.items()}
    maps = "sensitivity_model."
    return {
        "model": {name: tensor for name, tensor in weights.items() if not name.startswith(maps)},
        "sensitivity_model": {n.removeprefix(maps): tensor for n, tensor in weights.items() if n.startswith(maps)},
        "__datetime__": "2024-01-01 00:00:00",
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]},
    }


def later_name(name: str) -> str:
    """The name of a weight in DIRECT's later layout of U-Nets."""
    name = re.sub(r"(up_transpose_conv\.\d+)\.layers\.0\.", r"\1.conv.", name)
    name = re.sub(r"up_conv\.\d+\.1\.", "conv_out.", name)
    name = re.sub(r"(up_conv\.\d+)\.0\.layers\.", r"\1.layers.", name)
    return re.sub(r"\.layers\.0\.", ".layer_1.conv.", re.sub(r"\.layers\.4\.", ".layer_2.conv.", name))


def picture_of(kind: str, checkpoint: Any, scan: Scan, folder: Path, **settings: Any) -> NDArray[np.float32]:
    """What we give, from a checkpoint of another package to the picture of the first slice."""
    torch.save(checkpoint, folder / "theirs.pt")
    import_checkpoint(kind, folder / "theirs.pt", folder / "ours.safetensors", overwrite=True, **settings)
    image = make_reconstructor(str(folder / "ours.safetensors"), ReconstructionConfig(device="cpu")).reconstruct(scan)
    return image.pixels[0]


def package(name: str) -> Any:
    """A module of another package, or the test is skipped; what it warns of on import is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def fastmri_picture(network: torch.nn.Module, scan: Scan) -> NDArray[np.float32]:
    """The road of the `fastmri` package for a file with a mask, as its modules walk it in a test."""
    transforms = package("fastmri.data.transforms")
    assert scan.mask is not None
    height, width = scan.geometry.recon_shape
    known = {"recon_size": (height, width, 1), "padding_left": 0, "padding_right": scan.kspace.shape[-1]}
    with torch.no_grad():
        if type(network).__name__ == "Unet":
            sample = transforms.UnetDataTransform("multicoil")(scan.kspace[0], None, None, known, "file.h5", 0)
            return (network(sample.image[None, None])[0, 0] * sample.std + sample.mean).numpy()
        sample = transforms.VarNetDataTransform()(scan.kspace[0], scan.mask[0], None, known, "file.h5", 0)
        picture = network(sample.masked_kspace[None], sample.mask[None], sample.num_low_frequencies)
        return transforms.center_crop(picture, (height, width))[0].numpy()


def direct_picture(
    model: torch.nn.Module, refining: torch.nn.Module | None, scan: Scan, percentile: float, sigma: float | None
) -> NDArray[np.float32]:
    """The road of DIRECT for a file with a mask, by its own transforms and engine."""
    transforms = package("direct.data.transforms")
    steps = package("direct.data.mri_transforms")
    dataset = package("direct.data.datasets").FastMRIDataset
    assert scan.mask is not None
    lines = scan.mask[:1]
    grid = (1, 1, *scan.mask.shape, 1)
    acs = np.broadcast_to(dataset._FastMRIDataset__get_acs_from_fastmri_mask(lines), scan.mask.shape).copy()
    sample = {
        "masked_kspace": torch.view_as_real(torch.from_numpy(scan.kspace[:1])),
        "sampling_mask": torch.from_numpy(scan.mask).reshape(grid),
        "acs_mask": torch.from_numpy(acs).reshape(grid),
    }
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        key = steps.KspaceKey.MASKED_KSPACE
        sample = steps.EstimateSensitivityMapModule(key, transforms.ifft2, gaussian_sigma=sigma)(sample)
        sample = steps.ComputeScalingFactorModule("masked_kspace", percentile)(sample)
        sample = steps.NormalizeModule()(sample)
        engine = object.__new__(package("direct.nn.varnet.varnet_engine").EndToEndVarNetEngine)
        engine.ndim, engine.models = 2, {} if refining is None else {"sensitivity_model": refining}
        engine.model, engine.backward_operator = model, transforms.ifft2
        engine._coil_dim, engine._complex_dim, engine._spatial_dims = 1, -1, (2, 3)
        sample["sensitivity_map"] = engine.compute_sensitivity_map(sample["sensitivity_map"])
        picture, _ = engine.forward_function(sample)
        picture = picture[0] * sample["scaling_factor"]
        return transforms.center_crop(picture, scan.geometry.recon_shape).numpy()


def difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The largest difference, over the largest value."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def build_fastmri(config: ImportedConfig) -> torch.nn.Module:
    """The network as the `fastmri` package makes it."""
    models = package("fastmri.models")
    if config.kind == "fastmri-unet":
        return models.Unet(1, 1, config.width, config.n_pools).eval()
    sizes = (config.n_cascades, config.maps_width, config.maps_pools, config.width, config.n_pools)
    return models.VarNet(*sizes).eval()


def build_direct(config: ImportedConfig) -> tuple[torch.nn.Module, torch.nn.Module | None]:
    """The two networks as DIRECT makes them."""
    transforms, unet = package("direct.data.transforms"), package("direct.nn.unet.unet_2d")
    model = package("direct.nn.varnet.varnet").EndToEndVarNet(
        transforms.fft2, transforms.ifft2, config.n_cascades, config.width, config.n_pools
    )
    if not config.maps_width:
        return model.eval(), None
    make = unet.NormUnetModel2d if config.maps_normalised else unet.UnetModel2d
    return model.eval(), make(2, 2, config.maps_width, config.maps_pools, 0.0).eval()


@pytest.mark.parametrize("case", [pytest.param("knee", marks=pytest.mark.slow), *list(CASES)[1:]])
@pytest.mark.parametrize("kind", ["fastmri-varnet", "fastmri-unet"])
def test_networks_of_fastmri_give_the_pictures_of_their_package(kind: str, case: str, tmp_path: Path) -> None:
    scan = make_scan(*CASES[case])
    torch.manual_seed(len(case))
    network = build_fastmri(SMALL[kind])
    for number, cascade in enumerate(getattr(network, "cascades", [])):
        cascade.dc_weight.data.fill_(0.6 + 0.3 * number)
    prefix = "varnet." if kind == "fastmri-varnet" else "unet."
    inside = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    lightning = {
        "state_dict": inside | {"loss.w": torch.ones(1, 1, 7, 7)},
        "epoch": 49,
        "hyper_parameters": {"lr": 1e-3},
    }
    theirs = fastmri_picture(network, scan)
    found = difference(picture_of(kind, lightning, scan, tmp_path), theirs)
    print(f"{kind}, {case}: largest difference {found:.2e}")
    assert found < 1e-4
    assert difference(picture_of(kind, network.state_dict(), scan, tmp_path), theirs) == found


@pytest.mark.parametrize("case", [pytest.param("knee", marks=pytest.mark.slow), *list(CASES)[1:]])
@pytest.mark.parametrize("refined", ["by a U-Net", "by a normalised U-Net", "not"])
def test_the_network_of_direct_gives_the_pictures_of_its_package(refined: str, case: str, tmp_path: Path) -> None:
    scan = make_scan(*CASES[case])
    torch.manual_seed(len(case))
    maps = (0, 0) if refined == "not" else (3, 2)
    config = ImportedConfig("direct-varnet", 4, 3, 2, *maps, maps_normalised="normalised" in refined)
    model, refining = build_direct(config)
    for number, layer in enumerate(model.layers_list):
        layer.learning_rate.data.fill_(0.6 + 0.3 * number)
    checkpoint = {"model": model.state_dict(), "__mixed_precision__": False}
    if refining is not None:
        checkpoint["sensitivity_model"] = refining.state_dict()
    for percentile, sigma in ((0.99, None), (0.995, 0.7)):
        theirs = direct_picture(model, refining, scan, percentile, sigma)
        settings = {"scale_percentile": percentile, "maps_sigma": sigma}
        found = difference(picture_of("direct-varnet", checkpoint, scan, tmp_path, **settings), theirs)
        print(f"direct-varnet, maps refined {refined}, {case}, {settings}: largest difference {found:.2e}")
        assert found < 1e-4


@pytest.mark.parametrize("kind", layouts.LAYOUTS)
def test_weights_by_a_formula_give_the_pictures_that_the_packages_gave(kind: str, tmp_path: Path) -> None:
    golden = GOLDEN[kind]
    checkpoint = as_foreign(kind, formula_weights(SMALL[kind]))
    picture = picture_of(kind, checkpoint, make_scan(*CASES["odd"]), tmp_path)
    assert picture.shape == tuple(golden["shape"])
    assert (
        np.abs(picture[::9, ::9] - np.array(golden["every_ninth"])).max() < 1e-4 * np.abs(golden["every_ninth"]).max()
    )
    assert np.linalg.norm(picture) == pytest.approx(golden["norm"], rel=1e-4)
    if kind == "direct-varnet":
        later = as_foreign(kind, formula_weights(SMALL[kind]), later=True)
        assert any(".layer_1.conv." in name for name in later["model"])
        np.testing.assert_array_equal(picture_of(kind, later, make_scan(*CASES["odd"]), tmp_path), picture)


@pytest.mark.parametrize("kind", layouts.LAYOUTS)
def test_the_packages_give_the_golden_pictures(kind: str) -> None:
    """Where the golden numbers come from: `python -m pytest -s` prints them anew where a package is installed."""
    config, scan = SMALL[kind], make_scan(*CASES["odd"])
    foreign = as_foreign(kind, formula_weights(config), later=True)
    if kind == "direct-varnet":
        model, refining = build_direct(config)
        assert refining is not None
        model.load_state_dict(foreign["model"])
        refining.load_state_dict(foreign["sensitivity_model"])
        picture = direct_picture(model, refining, scan, 0.99, None)
    else:
        network = build_fastmri(config)
        network.load_state_dict(foreign)
        picture = fastmri_picture(network, scan)
    norm = float(np.linalg.norm(picture))
    every_ninth = [[float(f"{value:.7g}") for value in row] for row in picture[::9, ::9]]
    print("golden", json.dumps({kind: {"shape": picture.shape, "norm": norm, "every_ninth": every_ninth}}))
    golden = GOLDEN[kind]
    assert norm == pytest.approx(golden["norm"], rel=1e-5)
    np.testing.assert_allclose(picture[::9, ::9], golden["every_ninth"], rtol=0, atol=1e-5 * picture.max())


def small_checkpoint(kind: str, folder: Path) -> Path:
    """A checkpoint of ours with weights by the formula."""
    torch.save(as_foreign(kind, formula_weights(SMALL[kind])), folder / "theirs.pt")
    import_checkpoint(kind, folder / "theirs.pt", folder / f"{kind}.safetensors")
    return folder / f"{kind}.safetensors"


def test_the_command_offers_what_can_be_recognised() -> None:
    assert get_args(ForeignKind) == tuple(layouts.LAYOUTS) == imported.KINDS


@pytest.mark.parametrize("kind", layouts.LAYOUTS)
def test_sizes_are_told_from_the_weights(kind: str) -> None:
    for config in (
        SMALL[kind],
        ImportedConfig(kind, 6, 1) if kind == "fastmri-unet" else ImportedConfig(kind, 6, 1, 3, 2, 4),
    ):
        weights = formula_weights(config)
        tensors, found, _ = layouts.recognise(kind, as_foreign(kind, weights), {})
        assert found == config
        assert tensors.keys() == weights.keys()
        tensors, found, _ = layouts.recognise(kind, as_foreign(kind, weights, later=True), {})
        assert found == config
        assert all(torch.equal(tensors[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("kind", "container", "layout"),
    [
        ("fastmri-varnet", lambda w: w, "plain"),
        ("fastmri-varnet", lambda w: {"model": {f"module.{n}": t for n, t in w.items()}, "epoch": 3}, "`model`"),
        ("fastmri-varnet", lambda w: {"state_dict": {f"varnet.{n}": t for n, t in w.items()}}, "Lightning"),
        ("fastmri-unet", lambda w: {"state_dict": {f"unet.{n}": t for n, t in w.items()}}, "Lightning"),
        (
            "fastmri-unet",
            lambda w: {
                "classy_state_dict": {
                    "base_model": {"model": {"trunk": {f"_feature_blocks.unetblock.{n}": t for n, t in w.items()}}}
                }
            },
            "trunk",
        ),
        ("direct-varnet", lambda w: w, "DIRECT"),
        ("direct-varnet", lambda w: w["model"], "plain"),
    ],
)
def test_every_layout_is_recognised(kind: str, container: Any, layout: str) -> None:
    weights = formula_weights(SMALL[kind])
    content = container(as_foreign(kind, weights))
    tensors, config, found = layouts.recognise(kind, content, {})
    assert layout in found
    assert config.n_cascades == SMALL[kind].n_cascades
    assert tensors.keys() <= weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize("kind", layouts.LAYOUTS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda w: {"weights": w},
        lambda w: {},
        lambda w: [1, 2],
        lambda w: dict(list(w.items())[1:]),
        lambda w: w | {"another.weight": torch.ones(2)},
        lambda w: w | {list(w)[2]: torch.ones(3, 3)},
        lambda w: w | {next(iter(w)): torch.ones(2, dtype=torch.int64)},
        lambda w: {name.replace(".0.", ".40."): tensor for name, tensor in w.items()},
    ],
)
def test_other_layouts_are_refused_in_a_sentence(kind: str, spoil: Any) -> None:
    weights = as_foreign(kind, formula_weights(SMALL[kind]))
    content = spoil(weights["model"] if kind == "direct-varnet" else weights)
    with pytest.raises(ModelError) as caught:
        layouts.recognise(kind, content, {})
    assert layouts.LAYOUTS[kind] in caught.value.message
    assert "got" in caught.value.message


def test_one_kind_is_not_taken_for_another(tmp_path: Path) -> None:
    for kind in layouts.LAYOUTS:
        torch.save(as_foreign(kind, formula_weights(SMALL[kind])), tmp_path / "theirs.pt")
        for other in set(layouts.LAYOUTS) - {kind}:
            with pytest.raises(ModelError, match="Expected"):
                import_checkpoint(other, tmp_path / "theirs.pt", tmp_path / "ours.safetensors")
    assert not (tmp_path / "ours.safetensors").exists()


class _Runs:
    """What a malicious pickle holds: a call that is made when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("kind", layouts.LAYOUTS)
def test_a_malicious_pickle_is_refused_and_nothing_in_it_runs(kind: str, form: str, tmp_path: Path) -> None:
    trace, source = tmp_path / "it ran", tmp_path / "theirs.pt"
    content = as_foreign(kind, formula_weights(SMALL[kind])) | {"epoch": _Runs(trace)}
    if form == "bare pickle":
        source.write_bytes(pickle.dumps({"state_dict": {}, "epoch": _Runs(trace)}))
    else:
        torch.save(content, source, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ModelError, match="nothing in it was run"):
        import_checkpoint(kind, source, tmp_path / "ours.safetensors")
    assert not trace.exists()
    assert not (tmp_path / "ours.safetensors").exists()
    pickle.loads(pickle.dumps(_Runs(trace)))
    assert trace.exists()  # the same pickle does run where it is trusted


def test_objects_are_named_and_broken_files_refused(tmp_path: Path) -> None:
    source = tmp_path / "theirs.pt"
    torch.save({"state_dict": {}, "args": types.SimpleNamespace(lr=1)}, source)
    with pytest.raises(ModelError, match="SimpleNamespace"):
        read_pickle(source)
    with pytest.raises(ModelError, match="There is no checkpoint"):
        read_pickle(tmp_path / "absent.pt")
    whole = io.BytesIO()
    torch.save({"a": torch.ones(100)}, whole)
    for content in (
        b"",
        b"nothing of the kind",
        whole.getvalue()[:-40],
        whole.getvalue()[:200],
        b"PK\x05\x06" + bytes(18),
    ):
        source.write_bytes(content)
        with pytest.raises(ModelError):
            read_pickle(source)


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "theirs.pt"
    monkeypatch.setattr("mri_unroll.nets.foreign.MAX_BYTES", 10_000)
    torch.save({"a": torch.ones(10_000)}, source)
    with pytest.raises(ModelError, match="more than"):
        read_pickle(source)
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:  # small on disk, large when unpacked
        archive.writestr("archive/data.pkl", bytes(1_000_000))
    assert source.stat().st_size < 10_000
    with pytest.raises(ModelError, match="more than"):
        read_pickle(source)
    endless = torch.ones(1).expand(2**20, 2**20)  # four bytes, which stand for four terabytes
    with pytest.raises(ModelError, match="larger than"):
        layouts.recognise("fastmri-unet", {"down_sample_layers.0.layers.0.weight": endless}, {})


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = formula_weights(SMALL["fastmri-unet"])
    weights["unet.up_conv.2.1.bias"][0] = torch.nan
    torch.save(as_foreign("fastmri-unet", weights), tmp_path / "theirs.pt")
    with pytest.raises(ModelError, match="not finite"):
        import_checkpoint("fastmri-unet", tmp_path / "theirs.pt", tmp_path / "ours.safetensors")


def test_nothing_is_overwritten_and_settings_are_looked_at(tmp_path: Path) -> None:
    out = small_checkpoint("direct-varnet", tmp_path)
    before = out.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        import_checkpoint("direct-varnet", tmp_path / "theirs.pt", out)
    assert out.read_bytes() == before
    config, _ = import_checkpoint("direct-varnet", tmp_path / "theirs.pt", out, overwrite=True, scale_percentile=0.5)
    assert config.scale_percentile == 0.5
    assert imported.load(out)[1] == config
    for name in ("ours.pt", "ours.2.safetensors"):
        with pytest.raises(InputError, match=r"NAME\.safetensors"):
            import_checkpoint("direct-varnet", tmp_path / "theirs.pt", tmp_path / name)
    with pytest.raises(ConfigError, match="percentile"):
        import_checkpoint("direct-varnet", tmp_path / "theirs.pt", tmp_path / "more.safetensors", scale_percentile=2.0)
    with pytest.raises(ConfigError, match="no setting maps_sigma"):
        import_checkpoint("fastmri-unet", tmp_path / "theirs.pt", tmp_path / "more.safetensors", maps_sigma=0.7)


def test_a_checkpoint_of_ours_is_held_to_its_configuration(tmp_path: Path) -> None:
    out = small_checkpoint("fastmri-unet", tmp_path)
    assert imported.is_imported(out)
    assert not imported.is_imported(tmp_path / "theirs.pt")
    network, config, card = imported.load(out)
    assert config == SMALL["fastmri-unet"]
    assert "ask whoever trained it" in card["licence"]
    assert card["source_digest"].startswith("sha256:")
    tensors = dict(network.named_parameters())
    imported.save(tensors, ImportedConfig("fastmri-unet", 5, 3), card, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="do not fit"):
        imported.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("kind", layouts.LAYOUTS)
def test_pictures_follow_the_unit_and_do_not_know_of_silent_coils(kind: str, tmp_path: Path) -> None:
    out = str(small_checkpoint(kind, tmp_path))
    shape, recon_shape, run, _ = CASES["odd"]
    picture = make_reconstructor(out).reconstruct(make_scan(shape, recon_shape, run, 1.0)).pixels
    assert np.isfinite(picture).all()
    for unit in (1e-12, 1e12):
        other = make_reconstructor(out).reconstruct(make_scan(shape, recon_shape, run, unit)).pixels
        np.testing.assert_allclose(other / unit, picture, rtol=0, atol=3e-5 * np.abs(picture).max())
    scan = make_scan(shape, recon_shape, run, 1.0)
    silent = dataclasses.replace(scan, kspace=np.insert(scan.kspace, 2, 0, axis=1))
    np.testing.assert_array_equal(make_reconstructor(out).reconstruct(silent).pixels, picture)


@pytest.mark.parametrize("kind", layouts.LAYOUTS)
def test_the_reconstructor_keeps_the_contract_of_all(kind: str, tmp_path: Path) -> None:
    out = small_checkpoint(kind, tmp_path)
    scan = make_scan((3, 61, 47), (45, 43), (4, 6), 1.0, n_slices=2)
    scan.kspace[1] = 0
    seen: list[tuple[int, int]] = []
    image = make_reconstructor(str(out)).reconstruct(scan, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert image.pixels.shape == (2, 45, 43)
    assert image.pixels.dtype == np.float32
    assert image.pixels[0].any()
    assert not image.pixels[1].any()
    assert "Empty" in image.diagnostics.status[1]
    assert image.provenance.weights_digest is not None
    assert image.provenance.parameters["kind"] == kind
    assert np.isnan(image.diagnostics.data_residual[0]) == (kind == "fastmri-unet")
    np.testing.assert_array_equal(make_reconstructor(str(out)).reconstruct(scan).pixels, image.pixels)
    for config in (ReconstructionConfig(effort="best"), ReconstructionConfig(denoise=0.5)):
        with pytest.raises(ConfigError, match="imported"):
            make_reconstructor(str(out), config)


def test_scans_that_such_networks_cannot_take_are_refused(tmp_path: Path) -> None:
    scan = make_scan((2, 61, 47), (45, 43), (4, 6), 1.0)
    assert scan.mask is not None
    speckled = np.random.default_rng(0).random(scan.mask.shape) < 0.5
    beside = scan.mask.copy()
    beside[:, 47 // 2] = False
    cube = np.ones((1, 2, 4, 8, 8), np.complex64)
    volume = dataclasses.replace(
        scan, kspace=cube, mask=np.ones((4, 8, 8), bool), geometry=Geometry((8, 8), n_partitions=4)
    )
    for kind in layouts.LAYOUTS:
        reconstructor = make_reconstructor(str(small_checkpoint(kind, tmp_path)))
        with pytest.raises(UnsupportedScan, match="three-dimensional"):
            reconstructor.reconstruct(volume)
        if kind == "fastmri-unet":
            with pytest.raises(UnsupportedScan, match="too small"):
                reconstructor.reconstruct(make_scan((2, 61, 47), (7, 43), (4, 6), 1.0))
            continue
        for mask in (speckled, beside):
            with pytest.raises(UnsupportedScan, match="whole lines"):
                reconstructor.reconstruct(dataclasses.replace(scan, mask=mask))
        (warning,) = reconstructor.reconstruct(make_scan((2, 33, 64), (30, 31), (1, 2), 1.0)).diagnostics.warnings
        assert "central lines gave the coil maps" in warning


def test_central_lines_by_either_rule() -> None:
    def lines(*measured: int, width: int = 12) -> torch.Tensor:
        return torch.tensor([index in measured for index in range(width)])

    assert symmetric_centre(lines(0, 4, 5, 6, 7, 8, 10)) == slice(4, 8)
    assert whole_centre(lines(0, 4, 5, 6, 7, 8, 10)) == slice(4, 9)
    assert symmetric_centre(lines(6)) == slice(6, 7)
    assert symmetric_centre(torch.ones(12, dtype=torch.bool)) == whole_centre(torch.ones(12, dtype=torch.bool))
    assert whole_centre(lines(5)) == slice(6, 6)


def test_a_method_without_a_phase_has_no_residual_to_tell(tmp_path: Path) -> None:
    out = small_checkpoint("fastmri-unet", tmp_path)
    write_fastmri(tmp_path / "scan.h5", make_scan(*CASES["odd"], n_slices=2).kspace)
    results = tmp_path / "results"
    done = CliRunner().invoke(app, ["recon", str(tmp_path / "scan.h5"), "-o", str(results), "--method", str(out)])
    assert done.exit_code == 0, done.output
    assert "data residual" not in done.stderr
    assert json.loads((results / "scan.json").read_text(encoding="utf-8"))["data_residual"] == [None, None]
    assert "or the method gives magnitudes only" in (results / "scan.html").read_text(encoding="utf-8")


def test_the_command_line_imports_shows_and_runs(tmp_path: Path) -> None:
    torch.save(as_foreign("fastmri-varnet", formula_weights(SMALL["fastmri-varnet"])), tmp_path / "theirs.pt")
    out, source = tmp_path / "ours.safetensors", str(tmp_path / "theirs.pt")
    run = CliRunner().invoke
    first = run(app, ["models", "import", "fastmri-varnet", source, "-o", str(out)])
    assert first.exit_code == 0, first.output
    assert str(out) in first.stdout
    assert "licence: not stated" in first.stderr
    again = run(app, ["models", "import", "fastmri-varnet", source, "-o", str(out)])
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    shown = run(app, ["models", "show", str(out), "--json"])
    assert shown.exit_code == 0, shown.output
    summary = json.loads(shown.stdout)
    assert summary["config"]["n_cascades"] == 2
    assert summary["parameters"] == sum(tensor.numel() for tensor in formula_weights(SMALL["fastmri-varnet"]).values())
    assert summary["card"]["imported_from"] == "theirs.pt"
    scan = make_scan((3, 61, 47), (45, 43), (4, 6), 1e-5)
    write_fastmri(tmp_path / "scan.h5", scan.kspace, reconstruction_rss=np.ones((1, 45, 43), np.float32))
    done = run(app, ["recon", str(tmp_path / "scan.h5"), "-o", str(tmp_path / "results"), "--method", str(out)])
    assert done.exit_code == 0, done.output
    with h5py.File(tmp_path / "results" / "scan.h5") as file:
        written = next(iter(file.values()))[0] if "reconstruction" not in file else file["reconstruction"][0]
    by_hand = make_reconstructor(str(out), ReconstructionConfig(device="cpu")).reconstruct(scan).pixels[0]
    np.testing.assert_allclose(written, by_hand, rtol=1e-5, atol=0)
