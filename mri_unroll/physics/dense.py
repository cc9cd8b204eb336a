r"""A forward operator given by its matrix."""

from __future__ import annotations

from torch import Tensor

from mri_unroll.errors import ShapeError
from mri_unroll.physics.linop import LinearOperator


class DenseOperator(LinearOperator):
    r"""Multiplication by a matrix; a picture is a vector, ``image_ndim`` is 1.

    Parameters
    ----------
    matrix
        :math:`A`, ``(m, n)``, real or complex.

    Raises
    ------
    ShapeError
        If it is no matrix.
    """

    image_ndim = 1

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2:
            raise ShapeError(f"Expected a matrix (m, n), got shape {tuple(matrix.shape)}.")
        self.matrix = matrix

    def forward(self, image: Tensor) -> Tensor:
        """``A x``: ``(*batch, n)`` to ``(*batch, m)``."""
        return image @ self.matrix.mT

    def adjoint(self, kspace: Tensor) -> Tensor:
        """``A^H y``: ``(*batch, m)`` to ``(*batch, n)``."""
        return kspace @ self.matrix.conj()
