"""Files that are wrong, broken or meant to harm: each gets one sentence, and nothing outside them is ever read."""

from __future__ import annotations

import gzip
import os
import random
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.files import SHAPE, advice, header_xml, random_kspace, write_fastmri
from support.mrd import cartesian, readout, volume, write_mrd

from mri_unroll.errors import CorruptScan, InputError, MriUnrollError, UnknownFormat, UnsupportedScan
from mri_unroll.io import describe, read_scan

CANARY = 7777.0  # the value in the files that must never be read
LAYOUT = "slice,coil,ky,kx"


def check_refused(path: Path, kind: type[MriUnrollError], words: str, layout: str | None = None) -> None:
    """Reading and describing both refuse with the same kind of error, one sentence that says ``words``."""
    with pytest.raises(kind, match=words) as caught:
        read_scan(path, layout=layout)
    assert type(caught.value) is kind
    sentence = advice(caught.value)
    assert "7777" not in sentence
    with pytest.raises(kind) as again:
        describe(path, layout=layout)
    advice(again.value)


# --- what is no scan at all


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _nifti(path: Path) -> None:
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    head[344:348] = b"n+1\x00"
    path.write_bytes(bytes(head))


def _nifti_gz(path: Path) -> None:
    _nifti(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def _ismrmrd(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["dataset/xml"] = header_xml()
        file["dataset/data"] = np.zeros(3)


def _user_block(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["kspace"] = random_kspace()


def _picture_only(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["reconstruction"] = np.ones((2, 5, 5))


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../evil.npy", "no array")
        archive.writestr("second.npy", "no array")


@pytest.mark.parametrize(
    ("write", "kind", "words"),
    [
        (_bytes(b""), CorruptScan, "empty"),
        (_bytes(b"This is plain text.\n"), UnknownFormat, "first bytes are 54 68 69 73"),
        (_bytes(b"x"), UnknownFormat, "first bytes are 78"),
        (_bytes(b"\x1f\x8b\x08\x00garbage"), UnknownFormat, "1f 8b"),
        (_bytes(b"PK\x03\x04 but no zip"), UnknownFormat, "50 4b"),
        (_bytes(bytes(128) + b"DICM" + bytes(64)), UnsupportedScan, "DICOM.*finished pictures"),
        (_nifti, UnsupportedScan, "NIfTI.*not implemented"),
        (_nifti_gz, UnsupportedScan, "NIfTI.*not implemented"),
        (_ismrmrd, UnsupportedScan, "no list of ISMRMRD readouts"),
        (_user_block, UnsupportedScan, "user block of 1024"),
        (_picture_only, UnknownFormat, "it holds 'reconstruction'"),
        (_zip, UnknownFormat, "without an array"),
        (lambda path: h5py.File(path, "w").close(), UnknownFormat, "it holds nothing"),
    ],
)
def test_no_scan(tmp_path: Path, write: Callable[[Path], object], kind: type[MriUnrollError], words: str) -> None:
    path = tmp_path / "scan.h5"
    write(path)
    check_refused(path, kind, words, layout=None)


def test_unknown_format_names_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("text")
    with pytest.raises(UnknownFormat) as caught:
        read_scan(tmp_path / "a.h5")
    assert all(name in caught.value.hint for name in ("fastMRI", ".npy", ".npz"))


def test_paths_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_refused(tmp_path, InputError, "folder")
    check_refused(tmp_path / "missing.h5", InputError, "no file")
    check_refused(tmp_path / ("x" * 300), InputError, "cannot be opened")
    check_refused(Path("nul\0byte"), InputError, "cannot be opened")
    os.mkfifo(tmp_path / "pipe")  # opening it for reading would wait for ever
    check_refused(tmp_path / "pipe", InputError, "plain file")
    path = write_fastmri(tmp_path / "a.h5")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything: pretend

        def deny(self: Path, *_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", deny)
    check_refused(path, InputError, "may not be read")


# --- what reaches for other files


def _canary(folder: Path) -> Path:
    with h5py.File(folder / "canary.h5", "w") as file:
        file["kspace"] = np.full(SHAPE, CANARY, np.complex64)
        file["mask"] = np.ones(SHAPE[3])
    (folder / "canary.raw").write_bytes(np.full(SHAPE, CANARY, np.complex64).tobytes())
    return folder / "canary.h5"


def _external_link(file: h5py.File, folder: Path) -> None:
    file["kspace"] = h5py.ExternalLink("canary.h5", "/kspace")


def _external_link_deep(file: h5py.File, folder: Path) -> None:
    file["kspace"] = random_kspace()
    file["a/b/c"] = h5py.ExternalLink(str(folder / "canary.h5"), "/")


def _external_mask(file: h5py.File, folder: Path) -> None:
    file["kspace"] = random_kspace()
    file["mask"] = h5py.ExternalLink("canary.h5", "/mask")


def _external_storage(file: h5py.File, folder: Path) -> None:
    external = [(str(folder / "canary.raw"), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("kspace", SHAPE, np.complex64, external=external)


def _virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, np.complex64)
    layout[...] = h5py.VirtualSource("canary.h5", "kspace", SHAPE)
    file.create_virtual_dataset("kspace", layout)


def _soft_link(file: h5py.File, folder: Path) -> None:
    file["elsewhere"] = random_kspace()
    file["kspace"] = h5py.SoftLink("/elsewhere")


def _soft_loop(file: h5py.File, folder: Path) -> None:
    file["kspace"] = h5py.SoftLink("/a")
    file["a"] = h5py.SoftLink("/kspace")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (_external_link, "'/kspace' is a link"),
        (_external_link_deep, "'/a/b/c' is a link"),
        (_external_mask, "'/mask' is a link"),
        (_external_storage, "in another file"),
        (_virtual, "virtual dataset"),
        (_soft_link, "is a link"),
        (_soft_loop, "is a link"),
    ],
)
def test_nothing_outside_is_read(
    tmp_path: Path, build: Callable[[h5py.File, Path], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = _canary(tmp_path)
    monkeypatch.chdir(tmp_path)
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        build(file, tmp_path)
    for path in (canary, tmp_path / "canary.raw"):  # a read would show in the time of last access
        os.utime(path, (1, 1))
    check_refused(tmp_path / "evil.h5", UnsupportedScan, words)
    for path in (canary, tmp_path / "canary.raw"):
        assert path.stat().st_atime == 1


def test_plugin_folder_is_not_searched(tmp_path: Path) -> None:
    path = write_fastmri(tmp_path / "a.h5")
    code = (
        "import sys, h5py; from mri_unroll.io import read_scan; assert h5py.h5pl.size() == 1, h5py.h5pl.size(); "
        "read_scan(sys.argv[1]); print(h5py.h5pl.size())"
    )
    environment = {**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "0"


# --- what declares too much, or the wrong thing


def _shape_bomb(file: h5py.File) -> None:
    file.create_dataset("kspace", (10**6, 64, 640, 372), np.complex64, chunks=(1, 1, 64, 62))


def _packed_bomb(file: h5py.File) -> None:
    file.create_dataset("kspace", (64, 16, 512, 128), np.complex64, chunks=(1, 16, 512, 128), compression="gzip")


def _chunk_bomb(file: h5py.File) -> None:
    chunks = (1, 1, 2**13, 2**13)
    file.create_dataset("kspace", (1, 1, 8, 8), np.complex64, chunks=chunks, maxshape=(None,) * 4)


def _bomb_beside(file: h5py.File) -> None:
    file["kspace"] = random_kspace()
    file.create_dataset("mask", (10**12,), np.bool_, chunks=(10**6,))


def _many_objects(file: h5py.File) -> None:
    group = file.create_group("kspace")
    for index in range(10_001):
        group[str(index)] = group  # links count, however few objects they lead to


def _many_dimensions(file: h5py.File) -> None:
    file.create_dataset("kspace", (1,) * 9, np.complex64)


def _unknown_filter(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, 1, 13, 11))
    properties.set_filter(305, h5py.h5z.FLAG_OPTIONAL, (0,))
    space = h5py.h5s.create_simple(SHAPE)
    h5py.h5d.create(file.id, b"kspace", h5py.h5t.py_create(np.dtype(np.complex64), logical=True), space, properties)


def _scale_offset(file: h5py.File) -> None:
    file["kspace"] = random_kspace()
    file.create_dataset("mask", data=np.ones(SHAPE[3], np.int64), scaleoffset=2)


def _references(file: h5py.File) -> None:
    file.create_dataset("kspace", SHAPE, h5py.ref_dtype)


def _ragged(file: h5py.File) -> None:
    file.create_dataset("kspace", (3,), h5py.vlen_dtype(np.float32))


def _odd_float(file: h5py.File) -> None:
    odd = h5py.h5t.IEEE_F32LE.copy()
    odd.set_ebias(255)
    pair = h5py.h5t.create(h5py.h5t.COMPOUND, 8)
    pair.insert(b"r", 0, odd)
    pair.insert(b"i", 4, odd)
    h5py.h5d.create(file.id, b"kspace", pair, h5py.h5s.create_simple(SHAPE))


def _never_written(file: h5py.File) -> None:
    file.create_dataset("kspace", SHAPE, np.complex64)


def _half_written(file: h5py.File) -> None:
    file.create_dataset("kspace", SHAPE, np.complex64, chunks=(1, *SHAPE[1:]))[0] = random_kspace(SHAPE[1:])


@pytest.mark.parametrize(
    ("build", "kind", "words"),
    [
        (_shape_bomb, UnsupportedScan, "more than the limit"),
        (_packed_bomb, UnsupportedScan, "no measured data"),
        (_chunk_bomb, UnsupportedScan, "chunks"),
        (_bomb_beside, UnsupportedScan, "'/mask' declares"),
        (_many_objects, UnsupportedScan, "more than 10000 objects"),
        (_many_dimensions, UnsupportedScan, "9 dimensions"),
        (_unknown_filter, UnsupportedScan, "filter 305"),
        (_scale_offset, UnsupportedScan, "filter 6"),
        (_references, UnsupportedScan, "objects or references"),
        (_ragged, UnsupportedScan, "objects or references"),
        (_odd_float, UnsupportedScan, "unusual number format"),
        (_never_written, CorruptScan, "never completely written"),
        (_half_written, CorruptScan, "1 of 3 parts"),
    ],
)
def test_declarations(
    tmp_path: Path, build: Callable[[h5py.File], None], kind: type[MriUnrollError], words: str
) -> None:
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        build(file)
    check_refused(tmp_path / "evil.h5", kind, words)


# --- sound files with unusable content


def _with_nan(value: float, index: tuple[int, ...] = (1, 0, 2, 3)) -> np.ndarray:
    kspace = random_kspace()
    kspace[index] = value
    return kspace


_REFERENCE = np.ones((3, 7, 5), np.float32)
_ENTITY = '<!DOCTYPE r [<!ENTITY a "x">]><r>&a;</r>'
_LAUGHS = '<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><r>&b;</r>'
_OUTSIDE = '<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]><r>&a;</r>'


@pytest.mark.parametrize(
    ("datasets", "kind", "words"),
    [
        ({"kspace": _with_nan(np.nan)}, CorruptScan, "slice 1 holds NaN"),
        ({"kspace": _with_nan(-np.inf)}, CorruptScan, "slice 1 holds NaN"),
        ({"kspace": random_kspace().astype(complex) * 1e300}, CorruptScan, "NaN or infinite"),
        ({"kspace": np.abs(random_kspace())}, UnsupportedScan, "must be complex.*float32"),
        ({"kspace": np.ones(SHAPE, np.int16)}, UnsupportedScan, "must be complex.*int16"),
        ({"kspace": np.ones(SHAPE, np.dtype("i2,i2"))}, UnsupportedScan, "must be complex"),
        ({"kspace": np.bytes_(b"text")}, UnsupportedScan, "has shape"),
        ({"kspace": h5py.Empty("c8")}, CorruptScan, "not an array"),
        ({"kspace": random_kspace((13, 11))}, UnsupportedScan, "has shape"),
        ({"kspace": random_kspace((1, 2, 3, 13, 11))}, UnsupportedScan, "has shape"),
        ({"kspace": random_kspace((2, 640, 9, 3))}, UnsupportedScan, "640 coils"),
        ({"kspace": random_kspace((0, 2, 13, 11))}, CorruptScan, "empty"),
        ({"kspace": random_kspace((3, 2, 13, 0))}, CorruptScan, "empty"),
        ({"kspace": np.zeros(SHAPE, np.complex64)}, CorruptScan, "only zeros"),
        ({"mask": np.ones(10)}, CorruptScan, r"mask has shape \(10,\)"),
        ({"mask": np.ones((11, 13))}, CorruptScan, "mask has shape"),
        ({"mask": np.ones((3, 13, 11))}, CorruptScan, "mask has shape"),
        ({"mask": np.array(True)}, CorruptScan, "mask has shape"),
        ({"mask": np.zeros(11)}, CorruptScan, "no sample was measured"),
        ({"mask": np.full(11, 0.5)}, CorruptScan, "other than 0 and 1"),
        ({"mask": np.full(11, np.nan)}, CorruptScan, "other than 0 and 1"),
        ({"mask": np.full(11, b"1")}, CorruptScan, "other than 0 and 1"),
        (
            {"mask": np.arange(11) == 0, "ismrmrd_header": header_xml(limits=(3, 6))},
            CorruptScan,
            "only zeros|no k-space",
        ),
        ({"reconstruction_rss": _REFERENCE[:2]}, CorruptScan, "expected 3 real pictures"),
        ({"reconstruction_rss": _REFERENCE[0]}, CorruptScan, "expected 3 real pictures"),
        ({"reconstruction_rss": _REFERENCE.astype(complex)}, CorruptScan, "expected 3 real pictures"),
        ({"reconstruction_rss": _REFERENCE[:, :0]}, CorruptScan, "expected 3 real pictures"),
        ({"reconstruction_rss": _REFERENCE * np.nan}, CorruptScan, "NaN"),
        ({"ismrmrd_header": "no xml at all"}, CorruptScan, "not XML"),
        ({"ismrmrd_header": ""}, CorruptScan, "not XML"),
        ({"ismrmrd_header": np.bytes_(b"\xff\xfe\x00binary")}, CorruptScan, "not XML"),
        ({"ismrmrd_header": header_xml()[:-9]}, CorruptScan, "not XML"),
        ({"ismrmrd_header": '<?xml version="1.0" encoding="klingon"?><a/>'}, CorruptScan, "not XML"),
        ({"ismrmrd_header": np.ones(3)}, CorruptScan, "one piece of text"),
        ({"ismrmrd_header": np.array([b"a", b"b"])}, CorruptScan, "one piece of text"),
        ({"ismrmrd_header": _ENTITY}, CorruptScan, "document type"),
        ({"ismrmrd_header": _LAUGHS}, CorruptScan, "document type"),
        ({"ismrmrd_header": _OUTSIDE}, CorruptScan, "document type"),
        ({"ismrmrd_header": "<a>" * 50 + "</a>" * 50}, CorruptScan, "nested deeper"),
        ({"ismrmrd_header": header_xml(recon=("many", 3))}, CorruptScan, "'many', which is no usable number"),  # type: ignore[arg-type]
        ({"ismrmrd_header": header_xml(recon=(0, 3))}, CorruptScan, "positive whole"),
        ({"ismrmrd_header": header_xml(recon=(2.5, 3))}, CorruptScan, "positive whole"),  # type: ignore[arg-type]
        ({"ismrmrd_header": header_xml(recon=(-5, 3))}, CorruptScan, "positive whole"),
        ({"ismrmrd_header": header_xml(recon=(10**30, 3))}, CorruptScan, "no usable number"),
        ({"ismrmrd_header": header_xml(encoded_fov=(float("nan"), 1, 1))}, CorruptScan, "no usable number"),
    ],
)
def test_content(tmp_path: Path, datasets: dict, kind: type[MriUnrollError], words: str) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        for name, value in {"kspace": random_kspace(), **datasets}.items():
            file[name] = value
    with pytest.raises(kind, match=words) as caught:
        read_scan(tmp_path / "scan.h5")
    assert type(caught.value) is kind
    advice(caught.value)
    try:
        describe(tmp_path / "scan.h5")  # may know less, never breaks
    except MriUnrollError as error:
        advice(error)


def test_groups_in_place_of_arrays(tmp_path: Path) -> None:
    for name in ("kspace", "mask", "ismrmrd_header", "reconstruction_rss"):
        with h5py.File(tmp_path / "scan.h5", "w") as file:
            if name != "kspace":
                file["kspace"] = random_kspace()
            file.create_group(name)
        check_refused(tmp_path / "scan.h5", CorruptScan, f"`{name}` is not an array")


def test_lying_text_length(tmp_path: Path) -> None:
    path = write_fastmri(tmp_path / "a.h5", ismrmrd_header=header_xml())
    with h5py.File(path) as file:
        place = file["ismrmrd_header"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 4] = b"\xff\xff\xff\xff"  # 4 GiB, which HDF5 would clear memory for
    path.write_bytes(content)
    check_refused(path, CorruptScan, "one piece of text")


@pytest.mark.parametrize("size", [16, 24, 0, 2**40])
def test_broken_store_of_text(tmp_path: Path, size: int) -> None:
    path = write_fastmri(tmp_path / "a.h5", None, {"acquisition": "AXT1"})
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    free = heap + 16 + 16 + 8  # behind "AXT1", padded to 8 bytes: HDF5 reads 16 or 0 here for ever
    assert content[free : free + 2] == bytes(2)
    content[free + 8 : free + 16] = size.to_bytes(8, "little")
    path.write_bytes(content)
    check_refused(path, CorruptScan, "store of text")


def test_strange_attributes_do_no_harm(tmp_path: Path) -> None:
    attrs = {
        "acquisition": "line one\nline two" + "x" * 5000,
        "max": np.ones(3),
        "norm": h5py.Empty("f4"),
        "acceleration": np.void(b"raw"),
        "num_low_frequency": "many",
    }
    path = write_fastmri(tmp_path / "a.h5", None, attrs)
    notes = read_scan(path).source.notes
    assert set(notes) == {"acquisition", "num_low_frequency"}
    assert "\n" not in notes["acquisition"]
    assert len(notes["acquisition"]) <= 64
    assert describe(path)["n_acs_lines"] == SHAPE[3]


# --- damage at random


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95, 0.999])
@pytest.mark.parametrize("kind", ["h5", "mrd", "npy", "npz"])
def test_truncated(tmp_path: Path, kind: str, share: float) -> None:
    path = _sound(tmp_path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises((CorruptScan, UnknownFormat)) as caught:
        read_scan(path, layout=LAYOUT if kind[:2] == "np" else None)
    advice(caught.value)


@pytest.mark.parametrize("kind", ["h5", "mrd", "npy", "npz"])
def test_changed_bytes(tmp_path: Path, kind: str) -> None:
    path = _sound(tmp_path, kind)
    content, chance = path.read_bytes(), random.Random(20)
    layout = LAYOUT if kind[:2] == "np" else None
    n_refused = 0
    for _ in range(200):
        changed = bytearray(content)
        for _ in range(chance.choice([1, 2, 8])):
            place = chance.randrange(chance.choice([len(changed), min(len(changed), 2500)]))
            changed[place] = chance.choice([0, 255, chance.randrange(256)])
        path.write_bytes(changed)
        for function in (read_scan, describe):
            try:
                function(path, layout=layout)
            except MriUnrollError as error:
                advice(error)
                n_refused += 1
    assert n_refused > 30


def _sound(folder: Path, kind: str) -> Path:
    path = folder / f"scan.{kind}"
    if kind == "npy":
        np.save(path, random_kspace())
    elif kind == "npz":
        np.savez_compressed(path, kspace=random_kspace(), mask=np.ones(SHAPE[3]))
    elif kind == "mrd":
        write_mrd(path, [readout(random_kspace((2, 50)), [19]), *cartesian(volume((2, 2, 1, 13, 5)))])
    else:
        write_fastmri(path, mask=np.ones(SHAPE[3]), ismrmrd_header=header_xml(), reconstruction_rss=_REFERENCE)
    assert stat.S_ISREG(path.stat().st_mode)
    return path
