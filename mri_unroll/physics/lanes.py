r"""Eight complex numbers of single precision as one value inside functions that numba compiles.

A `Lanes` value is two vectors of eight, real parts and imaginary parts, which LLVM keeps in the processor's vector
registers (AVX, NEON); arithmetic on it is done on all eight at once. In memory there are two layouts: *interleaved*, as
NumPy and torch store complex numbers, seen as a flat ``float32`` array; and *split*, eight real parts followed by eight
imaginary parts, which is how `load` and `store` keep work in progress. The order of the eight inside a value is not the
order in memory (it spares shuffles between halves of a register) but the same wherever a value is made.

This is the type and its ways from and to memory; `lane_arithmetic` computes. Either exists inside compiled functions
only, and raises when called from Python. Indices count ``float32`` numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

N_LANES = 8
# Which of eight consecutive numbers each lane holds.
LANE_ORDER = (0, 1, 4, 5, 2, 3, 6, 7)

VECTOR = ir.VectorType(ir.FloatType(), N_LANES)
PAIR = ir.LiteralStructType([VECTOR, VECTOR])
INDEX = ir.IntType(32)

# Shuffles of two vectors a = 0..7 and b = 8..15 that stay within halves of a register, and two that join halves.
_EVENS, _ODDS = (0, 2, 8, 10, 4, 6, 12, 14), (1, 3, 9, 11, 5, 7, 13, 15)
_LOW_SINGLES, _HIGH_SINGLES = (0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)
_LOW_PAIRS, _HIGH_PAIRS = (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15)
_LOW_HALVES, _HIGH_HALVES = (0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)


in_compiled_code: Callable[..., Any] = intrinsic  # of which no type is known


class LanesType(types.Type):
    """Numba's type of eight complex numbers."""

    def __init__(self) -> None:
        super().__init__(name="ComplexLanes")


LANES = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    """Stored as two vectors."""

    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, PAIR)


def shuffle(builder: Any, a: Any, b: Any, order: Sequence[int]) -> Any:
    """A vector of the elements ``order`` of two others, seen as one."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INDEX, len(order)), list(order)))


def spread(builder: Any, number: Any) -> Any:
    """The same number in all lanes."""
    nothing = ir.Constant(VECTOR, ir.Undefined)
    return shuffle(builder, builder.insert_element(nothing, number, INDEX(0)), nothing, (0,) * N_LANES)


def vectors_of(builder: Any, lanes: Any) -> tuple[Any, Any]:
    """Real and imaginary parts."""
    return builder.extract_value(lanes, 0), builder.extract_value(lanes, 1)


def join(builder: Any, real: Any, imag: Any) -> Any:
    """A value of real and imaginary parts."""
    return builder.insert_value(builder.insert_value(ir.Constant(PAIR, ir.Undefined), real, 0), imag, 1)


def vector_at(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Pointer to the vector that begins at ``index`` of an array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), VECTOR.as_pointer())


def read(builder: Any, at: Any, n: int = 0) -> Any:
    """The ``n``-th vector behind ``at``; arrays need not begin with a cache line."""
    return builder.load(builder.gep(at, [INDEX(n)]), align=4)


def write(builder: Any, value: Any, at: Any, n: int = 0) -> None:
    """Write the ``n``-th vector behind ``at``."""
    builder.store(value, builder.gep(at, [INDEX(n)]), align=4)


@in_compiled_code
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """The split value at ``index``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = vector_at(context, builder, sig.args[0], *args)
        return join(builder, read(builder, at), read(builder, at, 1))

    return LANES(array, types.intp), code


@in_compiled_code
def store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a split value to ``index``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = vector_at(context, builder, sig.args[0], *args[:2])
        for n, part in enumerate(vectors_of(builder, args[2])):
            write(builder, part, at, n)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), code


@in_compiled_code
def load_row(typingctx: Any, array: Any, index: Any) -> Any:
    """Eight interleaved numbers, one behind the other from ``index``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = vector_at(context, builder, sig.args[0], *args)
        both = read(builder, at), read(builder, at, 1)
        return join(builder, shuffle(builder, *both, _EVENS), shuffle(builder, *both, _ODDS))

    return LANES(array, types.intp), code


@in_compiled_code
def store_row(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write eight interleaved numbers, one behind the other from ``index``."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = vector_at(context, builder, sig.args[0], *args[:2])
        halves = vectors_of(builder, args[2])
        write(builder, shuffle(builder, *halves, _LOW_SINGLES), at)
        write(builder, shuffle(builder, *halves, _HIGH_SINGLES), at, 1)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES), code


def _turned(builder: Any, four: Sequence[Any]) -> list[Any]:
    """Four vectors of four complex numbers each, as a matrix turned about its diagonal."""
    low, high = ([shuffle(builder, four[k], four[k + 1], order) for k in (0, 2)] for order in (_LOW_PAIRS, _HIGH_PAIRS))
    return [shuffle(builder, a, b, halves) for halves in (_LOW_HALVES, _HIGH_HALVES) for a, b in (low, high)]


@in_compiled_code
def load_columns(typingctx: Any, array: Any, first: Any, step: Any, last: Any) -> Any:
    """Four values, one a column, of eight rows of four interleaved numbers.

    Row k begins at ``first + k * step``, but not behind ``last``: rows that are missing repeat the last one.
    """

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        index, rows = args[1], []
        for _ in range(N_LANES):
            rows.append(read(builder, vector_at(context, builder, sig.args[0], args[0], index)))
            following = builder.add(index, args[2])
            index = builder.select(builder.icmp_signed("<", following, args[3]), following, args[3])
        columns = zip(_turned(builder, rows[:4]), _turned(builder, rows[4:]), strict=True)
        values = [join(builder, shuffle(builder, *c, _EVENS), shuffle(builder, *c, _ODDS)) for c in columns]
        return context.make_tuple(builder, sig.return_type, values)

    return types.UniTuple(LANES, 4)(array, types.intp, types.intp, types.intp), code


@in_compiled_code
def store_columns(typingctx: Any, array: Any, first: Any, step: Any, last: Any, columns: Any) -> Any:
    """Write four values as columns of four interleaved numbers, where `load_columns` reads them."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        index, rows = args[1], []
        pairs = [vectors_of(builder, lanes) for lanes in cgutils.unpack_tuple(builder, args[4], 4)]
        for order in (_LOW_SINGLES, _HIGH_SINGLES):
            rows += _turned(builder, [shuffle(builder, *pair, order) for pair in pairs])
        for row in rows:
            write(builder, row, vector_at(context, builder, sig.args[0], args[0], index))
            following = builder.add(index, args[2])
            index = builder.select(builder.icmp_signed("<", following, args[3]), following, args[3])
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, types.intp, columns), code
