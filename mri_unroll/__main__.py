"""``python -m mri_unroll`` is ``mri-unroll``; ``torchrun -m mri_unroll train ...`` needs it."""

from mri_unroll.cli import main

if __name__ == "__main__":
    main()
