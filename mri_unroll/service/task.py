"""Jobs, each in a process of its own, which is confined before it opens the file and ends after it.

``python -m mri_unroll.service.task`` cuts its network, loads what every job needs, says ``ready`` on its
standard output and waits for orders on its standard input, one a line. For each it forks: the child bounds its memory,
time and disk, works, and says how it goes as JSON lines, at last ``done`` or ``error``. The parent says ``ended`` when
the child is gone, however that came; an empty line has it end the child. Whoever gives orders trusts none of the files
that come out before it has looked at their names and sizes.

The parent never computes: a process that has started its threads must not be forked.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import zipfile
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

from mri_unroll.service import confine

RESULTS = {  # what can be asked for: file name, media type
    "h5": ("reconstruction.h5", "application/x-hdf5"),
    "nifti": ("reconstruction.nii.gz", "application/gzip"),
    "dicom.zip": ("dicom.zip", "application/zip"),
    "report": ("report.html", "text/html; charset=utf-8"),
    "preview": ("preview.png", "image/png"),
    "sidecar": ("sidecar.json", "application/json"),
    "mrd": ("images.mrd", "application/octet-stream"),
    "viewer": ("viewer.json", "application/json"),
    "viewer.bin": ("viewer.bin", "application/octet-stream"),
}
_LOADED = (
    *("mri_unroll.pipeline", "mri_unroll.studies", "mri_unroll.io.dicom.acquired", "mri_unroll.service.wish"),
    *(
        "mri_unroll.io.fastmri",
        "mri_unroll.io.mrd",
        "mri_unroll.io.array",
        "mri_unroll.io.volume",
        "mri_unroll.io.mrd_images",
    ),
    *("h5py", "nibabel", "matplotlib.cm", "matplotlib.ticker", "skimage.measure", "skimage.transform"),
    "torch.fx.experimental.symbolic_shapes",
)
Say = Callable[[dict[str, Any]], None]


def main() -> None:
    """Serve orders until standard input is closed."""
    confine.end_with_parent()
    confine.cut_network()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    orders = os.fdopen(os.dup(0), "rb", buffering=0)  # unbuffered, so that `select` sees all there is
    os.umask(0o077)

    def say(event: dict[str, Any]) -> None:
        answers.write(json.dumps(event) + "\n")

    _warm()
    say({"event": "ready", "methods": _methods()})
    while line := orders.readline():
        if not line.strip():
            continue  # an order to end what has ended already
        child = os.fork()
        if child == 0:
            _serve(json.loads(line), say)
        say({"event": "ended", "signal": _outlive(child, orders)})


def _serve(order: dict[str, Any], say: Say) -> NoReturn:
    """What the child does, from the order to its last words."""
    confine.end_with_parent()
    bounds = order["bounds"]
    confine.limit(bounds["memory"], bounds["seconds"], bounds["file_bytes"])
    try:
        say({"event": "done", **run(order, say)})
    except BaseException as error:  # whatever it was
        say({"event": "error", **_told(error)})
    os._exit(0)


def _outlive(child: int, orders: FileIO) -> int:
    """Wait for the end of a child, or end it when told to; gives the signal that ended it, 0 for none."""
    handle = os.pidfd_open(child)
    try:
        ready, _, _ = select.select([handle, orders.fileno()], [], [])
        if handle not in ready:
            os.kill(child, signal.SIGKILL)
            if not orders.readline():
                sys.exit()
        _, status = os.waitpid(child, 0)
    finally:
        os.close(handle)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _warm() -> None:
    """Load what takes seconds, while nobody waits; also what our own modules load only when they use it."""
    import importlib

    for name in _LOADED:
        importlib.import_module(name)
    _compile()


def _compile() -> None:
    """Make a tiny picture with every compiled kernel: loads them, or compiles what this machine has not met."""
    import torch

    from mri_unroll.physics.phantom import phantom_kspace
    from mri_unroll.recon.calibrate import calibrate_slice

    torch.set_num_threads(1)  # children can start threads only where their parent has none; each sets its own number
    kspace = torch.from_numpy(phantom_kspace((32, 32), 4))[0]
    points = torch.zeros(32, 32, dtype=torch.bool)
    points[8:24, 8:24] = True
    for mask in (points.any(0)[None], points):
        op = calibrate_slice(kspace * mask, mask.expand(32, 32)).op
        op.normal(op.adjoint(kspace))


def _methods() -> list[dict[str, Any]]:
    """For those who answer for the service and never load torch."""
    from mri_unroll.recon.reconstructor import described_methods

    return described_methods()


def _told(error: BaseException) -> dict[str, Any]:
    from mri_unroll.terminal import RESOURCES, diagnose

    if isinstance(error, MemoryError):
        return {"kind": "MemoryError", "message": "The memory is not enough.", "hint": "", "is_memory": True}
    failure = diagnose(error)
    is_memory = failure.code == RESOURCES and ("memory" in failure.message or failure.kind == "OutOfMemoryError")
    return {"kind": failure.kind, "message": failure.message, "hint": failure.hint, "is_memory": is_memory}


def run(order: dict[str, Any], say: Say) -> dict[str, Any]:
    """Do what was ordered.

    Parameters
    ----------
    order
        ``file``, ``out`` (an empty folder), ``wish``, ``relief``, ``device``, ``threads``.
    say
        Gets progress.

    Returns
    -------
        What could not be made, by the name of the result, with the reason.
    """
    import torch

    from mri_unroll.io.content import dicom_and_others
    from mri_unroll.service.wish import Wish

    if order["threads"]:
        torch.set_num_threads(order["threads"])
    file, out = Path(order["file"]), Path(order["out"])
    wish = Wish.model_validate(order["wish"])

    def events(event: dict[str, Any]) -> None:
        if event["event"] in ("progress", "writing"):
            say({key: event[key] for key in ("event", "done", "total") if key in event})

    dicom, _ = dicom_and_others(file)
    work = _study if dicom is not None else _raw
    return {"missing": work(file, out, wish, order, events)}


def _raw(file: Path, out: Path, wish: Any, order: dict[str, Any], events: Say) -> dict[str, str]:
    from mri_unroll.errors import InputError, UnsupportedScan
    from mri_unroll.image import Image
    from mri_unroll.io.mrd_images import image_messages
    from mri_unroll.io.mrd_stream import image_message
    from mri_unroll.io.volume import write_nifti
    from mri_unroll.objects import write_objects
    from mri_unroll.pipeline import reconstruct_file, zero_filled
    from mri_unroll.service.wish import RELIEF

    if wish.mode is not None:
        raise InputError("The file holds raw k-space, for which there is no use for `mode`.", "Leave it out.")
    config = wish.reconstruction(order["device"], order["relief"])
    missing: dict[str, str] = {}

    def finished(image: Image, notes: Mapping[str, str], verdict: str) -> None:
        write_nifti(image, out / RESULTS["nifti"][0])
        if wish.mrd:
            with (out / RESULTS["mrd"][0]).open("wb") as stream:
                stream.writelines(image_message(one) for one in image_messages(image, verdict))
        before = zero_filled(file, config)
        volumes = {"reconstruction": image.pixels, "before": before}
        _write_viewer(out, volumes if before.shape == image.pixels.shape else {"reconstruction": image.pixels})
        try:
            write_objects(image, out / "dicom", config, notes, verdict)
        except UnsupportedScan as error:
            missing["dicom.zip"] = str(error)
        else:
            _pack(out / "dicom", out / RESULTS["dicom.zip"][0])

    outcome = reconstruct_file(file, out, config, events=events, finished=finished)
    for name, path in (
        ("h5", outcome.volume),
        ("report", outcome.report),
        ("preview", outcome.preview),
        ("sidecar", outcome.sidecar),
    ):
        path.rename(out / RESULTS[name][0])
    if order["relief"]:
        _add_warning(out / RESULTS["sidecar"][0], RELIEF[order["relief"]])
    return missing


def _study(file: Path, out: Path, wish: Any, order: dict[str, Any], events: Say) -> dict[str, str]:
    from mri_unroll.io.dicom.study import find_series, read_pixels
    from mri_unroll.io.volume import write_h5, write_nifti
    from mri_unroll.studies import restore_study, simulate_study
    from mri_unroll.study_commands import explain_modes

    if wish.mode is None:
        raise explain_modes()
    found = find_series(file)
    source = found.pick(wish.series)  # a job has one result, so that it takes one series
    config = wish.model_copy(update={"series": source.name}).study(order["device"], order["relief"])
    work = restore_study if wish.mode == "restore" else simulate_study
    (result,) = work(file, out, config, events=events).results
    image = read_pixels(find_series(result.pictures).pick())
    write_h5(image, out / RESULTS["h5"][0])
    write_nifti(image, out / RESULTS["nifti"][0])
    before = read_pixels(source).pixels
    _write_viewer(
        out, {"reconstruction": image.pixels} | ({"before": before} if before.shape == image.pixels.shape else {})
    )
    _pack(result.pictures, out / RESULTS["dicom.zip"][0])
    for name, path in (("report", result.report), ("preview", result.preview), ("sidecar", result.sidecar)):
        path.rename(out / RESULTS[name][0])
    return {}


def _write_viewer(out: Path, volumes: dict[str, Any]) -> None:
    """Volumes as 16-bit numbers, slice after slice, and how to read them: for the page, which asks for ranges."""
    import numpy as np

    brightest = max(float(volume.max(initial=0)) for volume in volumes.values()) or 1.0
    shape = next(iter(volumes.values())).shape
    with (out / RESULTS["viewer.bin"][0]).open("wb") as file:
        for volume in volumes.values():
            for plane in volume:
                scaled = np.clip(plane / brightest, 0, 1) * 65535
                file.write(scaled.round().astype("<u2").tobytes())
    window = [0.0, float(np.percentile(volumes["reconstruction"], 99.5)) / brightest]
    about = {"shape": list(shape), "volumes": list(volumes), "window": window, "brightest": brightest}
    (out / RESULTS["viewer"][0]).write_text(json.dumps(about))


def _pack(folder: Path, target: Path) -> None:
    """A folder of DICOM as a zip; pictures hardly pack, so they are stored as they are."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.glob("*.dcm")):
            archive.write(path, f"DICOM/{path.name}")
            path.unlink()
    folder.rmdir()


def _add_warning(sidecar: Path, sentence: str) -> None:
    from mri_unroll.io.sidecar import write_sidecar

    summary = json.loads(sidecar.read_text(encoding="utf-8"))
    summary["warnings"].append(sentence)
    write_sidecar(summary, sidecar, overwrite=True)


if __name__ == "__main__":
    main()
