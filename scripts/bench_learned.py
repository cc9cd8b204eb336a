"""Time and memory of the shipped networks beside an end-to-end variational network, for one slice, on a CPU.

    python scripts/bench_learned.py --threads 2

From masked k-space to a picture: of ours, coil maps, scale and noise estimation included. The variational network has
the size that fastMRI's leaderboard entry had (12 cascades of 18 channels and 4 poolings, maps of 8 channels; some 30 M
parameters) and random weights, on which its time does not depend; the `fastmri` package's own is timed beside our
module of it where it is installed.
"""

from __future__ import annotations

from benchmark import OURS, Bench, Candidate, arguments, has

OPTIONS = arguments(__doc__ or "")  # sets the threads before torch starts

import functools  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from mri_unroll.config import ReconstructionConfig  # noqa: E402
from mri_unroll.nets.varnet import FastmriVarNet  # noqa: E402
from mri_unroll.physics.phantom import phantom_kspace  # noqa: E402
from mri_unroll.physics.sampling import fastmri_mask  # noqa: E402
from mri_unroll.recon.reconstructor import make_reconstructor, shipped_models  # noqa: E402
from mri_unroll.scan import Geometry, Scan, Source  # noqa: E402

CASCADES = 12


def masked_scan(matrix: tuple[int, int], n_coils: int) -> Scan:
    """One slice of the phantom, fourfold undersampled."""
    lines = fastmri_mask("equispaced_fraction", matrix[1], 0.08, 4, seed=0)
    return Scan(
        kspace=phantom_kspace(matrix, n_coils, noise=0.01) * lines,
        mask=np.broadcast_to(lines, matrix).copy(),
        geometry=Geometry(recon_shape=matrix),
        source=Source(format="phantom", digest="", n_slices=1, slices=(0, 1)),
    )


def varnets(cascades: int) -> dict[str, torch.nn.Module]:
    """Our module of the variational network, and the package's."""
    found: dict[str, torch.nn.Module] = {"VarNet (our module)": FastmriVarNet(cascades, 18, 4, 8, 4)}
    if has("fastmri"):
        from fastmri.models import VarNet

        found["fastmri VarNet"] = VarNet(num_cascades=cascades)
    return {name: network.eval() for name, network in found.items()}


@torch.inference_mode()
def variational(network: torch.nn.Module, scan: Scan) -> torch.Tensor:
    """Run a variational network on what was measured."""
    kspace, lines = torch.from_numpy(scan.kspace), torch.from_numpy(scan.mask[0])
    if isinstance(network, FastmriVarNet):
        return network(kspace[0], lines)
    return network(torch.view_as_real(kspace), lines[None, None, None, :, None])


def main() -> None:
    bench = Bench(OPTIONS)
    cascades = 2 if OPTIONS.quick else CASCADES
    for matrix, n_coils in [((96, 80), 4)] if OPTIONS.quick else [((320, 320), 15), ((640, 372), 15)]:
        title = f"{matrix[0]} x {matrix[1]}, {n_coils} coils"
        if not bench.wants(title):
            continue
        scan = masked_scan(matrix, n_coils)
        shipped = [name for name in ("unrolled", "unrolled-small") if name in shipped_models()]
        best = make_reconstructor("unrolled", ReconstructionConfig(effort="best"))
        fast = {n: make_reconstructor(n, ReconstructionConfig(effort="fast")) for n in shipped}
        candidates = [
            *(Candidate(f"{OURS} {n}", functools.partial(make_reconstructor(n).reconstruct, scan)) for n in shipped),
            *(Candidate(f"{n}, --fast", functools.partial(r.reconstruct, scan)) for n, r in fast.items()),
            Candidate("unrolled, --best", functools.partial(best.reconstruct, scan)),
            *(Candidate(n, functools.partial(variational, m, scan)) for n, m in varnets(cascades).items()),
        ]
        bench.compare(title, candidates, threads=OPTIONS.threads, cascades=cascades)
    bench.finish()


if __name__ == "__main__":
    main()
