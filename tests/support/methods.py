"""Methods as parameters of tests: what works on any sampling, and what on Cartesian scans."""

from __future__ import annotations

import pytest

from mri_unroll.recon.methods import PEERS, SUMMARIES
from mri_unroll.recon.peers import bart_program

NEEDS_BART = pytest.mark.skipif(bart_program() is None, reason="the program bart is not installed")
RANDOM_MASKS = ("vdamp", "vdamp-cnn")  # in two directions, and no others
ANY_SAMPLING = [name for name in SUMMARIES if name not in (*PEERS, *RANDOM_MASKS)]
PEER_METHODS = [pytest.param(name, marks=NEEDS_BART if name == "bart-pics" else ()) for name in PEERS]
CARTESIAN = [*ANY_SAMPLING, *PEER_METHODS]
