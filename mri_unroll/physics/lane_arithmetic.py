"""What compiled functions compute with `lanes`: sums and products, lane by lane or with one number for all."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from mri_unroll.physics.lanes import (
    LANES,
    N_LANES,
    VECTOR,
    LanesType,
    in_compiled_code,
    join,
    read,
    spread,
    vector_at,
    vectors_of,
)

_FUSE = ("contract",)  # let a product and a sum become one instruction


def _lanewise(operation: Any, instruction: str) -> None:
    """Let compiled code add or subtract two values."""

    @infer_global(operation)
    class Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            both = len(args) == 2 and all(isinstance(a, LanesType) for a in args)
            return signature(LANES, *args) if both else None

    @lower_builtin(operation, LanesType, LanesType)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (vectors_of(builder, lanes) for lanes in args)
        made = [getattr(builder, instruction)(x, y, flags=_FUSE) for x, y in zip(a, b, strict=True)]
        return join(builder, *made)


_lanewise(operator.add, "fadd")
_lanewise(operator.sub, "fsub")


def _product(builder: Any, a: tuple[Any, Any], b: tuple[Any, Any], conjugate: bool, more: Any = None) -> Any:
    """Of ``a``, or its conjugate, and ``b``; added to ``more`` if there is any."""
    mul, add, sub = (getattr(builder, name) for name in ("fmul", "fadd", "fsub"))
    plus, minus = (add, sub) if conjugate else (sub, add)
    real, imag = mul(a[0], b[0], flags=_FUSE), mul(a[0], b[1], flags=_FUSE)
    if more is not None:
        real, imag = add(more[0], real, flags=_FUSE), add(more[1], imag, flags=_FUSE)
    real = plus(real, mul(a[1], b[1], flags=_FUSE), flags=_FUSE)
    return join(builder, real, minus(imag, mul(a[1], b[0], flags=_FUSE), flags=_FUSE))


def _product_code(conjugate: bool) -> Callable[..., Any]:
    """Code of the product of the last two arguments, added to the one before them if there is any."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        *more, a, b = (vectors_of(builder, lanes) for lanes in args)
        return _product(builder, a, b, conjugate, *more)

    return code


@in_compiled_code
def times(typingctx: Any, a: Any, b: Any) -> Any:
    """Products."""
    return LANES(LANES, LANES), _product_code(conjugate=False)


@in_compiled_code
def plus_times(typingctx: Any, more: Any, a: Any, b: Any) -> Any:
    """``more`` and the product of ``a`` and ``b``."""
    return LANES(LANES, LANES, LANES), _product_code(conjugate=False)


@in_compiled_code
def plus_conj_times(typingctx: Any, more: Any, a: Any, b: Any) -> Any:
    """``more`` and the product of the conjugate of ``a`` with ``b``."""
    return LANES(LANES, LANES, LANES), _product_code(conjugate=True)


def _rotation_code(conjugate: bool) -> Callable[..., Any]:
    """Code of the product of a value with one number of an array, added to the argument before if there is any."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        *lanes, array, index = args
        data = context.make_array(sig.args[-2])(context, builder, array).data
        places = builder.gep(data, [index]), builder.gep(data, [builder.add(index, index.type(1))])
        real, imag = (spread(builder, builder.load(place)) for place in places)
        *more, value = (vectors_of(builder, each) for each in lanes)
        return _product(builder, (real, imag), value, conjugate, *more)

    return code


@in_compiled_code
def rotated(typingctx: Any, value: Any, factors: Any, index: Any) -> Any:
    """The value times the complex number at ``index`` of ``factors``, the same for all lanes."""
    return LANES(LANES, factors, types.intp), _rotation_code(conjugate=False)


@in_compiled_code
def plus_rotated(typingctx: Any, more: Any, value: Any, factors: Any, index: Any) -> Any:
    """``more`` and `rotated`."""
    return LANES(LANES, LANES, factors, types.intp), _rotation_code(conjugate=False)


@in_compiled_code
def rotated_back(typingctx: Any, value: Any, factors: Any, index: Any) -> Any:
    """The value times the conjugate of the complex number at ``index`` of ``factors``."""
    return LANES(LANES, factors, types.intp), _rotation_code(conjugate=True)


@in_compiled_code
def plus_rotated_back(typingctx: Any, more: Any, value: Any, factors: Any, index: Any) -> Any:
    """``more`` and `rotated_back`."""
    return LANES(LANES, LANES, factors, types.intp), _rotation_code(conjugate=True)


@in_compiled_code
def scaled(typingctx: Any, value: Any, number: Any) -> Any:
    """The value times a real number, the same for all lanes."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        factor = spread(builder, args[1])
        return join(builder, *(builder.fmul(part, factor, flags=_FUSE) for part in vectors_of(builder, args[0])))

    return LANES(LANES, types.float32), code


@in_compiled_code
def weighted(typingctx: Any, value: Any, weights: Any, index: Any) -> Any:
    """The value times eight real numbers, one a lane in `LANE_ORDER`, from ``index`` of ``weights``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        factor = read(builder, vector_at(context, builder, sig.args[1], *args[1:]))
        return join(builder, *(builder.fmul(part, factor, flags=_FUSE) for part in vectors_of(builder, args[0])))

    return LANES(LANES, weights, types.intp), code


def _code(build: Callable[..., tuple[Any, Any]]) -> Callable[..., Any]:
    """Code of a value from what makes its parts of the parts of another."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return join(builder, *build(builder, *vectors_of(builder, args[0])))

    return code


@in_compiled_code
def turned(typingctx: Any, value: Any) -> Any:
    """The value times -i, a quarter of a turn."""
    return LANES(LANES), _code(lambda builder, real, imag: (imag, builder.fneg(real)))


@in_compiled_code
def swapped(typingctx: Any, value: Any) -> Any:
    """Real and imaginary parts in each other's place: a forward transform between two swaps is the inverse."""
    return LANES(LANES), _code(lambda builder, real, imag: (imag, real))


@in_compiled_code
def conjugate(typingctx: Any, value: Any) -> Any:
    """The complex conjugate."""
    return LANES(LANES), _code(lambda builder, real, imag: (real, builder.fneg(imag)))


@in_compiled_code
def real_parts(typingctx: Any, value: Any) -> Any:
    """The real part, in both parts."""
    return LANES(LANES), _code(lambda builder, real, imag: (real, real))


@in_compiled_code
def power(typingctx: Any, value: Any) -> Any:
    """Squared magnitude, in both parts."""

    def build(builder: Any, *parts: Any) -> tuple[Any, Any]:
        squares = (builder.fmul(part, part, flags=_FUSE) for part in parts)
        return (builder.fadd(*squares, flags=_FUSE),) * 2

    return LANES(LANES), _code(build)


@in_compiled_code
def reciprocal(typingctx: Any, value: Any) -> Any:
    """One over either part."""

    def build(builder: Any, real: Any, imag: Any) -> tuple[Any, Any]:
        one = spread(builder, ir.Constant(VECTOR.element, 1.0))
        return builder.fdiv(one, real), builder.fdiv(one, imag)

    return LANES(LANES), _code(build)


@in_compiled_code
def root(typingctx: Any, value: Any) -> Any:
    """Square root of either part."""

    def build(builder: Any, real: Any, imag: Any) -> tuple[Any, Any]:
        kind = ir.FunctionType(VECTOR, [VECTOR])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{N_LANES}f32")
        return builder.call(function, [real]), builder.call(function, [imag])

    return LANES(LANES), _code(build)


@in_compiled_code
def parts_times(typingctx: Any, a: Any, b: Any) -> Any:
    """Products of real parts, and of imaginary parts."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pairs = zip(*(vectors_of(builder, lanes) for lanes in args), strict=True)
        return join(builder, *(builder.fmul(x, y, flags=_FUSE) for x, y in pairs))

    return LANES(LANES, LANES), code


@in_compiled_code
def where_larger(typingctx: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """``yes`` in lanes where the real part of ``a`` is larger than that of ``b``, else ``no``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b, yes, no = (vectors_of(builder, lanes) for lanes in args)
        larger = builder.fcmp_ordered(">", a[0], b[0])
        return join(builder, *(builder.select(larger, x, y) for x, y in zip(yes, no, strict=True)))

    return LANES(LANES, LANES, LANES, LANES), code


@in_compiled_code
def all_above(typingctx: Any, value: Any, number: Any) -> Any:
    """Whether the real part is larger than a number in every lane."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        larger = builder.fcmp_ordered(">", vectors_of(builder, args[0])[0], spread(builder, args[1]))
        together = builder.bitcast(larger, ir.IntType(N_LANES))
        return builder.icmp_unsigned("==", together, ir.Constant(together.type, 2**N_LANES - 1))

    return types.boolean(LANES, types.float32), code
