"""Classical reconstruction and coil calibration against sigpy and BART at equal error, one thread.

    python scripts/bench_recon.py                        # CG-SENSE, L1-wavelet, ESPIRiT; whoever is installed
    python scripts/bench_recon.py --json recon.json --only espirit
    python scripts/bench_recon.py --quick                # small: does it run?

An analytic head with noise, 320 x 320 x 16 coils, undersampled four times with 24 calibration lines; everyone gets the
same k-space and maps. Times hold setting up, but no imports; BART's hold its start and its files, which lie in memory
where the system allows (an empty command shows how little that is). "difference" is what each table says below it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark
import numpy as np
from bench_bart import Bart
from benchmark import OURS, Bench, Candidate, relative

N_CALIBRATION = 24


def scan(n_coils: int, shape: tuple[int, int]) -> Any:
    """Noisy k-space ``(coil, ky, kx)`` of the analytic head, fully sampled."""
    from mri_unroll.physics.phantom import phantom_kspace

    kspace = phantom_kspace(shape, n_coils)[0]
    random = np.random.default_rng(0)
    noise = random.standard_normal((*kspace.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    return kspace + np.float32(2e-4 * np.abs(kspace).max()) * noise


def centre(kspace: Any) -> Any:
    """Calibration block."""
    rows, columns = (slice(n // 2 - N_CALIBRATION // 2, n // 2 + N_CALIBRATION // 2) for n in kspace.shape[-2:])
    return np.ascontiguousarray(kspace[:, rows, columns])


class Undersampled:
    """One slice undersampled four times, scaled so that bright tissue is near 1, and what judges a reconstruction."""

    def __init__(self, n_coils: int, shape: tuple[int, int]) -> None:
        import sigpy.mri
        import torch

        from mri_unroll.physics.coils import absorb_phase, espirit_maps

        kspace = scan(n_coils, shape)
        calibration = torch.from_numpy(centre(kspace))
        self.maps, _ = absorb_phase(espirit_maps(calibration, shape)[0], calibration)
        self.mask = np.zeros((1, shape[1]), dtype=bool)
        self.mask[:, ::5] = True
        middle = shape[1] // 2
        self.mask[:, middle - N_CALIBRATION // 2 : middle + N_CALIBRATION // 2] = True
        full = sigpy.mri.linop.Sense(self.maps.numpy())
        picture = full.H(kspace)
        kspace = kspace / np.quantile(np.abs(picture), 0.99)
        self.kspace = kspace * self.mask
        self.sense = sigpy.mri.linop.Sense(self.maps.numpy(), weights=self.mask.astype(np.float32))
        self.adjoint = self.sense.H(self.kspace)

    def normal_residual(self, image: Any) -> float:
        """How far a picture is from the least-squares solution: the gradient's norm by that of A^H y."""
        return relative(self.sense.N(np.asarray(image).reshape(self.adjoint.shape)), self.adjoint)

    def objective(self, image: Any, reg_weight: float, shifts: tuple[tuple[int, int], ...]) -> float:
        """Half the squared residual, and the weighted absolute sum of db4 coefficients averaged over shifts."""
        import sigpy

        image = np.asarray(image).reshape(self.adjoint.shape)
        wavelet = sigpy.linop.Wavelet(image.shape, wave_name="db4")
        sums = [np.abs(wavelet(np.roll(image, shift, (0, 1)))).sum(dtype=float) for shift in shifts]
        misfit = 0.5 * np.linalg.norm(self.sense(image) - self.kspace) ** 2
        return float(misfit + reg_weight * np.mean(sums))


def cg_sense(bench: Bench, n_coils: int, shape: tuple[int, int], bart: Bart | None, n_iterations: int = 30) -> None:
    """Least squares by conjugate gradients; the difference is the relative residual of the normal equations."""
    title = f"CG-SENSE, {n_iterations} iterations, {shape[0]} x {shape[1]} x {n_coils} coils"
    if not bench.wants(title):
        return
    import sigpy.mri
    import torch

    from mri_unroll.physics import SenseOperator
    from mri_unroll.solvers import cg

    data = Undersampled(n_coils, shape)
    mask, kspace = torch.from_numpy(data.mask), torch.from_numpy(data.kspace)

    def ours() -> Any:
        operator = SenseOperator(data.maps, mask)
        return cg(operator.normal, operator.adjoint(kspace), n_iterations=n_iterations).value

    def sigpys() -> Any:
        return sigpy.mri.app.SenseRecon(
            data.kspace, data.maps.numpy(), weights=data.mask, max_iter=n_iterations, show_pbar=False
        ).run()

    wanted = 1.05 * data.normal_residual(sigpys())  # nobody may be faster by stopping short
    candidates = [
        Candidate(OURS, ours, data.normal_residual, wanted),
        Candidate("sigpy SenseRecon", sigpys, data.normal_residual, wanted),
    ]
    if bart is not None:
        bart.write("kspace", data.kspace[:, None])
        bart.write("maps", data.maps.numpy()[:, None])
        command = ("pics", "-l2", "-r0", f"-i{n_iterations}", "-w1", "kspace", "maps", "cg")
        candidates += [
            Candidate(
                f"bart {' '.join(command[:-3])}",
                lambda: bart.run(*command),
                lambda _: data.normal_residual(bart.read("cg")),
                wanted,
                in_process=False,
            ),
            Candidate("bart version (start alone)", lambda: bart.run("version"), in_process=False),
        ]
    bench.compare(title, candidates, difference="relative residual of the normal equations")


def l1_wavelet(bench: Bench, n_coils: int, shape: tuple[int, int], bart: Bart | None, n_iterations: int = 60) -> None:
    """FISTA with db4 wavelets; the difference is the objective above the least known, relative.

    sigpy minimises it for one position of the wavelets, ours and BART's for all positions at once (random shifts). So
    ours runs twice: as users get it, judged by the mean over 8 positions, and with the wavelets held in one place, on
    exactly sigpy's problem, where it may not end above sigpy. Both objectives are noted for everyone.
    """
    title = f"L1-wavelet, {n_iterations} iterations, {shape[0]} x {shape[1]} x {n_coils} coils"
    if not bench.wants(title):
        return
    import sigpy.mri
    import torch

    from mri_unroll.physics import SenseOperator
    from mri_unroll.recon.calibrate import CalibratedProblem
    from mri_unroll.recon.classical import l1_wavelet as reconstruct
    from mri_unroll.solvers import fista

    data, reg_weight = Undersampled(n_coils, shape), 0.004
    mask, kspace = torch.from_numpy(data.mask), torch.from_numpy(data.kspace)

    def ours() -> Any:
        operator = SenseOperator(data.maps[None], mask[None, None])
        problem = CalibratedProblem(operator, kspace[None], 1.0, 0.0, float(mask.float().mean()), ())
        return reconstruct(problem, reg_weight, n_iterations).value

    def ours_in_one_place() -> Any:
        operator = SenseOperator(data.maps, mask)
        right = operator.adjoint(kspace)
        wavelet = sigpy.linop.Wavelet(shape, wave_name="db4")
        inverse = wavelet.H

        def prox(image: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(inverse(sigpy.soft_thresh(np.float32(reg_weight), wavelet(image.numpy()))))

        return fista(lambda x: operator.gradient(x, right), prox, right, 1.0, n_iterations=n_iterations).value

    def sigpys() -> Any:
        return sigpy.mri.app.L1WaveletRecon(
            data.kspace, data.maps.numpy(), reg_weight, weights=data.mask, max_iter=n_iterations, show_pbar=False
        ).run()

    fixed, sigpys_name = f"{OURS}, wavelets in one place", "sigpy L1WaveletRecon"
    runs: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
        OURS: (ours, np.asarray),
        fixed: (ours_in_one_place, np.asarray),
        sigpys_name: (sigpys, np.asarray),
    }
    if bart is not None:
        bart.write("kspace", data.kspace[:, None])
        bart.write("maps", data.maps.numpy()[:, None])
        regularise = f"-RW:3:0:{reg_weight}"
        command = ("pics", regularise, "-e", f"-i{n_iterations}", "-w1", "kspace", "maps", "l1")
        runs["bart pics -R W (its own dau2 wavelets)"] = lambda: bart.run(*command), lambda _: bart.read("l1")
    here, everywhere = ((0, 0),), tuple((3 * i % 8, 5 * i % 8) for i in range(8))
    objectives = {}
    for name, (run, read) in runs.items():
        picture = read(run())
        objectives[name] = [data.objective(picture, reg_weight, shifts) for shifts in (here, everywhere)]
    if objectives[fixed][0] > 1.001 * objectives[sigpys_name][0]:
        raise SystemExit(f"{title}: ours ends at a higher objective than sigpy's: {objectives}.")
    least = min(mean for _, mean in objectives.values())
    candidates = [
        Candidate(
            name,
            run,
            lambda value, r=read: data.objective(r(value), reg_weight, everywhere) / least - 1,
            objectives[sigpys_name][1] / least - 1 if name == OURS else np.inf,
            in_process=not name.startswith("bart"),
        )
        for name, (run, read) in runs.items()
    ]
    notes = {
        f"objective of {name}": f"{one:.4g} at one position, {mean:.4g} mean over positions"
        for name, (one, mean) in objectives.items()
    }
    bench.compare(title, candidates, difference="shift-averaged db4 objective above the least in the table", **notes)


def espirit(bench: Bench, n_coils: int, shape: tuple[int, int], bart: Bart | None, n_sets: int = 1) -> None:
    """Maps from a 24 x 24 block; the difference is one minus the least correlation per pixel.

    Judged in the body, where the largest eigenvalue is above 0.95 and the second below 0.7: where two compete, the
    first eigenvector is decided by few digits, and the power method, which the peers use, has not arrived.
    """
    title = f"ESPIRiT, {shape[0]} x {shape[1]} x {n_coils} coils" + (f", {n_sets} sets" if n_sets > 1 else "")
    if not bench.wants(title):
        return
    import sigpy.mri
    import torch

    from mri_unroll.physics.coils import espirit_maps

    kspace = scan(n_coils, shape)
    calibration = torch.from_numpy(centre(kspace))
    images = np.fft.ifftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1))), axes=(-2, -1))
    rss = np.linalg.norm(images, axis=0)
    reference, eigenvalue = (t.numpy() for t in espirit_maps(calibration, shape, n_sets=2, n_iterations=6))
    judged = (rss > 0.1 * rss.max()) & (eigenvalue[0] > 0.95) & (eigenvalue[1] < 0.7)

    def distance(maps: Any) -> float:
        maps = np.asarray(maps).reshape(-1, n_coils, *shape)[0]
        overlap = np.abs((maps.conj() * reference[0]).sum(0)) / np.linalg.norm(maps, axis=0).clip(1e-20)
        return float(1 - overlap[judged].min())

    def sigpys() -> Any:
        return sigpy.mri.app.EspiritCalib(
            kspace, calib_width=N_CALIBRATION, thresh=0.02, kernel_width=6, crop=0, show_pbar=False
        ).run()

    def ours() -> Any:
        return espirit_maps(torch.from_numpy(centre(kspace)), shape, n_sets=n_sets)[0]

    candidates = [Candidate(OURS, ours, distance, 1e-3)]
    if n_sets == 1:
        candidates.append(Candidate("sigpy EspiritCalib", sigpys, distance, 1e-3))
    if bart is not None:
        bart.write("kspace", kspace[:, None])
        # It compares squared singular values with its threshold.
        command = ("ecalib", f"-m{n_sets}", f"-r{N_CALIBRATION}", "-k6", "-t0.0004", "-c0", "kspace", "maps")
        candidates.append(
            Candidate(
                f"bart {' '.join(command[:-2])}",
                lambda: bart.run(*command),
                lambda _: distance(bart.read("maps")),
                1e-3,
                in_process=False,
            )
        )
    bench.compare(
        title,
        candidates,
        difference=f"1 - least correlation with the exact eigenvectors, over {judged.mean():.0%} of pixels",
    )


def main() -> None:
    """Run all cases."""
    options = benchmark.arguments(__doc__ or "")
    bench = Bench(options)
    sizes = [(16, (320, 320)), (8, (256, 256)), (32, (320, 320)), (15, (640, 372))]
    if options.quick:
        sizes = [(4, (64, 60))]
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        bart = Bart(Path(folder), options.threads) if Bart.is_installed() else None
        cg_sense(bench, *sizes[0], bart)
        l1_wavelet(bench, *sizes[0], bart)
        for n_coils, shape in sizes:
            espirit(bench, n_coils, shape, bart)
        espirit(bench, *sizes[0], bart, n_sets=2)
    bench.finish()


if __name__ == "__main__":
    main()
