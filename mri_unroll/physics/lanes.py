r"""Eight complex numbers of single precision as one value inside functions that numba compiles.

A `Lanes` value is two vectors of eight, real parts and imaginary parts, which LLVM keeps in the processor's vector
registers (AVX, NEON); arithmetic on it is done on all eight at once. In memory there are two layouts: *interleaved*, as
NumPy and torch store complex numbers, seen as a flat ``float32`` array; and *split*, eight real parts followed by eight
imaginary parts, which is how `load` and `store` keep work in progress. The order of the eight inside a value is not the
order in memory (it spares shuffles between halves of a register) but the same wherever a value is made.

Everything here exists inside compiled functions only; called from Python it raises. Indices count ``float32`` numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

N_LANES = 8
# Which of eight consecutive numbers each lane holds.
LANE_ORDER = (0, 1, 4, 5, 2, 3, 6, 7)

_VECTOR = ir.VectorType(ir.FloatType(), N_LANES)
_PAIR = ir.LiteralStructType([_VECTOR, _VECTOR])
_INDEX = ir.IntType(32)
_FUSE = ("contract",)  # let a product and a sum become one instruction

# Shuffles of two vectors a = 0..7 and b = 8..15 that stay within halves of a register, and two that join halves.
_EVENS, _ODDS = (0, 2, 8, 10, 4, 6, 12, 14), (1, 3, 9, 11, 5, 7, 13, 15)
_LOW_SINGLES, _HIGH_SINGLES = (0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)
_LOW_PAIRS, _HIGH_PAIRS = (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)
_LOW_HALVES, _HIGH_HALVES = (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)


_in_compiled_code: Callable[..., Any] = intrinsic  # of which no type is known


class LanesType(types.Type):
    """Numba's type of eight complex numbers."""

    def __init__(self) -> None:
        super().__init__(name="ComplexLanes")


_LANES = LanesType()
_REAL = types.float32


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    """Stored as two vectors."""

    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _PAIR)


def _shuffle(builder: Any, a: Any, b: Any, order: Sequence[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INDEX, len(order)), list(order)))


def _spread(builder: Any, number: Any) -> Any:
    """The same number in all lanes."""
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    return _shuffle(builder, builder.insert_element(nothing, number, _INDEX(0)), nothing, (0,) * N_LANES)


def _parts(builder: Any, lanes: Any) -> tuple[Any, Any]:
    return builder.extract_value(lanes, 0), builder.extract_value(lanes, 1)


def _join(builder: Any, real: Any, imag: Any) -> Any:
    return builder.insert_value(builder.insert_value(ir.Constant(_PAIR, ir.Undefined), real, 0), imag, 1)


def _product(builder: Any, a: tuple[Any, Any], b: tuple[Any, Any], conjugate: bool) -> Any:
    """Of ``a``, or its conjugate, and ``b``."""
    mul, add, sub = (getattr(builder, name) for name in ("fmul", "fadd", "fsub"))
    plus, minus = (add, sub) if conjugate else (sub, add)
    real = plus(mul(a[0], b[0], flags=_FUSE), mul(a[1], b[1], flags=_FUSE), flags=_FUSE)
    return _join(builder, real, minus(mul(a[0], b[1], flags=_FUSE), mul(a[1], b[0], flags=_FUSE), flags=_FUSE))


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Pointer to the vector that begins at ``index`` of an array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _read(builder: Any, place: Any, n: int = 0) -> Any:
    return builder.load(builder.gep(place, [_INDEX(n)]), align=4)


def _write(builder: Any, value: Any, place: Any, n: int = 0) -> None:
    builder.store(value, builder.gep(place, [_INDEX(n)]), align=4)


def _lanewise(operation: Any, instruction: str) -> None:
    """Let compiled code add or subtract two `Lanes`."""

    @infer_global(operation)
    class Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            both = len(args) == 2 and all(isinstance(a, LanesType) for a in args)
            return signature(_LANES, *args) if both else None

    @lower_builtin(operation, LanesType, LanesType)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (_parts(builder, lanes) for lanes in args)
        made = [getattr(builder, instruction)(x, y, flags=_FUSE) for x, y in zip(a, b, strict=True)]
        return _join(builder, *made)


_lanewise(operator.add, "fadd")
_lanewise(operator.sub, "fsub")


@_in_compiled_code
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """The split value at ``index``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _place(context, builder, sig.args[0], *args)
        return _join(builder, _read(builder, place), _read(builder, place, 1))

    return _LANES(array, types.intp), code


@_in_compiled_code
def store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a split value to ``index``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _place(context, builder, sig.args[0], *args[:2])
        for n, part in enumerate(_parts(builder, args[2])):
            _write(builder, part, place, n)
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES), code


@_in_compiled_code
def load_row(typingctx: Any, array: Any, index: Any) -> Any:
    """Eight interleaved numbers, one behind the other from ``index``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _place(context, builder, sig.args[0], *args)
        both = _read(builder, place), _read(builder, place, 1)
        return _join(builder, _shuffle(builder, *both, _EVENS), _shuffle(builder, *both, _ODDS))

    return _LANES(array, types.intp), code


@_in_compiled_code
def store_row(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write eight interleaved numbers, one behind the other from ``index``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = _place(context, builder, sig.args[0], *args[:2])
        parts = _parts(builder, args[2])
        _write(builder, _shuffle(builder, *parts, _LOW_SINGLES), place)
        _write(builder, _shuffle(builder, *parts, _HIGH_SINGLES), place, 1)
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES), code


def _turned(builder: Any, four: Sequence[Any]) -> list[Any]:
    """Four vectors of four complex numbers each, as a matrix turned about its diagonal."""
    low, high = (
        [_shuffle(builder, four[k], four[k + 1], order) for k in (0, 2)] for order in (_LOW_PAIRS, _HIGH_PAIRS)
    )
    return [_shuffle(builder, a, b, halves) for halves in (_LOW_HALVES, _HIGH_HALVES) for a, b in (low, high)]


@_in_compiled_code
def load_columns(typingctx: Any, array: Any, first: Any, step: Any, last: Any) -> Any:
    """Four values, one a column, of eight rows of four interleaved numbers.

    Row k begins at ``first + k * step``, but not behind ``last``: rows that are missing repeat the last one.
    """

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        index, rows = args[1], []
        for _ in range(N_LANES):
            rows.append(_read(builder, _place(context, builder, sig.args[0], args[0], index)))
            following = builder.add(index, args[2])
            index = builder.select(builder.icmp_signed("<", following, args[3]), following, args[3])
        columns = zip(_turned(builder, rows[:4]), _turned(builder, rows[4:]), strict=True)
        values = [_join(builder, _shuffle(builder, *c, _EVENS), _shuffle(builder, *c, _ODDS)) for c in columns]
        return context.make_tuple(builder, sig.return_type, values)

    return types.UniTuple(_LANES, 4)(array, types.intp, types.intp, types.intp), code


@_in_compiled_code
def store_columns(typingctx: Any, array: Any, first: Any, step: Any, last: Any, columns: Any) -> Any:
    """Write four values as columns of four interleaved numbers, where `load_columns` reads them."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        index, rows = args[1], []
        parts = [_parts(builder, lanes) for lanes in cgutils.unpack_tuple(builder, args[4], 4)]
        for order in (_LOW_SINGLES, _HIGH_SINGLES):
            rows += _turned(builder, [_shuffle(builder, *pair, order) for pair in parts])
        for row in rows:
            _write(builder, row, _place(context, builder, sig.args[0], args[0], index))
            following = builder.add(index, args[2])
            index = builder.select(builder.icmp_signed("<", following, args[3]), following, args[3])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.intp, columns), code


@_in_compiled_code
def scaled(typingctx: Any, value: Any, number: Any) -> Any:
    """The value times a real number, the same for all lanes."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        factor = _spread(builder, args[1])
        return _join(builder, *(builder.fmul(part, factor, flags=_FUSE) for part in _parts(builder, args[0])))

    return _LANES(_LANES, _REAL), code


@_in_compiled_code
def weighted(typingctx: Any, value: Any, weights: Any, index: Any) -> Any:
    """The value times eight real numbers, one a lane in `LANE_ORDER`, from ``index`` of ``weights``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        factor = _read(builder, _place(context, builder, sig.args[1], *args[1:]))
        return _join(builder, *(builder.fmul(part, factor, flags=_FUSE) for part in _parts(builder, args[0])))

    return _LANES(_LANES, weights, types.intp), code


def _product_code(conjugate: bool) -> Callable[..., Any]:
    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _product(builder, _parts(builder, args[0]), _parts(builder, args[1]), conjugate)

    return code


@_in_compiled_code
def times(typingctx: Any, a: Any, b: Any) -> Any:
    """Products, lane by lane."""
    return _LANES(_LANES, _LANES), _product_code(conjugate=False)


@_in_compiled_code
def conj_times(typingctx: Any, a: Any, b: Any) -> Any:
    """Products of the conjugate of ``a`` with ``b``, lane by lane."""
    return _LANES(_LANES, _LANES), _product_code(conjugate=True)


def _rotation_code(conjugate: bool) -> Callable[..., Any]:
    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[1])(context, builder, args[1]).data
        places = builder.gep(data, [args[2]]), builder.gep(data, [builder.add(args[2], args[2].type(1))])
        real, imag = (_spread(builder, builder.load(place)) for place in places)
        return _product(builder, (real, imag), _parts(builder, args[0]), conjugate)

    return code


@_in_compiled_code
def rotated(typingctx: Any, value: Any, factors: Any, index: Any) -> Any:
    """The value times the complex number at ``index`` of ``factors``, the same for all lanes."""
    return _LANES(_LANES, factors, types.intp), _rotation_code(conjugate=False)


@_in_compiled_code
def rotated_back(typingctx: Any, value: Any, factors: Any, index: Any) -> Any:
    """The value times the conjugate of the complex number at ``index`` of ``factors``."""
    return _LANES(_LANES, factors, types.intp), _rotation_code(conjugate=True)


@_in_compiled_code
def turned(typingctx: Any, value: Any) -> Any:
    """The value times -i, a quarter of a turn."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        real, imag = _parts(builder, args[0])
        return _join(builder, imag, builder.fneg(real))

    return _LANES(_LANES), code


@_in_compiled_code
def swapped(typingctx: Any, value: Any) -> Any:
    """Real and imaginary parts in each other's place: a forward transform between two swaps is the inverse."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _join(builder, *_parts(builder, args[0])[::-1])

    return _LANES(_LANES), code
