"""Register tiles: the few operations on which the fast loops rest, as Numba intrinsics.

A processor core multiplies and adds fastest when all it works on is in its registers. Each register is a *vector* of
some lanes, floats that one instruction works on at once. A **tile** is R vectors of L lanes, R x L numbers that stay in
registers while a loop adds to them, and go to memory once at its end:

    tile = zeros(rows, lanes, x)                        # R x L sums, in registers
    for t in range(taps):
        tile = add_outer(tile, w, t * R, load(lanes, x, start[t]))   # tile[r, l] += w[t R + r] x[start[t] + l]
    store(tile, ...)

Here one load of L numbers of x serves R multiplications of each, and a weight serves L. A plain loop loads and stores
a sum for each product; it waits for memory, not for arithmetic.

Nothing here names an instruction set. LLVM, which compiles for Numba, knows vectors of any length and cuts them into
the registers that there are; `register_shape` says which, so that a tile can be chosen to fit.

* Sizes must be known to the compiler: pass a `Size`, whose value is part of its Numba type; ``len(size)`` in a loop is
  a constant. A `Size` may also be a global name.
* Arrays are flat, C-contiguous, of float32 or float64; ``a[i]`` means the i-th number in memory. **No index is
  checked.**
* A product and the sum it is added to may be fused into one instruction (rounded once). Nothing else is reordered,
  so NaN and infinity keep their meaning, and the order of sums is the one written in the loop.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin, lower_constant
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.core.typing.templates import signature as typing_signature
from numba.extending import NativeValue, intrinsic, models, register_model, unbox


def register_shape() -> tuple[int, int]:
    """Bytes in a vector register of the processor Numba compiles for, and how many such registers it has."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    enabled = set(features.split(","))
    if "+avx512f" in enabled:
        return 64, 32
    if "+avx" in enabled:
        return 32, 16
    return 16, 32 if triple.startswith(("aarch64", "arm64")) else 16


# --- sizes and tiles as Numba types -----------------------------------------------------------------------------------


class SizeType(types.Type):
    """The type of one `Size`: the value is part of it."""

    def __init__(self, value: int) -> None:
        self.value = value
        super().__init__(f"Size({value})")


class Size:
    """An integer that a compiled function knows when it is compiled: ``Size(8)`` as argument, ``len(it)`` inside."""

    def __init__(self, value: int) -> None:
        self.value = value
        self._numba_type_ = _size_type(value)

    def __len__(self) -> int:
        return self.value


@functools.cache
def _size_type(value: int) -> SizeType:
    return SizeType(value)


register_model(SizeType)(models.OpaqueModel)


@unbox(SizeType)
def _unbox_size(typ: Any, value: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


@lower_constant(SizeType)
def _constant_size(context: Any, builder: Any, typ: Any, value: Any) -> Any:
    return context.get_dummy_value()


@infer_global(len)
class _LenOfSize(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return typing_signature(types.intp, *args) if isinstance(args[0], SizeType) else None


@lower_builtin(len, SizeType)
def _constant_len(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    return context.get_constant(types.intp, signature.args[0].value)


class TileType(types.Type):
    """R x L numbers of a dtype, held in registers."""

    def __init__(self, dtype: types.Float, rows: int, lanes: int) -> None:
        self.dtype, self.rows, self.lanes = dtype, rows, lanes
        super().__init__(f"Tile({dtype}, {rows}, {lanes})")

    @property
    def vector(self) -> ir.VectorType:
        """A row of the tile, as LLVM calls it."""
        return ir.VectorType(ir.FloatType() if self.dtype == types.float32 else ir.DoubleType(), self.lanes)


@register_model(TileType)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, tile: TileType) -> None:
        super().__init__(manager, tile, ir.ArrayType(tile.vector, tile.rows))


@intrinsic
def register_size(typing: Any, like: Any) -> Any:
    """A `Size`: as many as the numbers of the array `like` that fit a register."""
    size = _size_type(8 * register_shape()[0] // like.dtype.bitwidth)
    return size(like), lambda context, *_: context.get_dummy_value()


# --- making tiles -----------------------------------------------------------------------------------------------------
# Each intrinsic gets the types of its arguments and answers with its signature and a function that writes LLVM's code.


@intrinsic
def zeros(typing: Any, rows: Any, lanes: Any, like: Any) -> Any:
    """tile[r, l] = 0, in the dtype of the array `like`."""
    tile = TileType(like.dtype, rows.value, lanes.value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(tile), None)

    return tile(rows, lanes, like), generate


@intrinsic
def filled(typing: Any, lanes: Any, like: Any, number: Any) -> Any:
    """tile[0, l] = number, in the dtype of the array `like`."""
    tile = TileType(like.dtype, 1, lanes.value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = context.cast(builder, arguments[2], signature.args[2], tile.dtype)
        return _tile(builder, tile, [_splat(builder, value, tile)])

    return tile(lanes, like, number), generate


@intrinsic
def broadcast(typing: Any, rows: Any, lanes: Any, a: Any, i: Any) -> Any:
    """tile[r, l] = a[i + r]"""
    tile = TileType(a.dtype, rows.value, lanes.value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = _address(context, builder, signature, arguments, 2, 3)
        return _tile(
            builder, tile, (_splat(builder, builder.load(_next(builder, first, r)), tile) for r in _rows(tile))
        )

    return tile(rows, lanes, a, i), generate


@intrinsic
def load(typing: Any, lanes: Any, a: Any, i: Any) -> Any:
    """tile[0, l] = a[i + l]"""
    tile = TileType(a.dtype, 1, lanes.value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _tile(builder, tile, [_load(builder, _address(context, builder, signature, arguments, 1, 2), tile)])

    return tile(lanes, a, i), generate


@intrinsic
def load_rows(typing: Any, rows: Any, lanes: Any, a: Any, i: Any, step: Any) -> Any:
    """tile[r, l] = a[i + r step + l]"""
    tile = TileType(a.dtype, rows.value, lanes.value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = _address(context, builder, signature, arguments, 2, 3)
        step = context.cast(builder, arguments[4], signature.args[4], types.intp)
        starts = (builder.gep(first, [builder.mul(step, _integer(r))]) for r in _rows(tile))
        return _tile(builder, tile, (_load(builder, start, tile) for start in starts))

    return tile(rows, lanes, a, i, step), generate


@intrinsic
def load_at(typing: Any, rows: Any, lanes: Any, a: Any, i: Any, offsets: Any, m: Any) -> Any:
    """tile[r, l] = a[i + offsets[m + r] + l]"""
    tile = TileType(a.dtype, rows.value, lanes.value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = _address(context, builder, signature, arguments, 2, 3)
        offset = _address(context, builder, signature, arguments, 4, 5)
        starts = (builder.gep(first, [builder.load(_next(builder, offset, r))]) for r in _rows(tile))
        return _tile(builder, tile, (_load(builder, start, tile) for start in starts))

    return tile(rows, lanes, a, i, offsets, m), generate


@intrinsic
def load_pairs(typing: Any, lanes: Any, a: Any, i: Any, offsets: Any, m: Any) -> Any:
    """tile[r, l] = a[i + offsets[m + l] + r] for r = 0, 1: two neighbours from each of L places, a multiple of 4."""
    tile = TileType(a.dtype, 2, lanes.value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = _address(context, builder, signature, arguments, 1, 2)
        offset = _address(context, builder, signature, arguments, 3, 4)
        # Two neighbours come with one load, as an integer of twice the bits. One vector takes the pairs of the lanes
        # 0 1 4 5 8 9 ..., another those of 2 3 6 7 10 11 ...: the shuffle that parts left from right is then a cheap
        # one, which moves no number farther than four lanes.
        pair = ir.IntType(2 * tile.dtype.bitwidth)
        order = [lane for low in (True, False) for lane in range(tile.lanes) if (lane % 4 < 2) == low]
        vectors = []
        for part in (order[: tile.lanes // 2], order[tile.lanes // 2 :]):
            vector = ir.Constant(ir.VectorType(pair, len(part)), ir.Undefined)
            for k, lane in enumerate(part):
                place = builder.gep(first, [builder.load(_next(builder, offset, lane))])
                loaded = builder.load(builder.bitcast(place, pair.as_pointer()), align=tile.dtype.bitwidth // 8)
                vector = builder.insert_element(vector, loaded, ir.Constant(_I32, k))
            vectors.append(builder.bitcast(vector, tile.vector))
        places = ([2 * order.index(lane) + r for lane in range(tile.lanes)] for r in _rows(tile))
        index = ir.VectorType(_I32, tile.lanes)
        return _tile(builder, tile, (builder.shuffle_vector(*vectors, ir.Constant(index, row)) for row in places))

    return tile(lanes, a, i, offsets, m), generate


@intrinsic
def load_runs(typing: Any, rows: Any, lanes: Any, a: Any, i: Any, offsets: Any, m: Any) -> Any:
    """tile[r, l] = a[i + offsets[m + l] + r]: R neighbours, a power of two, from each of L places, a multiple of R."""
    tile = TileType(a.dtype, rows.value, lanes.value)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = _address(context, builder, signature, arguments, 2, 3)
        offset = _address(context, builder, signature, arguments, 4, 5)
        run = TileType(tile.dtype, 1, tile.rows)
        places = (builder.gep(first, [builder.load(_next(builder, offset, lane))]) for lane in range(tile.lanes))
        return _tile(builder, tile, _rows_of_runs(builder, [_load(builder, place, run) for place in places], tile))

    return tile(rows, lanes, a, i, offsets, m), generate


@intrinsic
def keep_from(typing: Any, tile: Any, lane: Any) -> Any:
    """tile[r, l] if l >= lane, else 0: for a last block that reaches back over numbers that were counted already."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, lane = arguments
        lane = context.cast(builder, lane, signature.args[1], types.intp)
        rows, before = [builder.extract_value(value, r) for r in _rows(tile)], builder.block
        # In all blocks but the last nothing changes: a branch that is foreseen costs less than the comparison of lanes.
        with cgutils.if_unlikely(builder, builder.icmp_signed(">", lane, _integer(0))):
            index = ir.VectorType(_I64, tile.lanes)
            first = _splat_as(builder, lane, index)
            kept = builder.icmp_signed(">=", ir.Constant(index, list(range(tile.lanes))), first)
            parts = [builder.select(kept, row, ir.Constant(tile.vector, None)) for row in rows]
            inside = builder.block
        merged = [builder.phi(tile.vector) for _ in rows]
        for phi, row, part in zip(merged, rows, parts, strict=True):
            phi.add_incoming(row, before)
            phi.add_incoming(part, inside)
        return _tile(builder, tile, merged)

    return tile(tile, lane), generate


@intrinsic
def keep_where(typing: Any, tile: Any, a: Any, i: Any, number: Any) -> Any:
    """tile[0, l] if a[i + l] == number, else 0, for an array `a` of integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integers = ir.VectorType(context.get_value_type(a.dtype), tile.lanes)
        place = builder.bitcast(_address(context, builder, signature, arguments, 1, 2), integers.as_pointer())
        wanted = context.cast(builder, arguments[3], signature.args[3], a.dtype)
        found = builder.load(place, align=a.dtype.bitwidth // 8)
        kept = builder.icmp_unsigned("==", found, _splat_as(builder, wanted, integers))
        row = builder.extract_value(arguments[0], 0)
        return _tile(builder, tile, [builder.select(kept, row, ir.Constant(tile.vector, None))])

    return tile(tile, a, i, number), generate


@intrinsic
def keep_larger(typing: Any, largest: Any, winner: Any, tile: Any, number: Any) -> Any:
    """(tile[0, l], number) where tile[0, l] is larger than largest[0, l] or NaN, else (largest[0, l], winner[0, l])."""
    pair = types.UniTuple(tile, 2)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        before, who, row = (builder.extract_value(argument, 0) for argument in arguments[:3])
        challenger = _splat(builder, context.cast(builder, arguments[3], signature.args[3], tile.dtype), tile)
        wins = builder.or_(builder.fcmp_ordered(">", row, before), builder.fcmp_unordered("uno", row, row))
        rows = builder.select(wins, row, before), builder.select(wins, challenger, who)
        return context.make_tuple(builder, pair, [_tile(builder, tile, [row]) for row in rows])

    return pair(largest, winner, tile, number), generate


@intrinsic
def keep_positive(typing: Any, tile: Any, other: Any) -> Any:
    """tile[r, l] where other[r, l] > 0, else 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        nothing = ir.Constant(tile.vector, None)
        pairs = [[builder.extract_value(argument, r) for argument in arguments] for r in _rows(tile)]
        rows = (builder.select(builder.fcmp_ordered(">", other, nothing), row, nothing) for row, other in pairs)
        return _tile(builder, tile, rows)

    return tile(tile, other), generate


@intrinsic
def transposed(typing: Any, tile: Any) -> Any:
    """tile[l, r], of a tile with as many rows as lanes, a power of two."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = [builder.extract_value(arguments[0], r) for r in _rows(tile)]
        return _tile(builder, tile, _transpose_in_groups(builder, rows, tile.rows, tile.lanes))

    return tile(tile), generate


# --- adding to tiles --------------------------------------------------------------------------------------------------


@intrinsic
def add(typing: Any, tile: Any, other: Any) -> Any:
    """tile[r, l] + other[r, l]"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right = arguments
        rows = (builder.fadd(builder.extract_value(left, r), builder.extract_value(right, r)) for r in _rows(tile))
        return _tile(builder, tile, rows)

    return tile(tile, other), generate


@intrinsic
def add_outer(typing: Any, tile: Any, a: Any, i: Any, vector: Any) -> Any:
    """tile[r, l] + a[i + r] vector[0, l]: a column of numbers times a row of them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, vector = arguments[0], builder.extract_value(arguments[3], 0)
        first = _address(context, builder, signature, arguments, 1, 2)
        rows = (
            _multiply_add(
                builder,
                _splat(builder, builder.load(_next(builder, first, r)), tile),
                vector,
                builder.extract_value(sums, r),
            )
            for r in _rows(tile)
        )
        return _tile(builder, tile, rows)

    return tile(tile, a, i, vector), generate


@intrinsic
def add_outer_at(typing: Any, tile: Any, a: Any, i: Any, offsets: Any, m: Any, vector: Any) -> Any:
    """tile[r, l] + a[i + offsets[m + r]] vector[0, l]"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, vector = arguments[0], builder.extract_value(arguments[5], 0)
        first = _address(context, builder, signature, arguments, 1, 2)
        offset = _address(context, builder, signature, arguments, 3, 4)
        rows = []
        for r in _rows(tile):
            number = builder.load(builder.gep(first, [builder.load(_next(builder, offset, r))]))
            rows.append(_multiply_add(builder, _splat(builder, number, tile), vector, builder.extract_value(sums, r)))
        return _tile(builder, tile, rows)

    return tile(tile, a, i, offsets, m, vector), generate


@intrinsic
def add_products(typing: Any, tile: Any, p: Any, q: Any) -> Any:
    """tile[r Q + s, l] + p[r, l] q[s, l] for the P rows of p and the Q rows of q: each with each, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, left, right = arguments
        rows = [builder.extract_value(sums, r) for r in _rows(tile)]
        for s in _rows(q):  # one row of q after the other: so each needs a register for a short while only
            row = builder.extract_value(right, s)
            for r in _rows(p):
                k = r * q.rows + s
                rows[k] = _multiply_add(builder, builder.extract_value(left, r), row, rows[k])
        return _tile(builder, tile, rows)

    return tile(tile, p, q), generate


@intrinsic
def multiply(typing: Any, tile: Any, row: Any) -> Any:
    """tile[r, l] row[0, l]"""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, row = arguments[0], builder.extract_value(arguments[1], 0)
        return _tile(builder, tile, (builder.fmul(builder.extract_value(value, r), row) for r in _rows(tile)))

    return tile(tile, row), generate


@intrinsic
def dot(typing: Any, p: Any, q: Any) -> Any:
    """The sum over r of p[r, l] q[r, l], lane by lane: a tile of one row."""
    row = TileType(p.dtype, 1, p.lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right = ([builder.extract_value(value, r) for r in _rows(p)] for value in arguments)
        total = builder.fmul(left[0], right[0], flags=("contract",))
        for x, y in zip(left[1:], right[1:], strict=True):
            total = _multiply_add(builder, x, y, total)
        return _tile(builder, row, [total])

    return row(p, q), generate


# --- tiles back to memory ---------------------------------------------------------------------------------------------


@intrinsic
def store(typing: Any, tile: Any, count: Any, lane: Any, a: Any, i: Any, step: Any) -> Any:
    """a[i + r step + l] = tile[r, l] for the first `count` rows and for the lanes from `lane` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = _address(context, builder, signature, arguments, 3, 4)
        count, lane, step = (context.cast(builder, arguments[k], signature.args[k], types.intp) for k in (1, 2, 5))
        with builder.if_else(builder.icmp_signed("<=", lane, _integer(0))) as (whole_rows, rest):
            with whole_rows:
                for r, row in _first_rows(context, builder, signature, arguments):
                    _store(builder, row, builder.gep(first, [builder.mul(step, _integer(r))]), tile)
            with rest:  # number by number: it happens once in a run
                copy = cgutils.alloca_once_value(builder, arguments[0])
                numbers = builder.bitcast(copy, tile.vector.element.as_pointer())
                rows = builder.select(builder.icmp_signed("<", count, _integer(tile.rows)), count, _integer(tile.rows))
                one = _integer(1)
                with (
                    cgutils.for_range_slice(builder, _integer(0), rows, one, inc=True) as (r, _),
                    cgutils.for_range_slice(builder, lane, _integer(tile.lanes), one, inc=True) as (column, _),
                ):
                    source = builder.add(builder.mul(r, _integer(tile.lanes)), column)
                    target = builder.add(builder.mul(r, step), column)
                    builder.store(builder.load(builder.gep(numbers, [source])), builder.gep(first, [target]))
        return context.get_dummy_value()

    return types.void(tile, count, lane, a, i, step), generate


@intrinsic
def store_integers(typing: Any, tile: Any, a: Any, i: Any) -> Any:
    """a[i + l] = tile[0, l], which are whole numbers, in an array of unsigned integers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integers = ir.VectorType(context.get_value_type(a.dtype), tile.lanes)
        whole = builder.fptoui(builder.extract_value(arguments[0], 0), integers)
        place = builder.bitcast(_address(context, builder, signature, arguments, 1, 2), integers.as_pointer())
        builder.store(whole, place, align=a.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(tile, a, i), generate


@intrinsic
def add_at(typing: Any, tile: Any, count: Any, a: Any, i: Any, offsets: Any, m: Any) -> Any:
    """a[i + offsets[m + r] + l] += tile[r, l] for the first `count` rows, one after the other: they may overlap."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = _address(context, builder, signature, arguments, 2, 3)
        offset = _address(context, builder, signature, arguments, 4, 5)
        for r, row in _first_rows(context, builder, signature, arguments):
            place = builder.gep(first, [builder.load(_next(builder, offset, r))])
            _store(builder, builder.fadd(_load(builder, place, tile), row), place, tile)
        return context.get_dummy_value()

    return types.void(tile, count, a, i, offsets, m), generate


@intrinsic
def add_runs(typing: Any, tile: Any, a: Any, offsets: Any, m: Any) -> Any:
    """a[R offsets[m + l] + r] += tile[r, l], one lane after the other: places may be equal. R is a power of two."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[1])(context, builder, arguments[1]).data
        offset = _address(context, builder, signature, arguments, 2, 3)
        run = TileType(tile.dtype, 1, tile.rows)
        runs = _runs_of_rows(builder, [builder.extract_value(arguments[0], r) for r in _rows(tile)], tile)
        for lane, values in enumerate(runs):
            place = builder.sext(builder.load(_next(builder, offset, lane)), _I64)
            place = builder.gep(data, [builder.mul(place, _integer(tile.rows))])
            _store(builder, builder.fadd(_load(builder, place, run), values), place, run)
        return context.get_dummy_value()

    return types.void(tile, a, offsets, m), generate


@intrinsic
def add_row_sums(typing: Any, tile: Any, a: Any, i: Any) -> Any:
    """a[i + r] += sum over l of tile[r, l], added in pairs."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first = _address(context, builder, signature, arguments, 1, 2)
        for r in _rows(tile):
            place = _next(builder, first, r)
            row = builder.extract_value(arguments[0], r)
            builder.store(builder.fadd(builder.load(place), _sum_of_lanes(builder, row, tile.lanes)), place)
        return context.get_dummy_value()

    return types.void(tile, a, i), generate


# --- what they are written with ---------------------------------------------------------------------------------------

_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _integer(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _rows(tile: TileType) -> range:
    return range(tile.rows)


def _tile(builder: Any, tile: TileType, rows: Any) -> Any:
    """The tile of these rows."""
    value = ir.Constant(ir.ArrayType(tile.vector, tile.rows), ir.Undefined)
    for r, row in enumerate(rows):
        value = builder.insert_value(value, row, r)
    return value


def _first_rows(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """r and row r of the tile, argument 0; the code written for each is skipped if r >= count, argument 1."""
    count = context.cast(builder, arguments[1], signature.args[1], types.intp)
    for r in _rows(signature.args[0]):
        with builder.if_then(builder.icmp_signed("<", _integer(r), count)):
            yield r, builder.extract_value(arguments[0], r)


def _address(context: Any, builder: Any, signature: Any, arguments: Any, array: int, index: int) -> Any:
    """Where number arguments[index] of the array arguments[array] is."""
    data = context.make_array(signature.args[array])(context, builder, arguments[array]).data
    return builder.gep(data, [context.cast(builder, arguments[index], signature.args[index], types.intp)])


def _next(builder: Any, address: Any, count: int) -> Any:
    """The address `count` numbers further."""
    return builder.gep(address, [_integer(count)])


def _load(builder: Any, address: Any, tile: TileType) -> Any:
    # Aligned like one number, not like a vector: a row may begin anywhere.
    return builder.load(builder.bitcast(address, tile.vector.as_pointer()), align=tile.dtype.bitwidth // 8)


def _store(builder: Any, row: Any, address: Any, tile: TileType) -> None:
    builder.store(row, builder.bitcast(address, tile.vector.as_pointer()), align=tile.dtype.bitwidth // 8)


def _splat(builder: Any, number: Any, tile: TileType) -> Any:
    """The number in every lane."""
    return _splat_as(builder, number, tile.vector)


def _splat_as(builder: Any, number: Any, vector: ir.VectorType) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count))


def _rows_of_runs(builder: Any, runs: list[Any], tile: TileType) -> list[Any]:
    """R vectors of L lanes from L vectors of R lanes: the transpose.

    Vector k gets the runs k, k + R, k + 2 R, ... one after the other. What is left is to transpose R x R numbers within
    each R lanes: a processor moves numbers within four lanes faster than farther.
    """
    R, L = tile.rows, tile.lanes
    return _transpose_in_groups(builder, [_joined(builder, runs[k::R]) for k in range(R)], R, L)


def _runs_of_rows(builder: Any, rows: list[Any], tile: TileType) -> list[Any]:
    """L vectors of R lanes from R vectors of L lanes: the transpose, and the inverse of the above."""
    R, L = tile.rows, tile.lanes
    vectors = _transpose_in_groups(builder, rows, R, L)
    lanes = [ir.Constant(ir.VectorType(_I32, R), list(range(at, at + R))) for at in range(0, L, R)]
    return [builder.shuffle_vector(vectors[lane % R], vectors[lane % R], lanes[lane // R]) for lane in range(L)]


def _transpose_in_groups(builder: Any, rows: list[Any], group: int, lanes: int) -> list[Any]:
    """Transpose the G x G numbers in each G lanes of G vectors."""
    rows, index, block = list(rows), ir.VectorType(_I32, lanes), group // 2
    while block:  # of each 2 x 2 blocks, the upper right one and the lower left one change places
        upper = [lane if not lane & block else lane - block + lanes for lane in range(lanes)]
        lower = [lane + block for lane in upper]
        for r in range(group):
            if not r & block:
                pair = rows[r], rows[r + block]
                rows[r] = builder.shuffle_vector(*pair, ir.Constant(index, upper))
                rows[r + block] = builder.shuffle_vector(*pair, ir.Constant(index, lower))
        block //= 2
    return rows


def _joined(builder: Any, vectors: list[Any]) -> Any:
    """One vector of all lanes; the number of vectors is a power of two."""
    while len(vectors) > 1:
        index = ir.Constant(ir.VectorType(_I32, 2 * vectors[0].type.count), list(range(2 * vectors[0].type.count)))
        vectors = [builder.shuffle_vector(*pair, index) for pair in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def _multiply_add(builder: Any, x: Any, y: Any, z: Any) -> Any:
    return builder.fadd(builder.fmul(x, y, flags=("contract",)), z, flags=("contract",))


def _sum_of_lanes(builder: Any, row: Any, lanes: int) -> Any:
    """Halves added to halves until one number is left; `lanes` is a power of two."""
    while lanes > 1:
        lanes //= 2
        left, right = (ir.Constant(ir.VectorType(_I32, lanes), list(range(at, at + lanes))) for at in (0, lanes))
        row = builder.fadd(builder.shuffle_vector(row, row, left), builder.shuffle_vector(row, row, right))
    return builder.extract_element(row, ir.Constant(_I32, 0))
