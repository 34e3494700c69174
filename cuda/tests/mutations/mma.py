#!/usr/bin/env python3
"""The mistakes that are planted in the mma kernels; see planting.py for how to run this."""

import sys

from planting import Family, Mistake, run

LOOP = "mma_mainloop.cuh"
LOAD = "mma_load.cuh"
SCORES = "mma_scores.cuh"
SOFTMAX = "mma_softmax.cuh"
TILE = "mma_tile.cuh"
TRAITS = "mma_traits.cuh"
EXACT = "mma_exact.cuh"
EPILOGUE = "mma_epilogue.cuh"
OUTPUT = "mma_output.cuh"
SEQUENCE = "sequence.cuh"
COMBINE = "combine.cuh"
PARTIAL = "output.cuh"

MISTAKES = [
    # Waits and barriers.
    Mistake(
        "K is not waited for",
        LOOP,
        "copy_async_wait<0>();\n    cta_sync();  // K is",
        "cta_sync();  // K is",
    ),
    Mistake(
        "V is not waited for",
        LOOP,
        "copy_async_wait<0>();\n    cta_sync();  // V is",
        "copy_async_wait<1>();\n    cta_sync();  // V is",
    ),
    Mistake("no barrier before V is overwritten", LOOP, "cta_sync();  // K is", "// K is"),
    Mistake("no barrier before K is overwritten", LOOP, "cta_sync();  // V is", "// V is"),
    Mistake(
        "K is overwritten before it is used",
        LOOP,
        "    multiply_qk<Traits>(q, k, s);\n",
        "    load_keys<Traits, Operand::kK>(params, tile, first + Traits::kTileK, k);\n"
        "    multiply_qk<Traits>(q, k, s);\n",
    ),
    Mistake(
        "the tile is read before it is there",
        LOOP,
        "  cta_sync();\n  const Tile& tile",
        "  const Tile& tile",
    ),
    Mistake(
        "O overwrites Q's rows of another warp's turn",
        EPILOGUE,
        "  warp_sync();\n  for (int i = lane;",
        "  for (int i = lane;",
    ),
    # Addresses.
    Mistake(
        "steps are added to a swizzled address",
        TRAITS,
        "(lane ^ static_cast",
        "(lane + static_cast",
    ),
    Mistake(
        "A's halves of rows and dims exchanged",
        LOOP,
        "chunk_address<Traits>(q, warp_row + lane % 16, lane / 16)",
        "chunk_address<Traits>(q, warp_row + lane / 16 * 8 + lane % 8, lane / 8 % 2)",
    ),
    Mistake(
        "f32: P's keys in another order than V's",
        LOOP,
        "bits_of(x[0]), bits_of(x[2]), bits_of(x[1]), bits_of(x[3])",
        "bits_of(x[0]), bits_of(x[1]), bits_of(x[2]), bits_of(x[3])",
    ),
    Mistake("f32 without its low halves", TRAITS, "  mma_tf32(sum, a.low, b.high);\n", ""),
    Mistake(
        "a page's rows",
        LOAD,
        "static_cast<uint32_t>(key) - slot * size",
        "static_cast<uint32_t>(key) - slot",
    ),
    Mistake(
        "the next sequence's pages",
        LOAD,
        "params.block_table[s.index * params.block_table_strides[0] +",
        "params.block_table[(s.index + 1) % params.batch * params.block_table_strides[0] +",
    ),
    Mistake(
        "a bad page goes unseen",
        LOAD,
        "page < 0 || page >= params.num_pages",
        "page >= params.num_pages",
    ),
    Mistake(
        "keys past the length are read",
        LOAD,
        "if (key < tile.sequence.seqlen_k) {",
        "if (key < (tile.sequence.seqlen_k + 7) / 8 * 8) {",
    ),
    Mistake(
        "dims past the head size are read", LOAD, "clamp_to(dim - first, 0,", "clamp_to(dim, 0,"
    ),
    # Tiles.
    Mistake("K and V of the wrong head", TILE, "tile.head / group", "tile.head % params.heads_kv"),
    Mistake(
        "packed heads and queries exchanged",
        TILE,
        "{tile.head + r % tile.pack, r / tile.pack}",
        "{tile.head + r / tile.pack % tile.pack, r / tile.pack}",
    ),
    Mistake(
        "blocks between the first and the last row's keys are not masked",
        TILE,
        "tile.all_rows = {last.begin, first.end};",
        "tile.all_rows = {first.begin, last.end};",
    ),
    Mistake(
        "the last row's keys are cut at the first row's",
        TILE,
        "tile.keys = {first.begin, last.end};",
        "tile.keys = {first.begin, first.end};",
    ),
    Mistake(
        "a chunk one block too long",
        TILE,
        "begin + params.kv_chunk)",
        "begin + params.kv_chunk + Traits::kTileK)",
    ),
    # Masks and scores.
    Mistake("causal off by one", SEQUENCE, "min_of(end, diagonal + 1)", "min_of(end, diagonal)"),
    Mistake(
        "a window's left edge",
        SEQUENCE,
        "max_of(begin, diagonal - params.window_left)",
        "max_of(begin, diagonal - params.window_left + 1)",
    ),
    Mistake(
        "alignment from the extents",
        SEQUENCE,
        "int64_t{s.seqlen_k} - int64_t{s.seqlen_q}",
        "int64_t{params.seqlen_k} - int64_t{params.seqlen_q}",
    ),
    Mistake(
        "the mask's edge",
        SCORES,
        "key < info.begin || key >= info.end",
        "key < info.begin || key > info.end",
    ),
    Mistake("a bias of -inf is added", SCORES, "s = bias == -kInfinity ? bias : fmaf", "s = fmaf"),
    Mistake(
        "a range's first column",
        SCORES,
        "- first.k0 * map.strides[3]",
        "+ first.k0 * map.strides[3]",
    ),
    Mistake(
        "softcap in natural units",
        SCORES,
        "params.softcap * static_cast<float>(kLog2E)",
        "params.softcap",
    ),
    Mistake(
        "ALiBi far from all keys keeps its distance",
        SEQUENCE,
        "if (!is_finite(slope)) return",
        "if (true) return",
    ),
    Mistake(
        "block mask: the tile's last queries are overlooked",
        SCORES,
        "row_of(tile, tile.rows - 1).query / params.block_q;\n  end",
        "first_query;\n  end",
    ),
    Mistake(
        "block mask: the tile's first queries are overlooked",
        SCORES,
        "row_of(tile, 0).query / params.block_q;\n  const int32_t last",
        "row_of(tile, tile.rows - 1).query / params.block_q;\n  const int32_t last",
    ),
    # Softmax.
    Mistake("O is not rescaled", SOFTMAX, "acc.o[block][n][half * 2 + 1] *= alpha;", ""),
    Mistake(
        "the sum is not rescaled",
        SOFTMAX,
        "fmaf(acc.l[block][half], alpha, sum)",
        "acc.l[block][half] + sum",
    ),
    Mistake("rows without a key", SOFTMAX, "m_new == -kInfinity ? 0.0f : m_new", "m_new"),
    # A narrower swizzle costs bank conflicts alone, which no emulator sees.
    Mistake(
        "the maximum of half a row's lanes",
        SOFTMAX,
        "largest = fmaxf(largest, shuffle_xor(largest, 2));",
        "",
    ),
    Mistake("the sum of half a row's lanes", SOFTMAX, "l += shuffle_xor(l, 2);", ""),
    # Results.
    Mistake("NaN of masked values stays", EPILOGUE, "ballot(zero != zero)", "ballot(false)"),
    Mistake("the exact path sees masked keys", EXACT, "if (s == -kInfinity) continue;", ""),
    Mistake(
        "the exact path forgets the interval",
        EXACT,
        "min_of(info.end, tile.keys.end)",
        "tile.keys.end",
    ),
    Mistake("an empty row divides by its sum", OUTPUT, "return empty ? 0.0f :", "return"),
    Mistake(
        "rows past a length are left alone",
        OUTPUT,
        "max_of(tile.rows, 0)) + warp; row < end;",
        "max_of(tile.rows, 0)) + warp; row < end - 1;",
    ),
    Mistake(
        "a bad length is believed",
        SEQUENCE,
        "s.seqlen_k = clamp_to(length, 0, params.seqlen_k);",
        "s.seqlen_k = length;",
    ),
    Mistake(
        "the sink counts what ALiBi left out",
        SEQUENCE,
        "params.sink[h * params.sink_stride]) - missing",
        "params.sink[h * params.sink_stride])",
    ),
    # Split K and V, and merging.
    Mistake(
        "every chunk in the first one's place",
        PARTIAL,
        "chunk * params.partial_chunk_rows",
        "chunk / 64 * params.partial_chunk_rows",
    ),
    Mistake(
        "the last chunk is not merged",
        COMBINE,
        "min_of(chunks_of(params, s), params.num_chunks)",
        "min_of(chunks_of(params, s), params.num_chunks - 1)",
    ),
    Mistake(
        "chunks beyond a short sequence are merged",
        COMBINE,
        "min_of(chunks_of(params, s), params.num_chunks)",
        "params.num_chunks",
    ),
    Mistake("parts of -inf weigh in", COMBINE, "if (lse != -kInfinity) sum", "sum"),
    Mistake(
        "the merge forgets its maximum",
        COMBINE,
        "expf(lse_of(p) - parts.largest)",
        "expf(lse_of(p))",
    ),
    Mistake("LSE is written before all parts are read", COMBINE, "    warp_sync();\n", ""),
    # What the host cannot see.
    Mistake(
        "rows are counted in 32 bits",
        PARTIAL,
        "return b * t.strides[0] + h * t.strides[1] + row * t.strides[2];",
        "return static_cast<int32_t>(b * t.strides[0] + h * t.strides[1] + row * t.strides[2]);",
    ),
    Mistake(
        "a sequence behind a bad offset is taken for good",
        SEQUENCE,
        "  if (b > 0) bad |= entry(b - 1) > begin;\n",
        "",
    ),
    Mistake(
        "a sequence before a bad offset is taken for good",
        SEQUENCE,
        "  if (b + 1 < batch) bad |= entry(b + 2) < end;\n",
        "",
    ),
    Mistake(
        "any position is taken for good",
        SEQUENCE,
        "if (q_clamped != q_start || k_clamped != k_start) s.bad",
        "if (false) s.bad",
    ),
]

if __name__ == "__main__":
    sys.exit(
        run(
            Family("mma", ["test_mma.cpp", "attention.cpp"], "mma_kernels_few.cpp", [], 180, False),
            MISTAKES,
        )
    )
