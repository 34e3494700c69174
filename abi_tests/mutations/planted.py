"""The mistakes that run.py plants, each of which a test program has to notice.

`old` stands exactly once in `file`; a mistake that no longer applies is a failure, so that this
list moves with the source.
"""

from typing import NamedTuple


class Mistake(NamedTuple):
    what: str
    file: str
    old: str
    new: str
    program: str = "numerics"  # the test_* program that has to fail
    isa: str = ""  # can be noticed only where this instruction set is available


SEQUENCE = "src/sequence.h"
STANDARD = "src/standard/standard.cpp"
FLASH = "src/flash/flash.cpp"
OPERANDS = "src/flash/operands.cpp"
PREFILL = "src/flash/prefill.cpp"
DECODE = "src/flash/decode.cpp"
KERNEL = "src/flash/kernel.h"
PRODUCT = "src/flash/product.h"
PRODUCT_AMX = "src/flash/product_amx.h"
PACK = "src/flash/pack.h"
CHUNK = "src/flash/chunk.h"
DOT = "src/flash/dot.h"
STAGE = "src/flash/stage.h"
AUTOTUNE = "src/autotune.cpp"
MERGE = "src/merge/merge.cpp"

MISTAKES = [
    # What both backends read their problem through.
    Mistake(
        "bottom-right alignment off by one",
        SEQUENCE,
        "s.q_start = s.seqlen_k - s.seqlen_q;",
        "s.q_start = s.seqlen_k - s.seqlen_q + 1;",
    ),
    Mistake(
        "alignment from the tensor's extent instead of the sequence's length",
        SEQUENCE,
        "s.q_start = s.seqlen_k - s.seqlen_q;",
        "s.q_start = shape.seqlen_k - s.seqlen_q;",
    ),
    Mistake(
        "k_start ignored",
        SEQUENCE,
        "s.k_start = args.k_start ? vector_at<int64_t>(*args.k_start, b) : 0;",
        "s.k_start = 0;",
    ),
    Mistake(
        "standard: a page's rows counted from the wrong end of the division",
        SEQUENCE,
        "return {page, j % problem.page_size};",
        "return {page, j / problem.page_size % problem.page_size};",
    ),
    Mistake(
        "scales of the wrong head",
        SEQUENCE,
        "head_kv * broadcast_stride(scale, 1)",
        "(problem.heads_kv - 1 - head_kv) * broadcast_stride(scale, 1)",
    ),
    Mistake(
        "scales without the order of the pages",
        SEQUENCE,
        "place.outer * broadcast_stride(scale, 0)",
        "(problem.page_size ? j / problem.page_size : place.outer) * broadcast_stride(scale, 0)",
    ),
    Mistake(
        "scales of one row for a whole page or sequence",
        SEQUENCE,
        "place.row * broadcast_stride(scale, 2)",
        "0 * broadcast_stride(scale, 2)",
    ),
    Mistake(
        "a scale for each head steps from row to row",
        SEQUENCE,
        "place.row * broadcast_stride(scale, 2)",
        "place.row * scale.strides[2]",
    ),
    Mistake(
        "scales past a sequence's length are looked at",
        "src/validate.cpp",
        "const int64_t end = std::min(begin + parts.keys, sequence.seqlen_k);",
        "const int64_t end ="
        " std::min(begin + parts.keys, kv_packed() ? sequence.seqlen_k : s_.seqlen_k);",
    ),
    Mistake(
        "scales of 0 pass",
        "src/validate.cpp",
        "return (bits < 1) | (bits >= kInfinity);",
        "return (bits < 0) | (bits >= kInfinity);",
        "errors_run",
    ),
    Mistake(
        "only the first page's scales are checked",
        "src/validate.cpp",
        "ATTN_TRY(scale_rows(parts.arg, key_place(p_, a_, sequence, j), next - j));",
        "if (j < p_.page_size)"
        " ATTN_TRY(scale_rows(parts.arg, key_place(p_, a_, sequence, j), next - j));",
        "errors_run",
    ),
    Mistake(
        "the scales of the last part are not checked",
        "src/validate.cpp",
        "const int64_t count = s_.batch * of_sequence;",
        "const int64_t count = s_.batch * of_sequence - 1;",
        "errors_run",
    ),
    # Standard.
    Mistake(
        "standard: causal mask off by one",
        SEQUENCE,
        "end = std::min(end, diagonal + 1);",
        "end = std::min(end, diagonal + 2);",
    ),
    Mistake(
        "standard: left window off by one",
        SEQUENCE,
        "begin = std::max(begin, diagonal - problem.window_left);",
        "begin = std::max(begin, diagonal - problem.window_left + 1);",
    ),
    Mistake(
        "standard: wrong scale",
        STANDARD,
        "row[j] *= scale;",
        "row[j] *= scale * 1.0001f;",
    ),
    Mistake(
        "standard: query heads interleaved instead of grouped",
        STANDARD,
        "head / (problem.heads_q / problem.heads_kv),",
        "head % problem.heads_kv,",
    ),
    Mistake(
        "standard: one key past the length is read",
        STANDARD,
        "std::fill(row + keys.end, row + h.ld_k, -kInfinity);",
        "std::fill(row + std::min(keys.end + 1, h.ld_k), row + h.ld_k, -kInfinity);",
    ),
    Mistake(
        "standard: LSE without the row's maximum",
        STANDARD,
        "return static_cast<float>(max + std::log(sum));",
        "return static_cast<float>(std::log(sum));",
    ),
    Mistake(
        "standard: the sink left out of the denominator",
        STANDARD,
        "exponentials.sum + std::exp(sink - max);",
        "exponentials.sum;",
    ),
    Mistake(
        "standard: ALiBi without the absolute value",
        STANDARD,
        "j < diagonal ? diagonal - j : j - diagonal;",
        "diagonal - j;",
    ),
    Mistake(
        "a range's first column is always 0",
        SEQUENCE,
        "first_column = view.keys.begin - k0;",
        "first_column = 0 * k0;",
    ),
    Mistake(
        "standard: softcap before the scale",
        STANDARD,
        "    apply_scale(row, n, h.problem.scale);\n"
        "    if (h.problem.softcap > 0) h.kernels.apply_softcap(row, n, h.problem.softcap);\n",
        "    if (h.problem.softcap > 0) h.kernels.apply_softcap(row, n, h.problem.softcap);\n"
        "    apply_scale(row, n, h.problem.scale);\n",
    ),
    Mistake(
        "standard: 0 * NaN of masked values reaches the output",
        STANDARD,
        "if (exact) hide_masked_values(h, row);",
        "",
        "nonfinite",
    ),
    Mistake(
        "standard: an attended NaN in V is lost",
        STANDARD,
        "if (scores[j] == -kInfinity) {",
        "if (true) {",
        "nonfinite",
    ),
    Mistake(
        "f16 rounds ties away from zero",
        "src/storage.h",
        "0xfff + ((magnitude >> 13) & 1)",
        "0x1000",
        "merge",
    ),
    Mistake(
        "f8e4m3 with the exponent's bias of its other kind",
        "src/storage.h",
        "0x1p120f",
        "0x1p119f",
    ),
    Mistake(
        "f8e4m3's NaN is read as a number",
        "src/storage.h",
        "sign | ((x & 0x7fu) == 0x7fu ? 0x7fc00000u : finite)",
        "sign | finite",
        "nonfinite",
    ),
    Mistake(
        "standard: the first block's scale for all",
        STANDARD,
        "reinterpret_cast<const float*>(scales.data)[block * scales.stride];",
        "reinterpret_cast<const float*>(scales.data)[0];",
    ),
    # Flash.
    Mistake(
        "flash: K and V's scales of the wrong head",
        OPERANDS,
        "head_kv * broadcast_stride(scale, 1) +",
        "(run.problem.heads_kv - 1 - head_kv) * broadcast_stride(scale, 1) +",
    ),
    Mistake(
        "flash: scales without the order of the pages",
        PACK,
        "locate(keys_.pages, scales.data, scales.page_stride,",
        "locate(keys_.pages, scales.data, 0 * scales.page_stride,",
    ),
    Mistake(
        "flash: one token's scale for all",
        PACK,
        "scales.page_stride, scales.row_stride,",
        "scales.page_stride, 0 * scales.row_stride,",
    ),
    Mistake(
        "flash: the first block's scale for all",
        PACK,
        "return Broadcast(scales + first * stride);",
        "return Broadcast(scales + 0 * first * stride);",
    ),
    Mistake(
        "flash: wrong scale",
        KERNEL,
        "Set(tile.scale * static_cast<float>(kLog2E))",
        "Set(tile.scale * 1.443f)",
    ),
    Mistake(
        "flash: O is not rescaled when the maximum moves",
        PRODUCT,
        "acc[r][v] = MulAdd(Broadcast(product.alpha + r), Load(c + r * ldc + v * kLanes), Zero());",
        "acc[r][v] = Load(c + r * ldc + v * kLanes);",
    ),
    Mistake(
        "flash: the row's sum is not rescaled when the maximum moves",
        KERNEL,
        "Store(MulAdd(Load(l + r * kLanes), Broadcast(alpha + r), sum[0]), l + r * kLanes);",
        "Store(Add(Load(l + r * kLanes), sum[0]), l + r * kLanes);",
    ),
    Mistake(
        "flash: causal mask off by one",
        OPERANDS,
        "if (problem.features & ATTN_CAUSAL) band.hi = diagonal + 1;",
        "if (problem.features & ATTN_CAUSAL) band.hi = diagonal;",
    ),
    Mistake(
        "flash: right window off by one",
        OPERANDS,
        "band.hi = std::min(band.hi, diagonal + problem.window_right + 1);",
        "band.hi = std::min(band.hi, diagonal + problem.window_right);",
    ),
    Mistake(
        "flash: left window off by one",
        OPERANDS,
        "band.lo = diagonal - problem.window_left;",
        "band.lo = diagonal - problem.window_left - 1;",
    ),
    Mistake(
        "flash: query heads interleaved instead of grouped",
        PREFILL,
        "unit.head_kv * run.heads_per_kv + tile % run.heads_per_kv;",
        "unit.head_kv + tile % run.heads_per_kv * run.problem.heads_kv;",
    ),
    Mistake(
        "flash: the last key of a sequence is left out",
        OPERANDS,
        "tile.seqlen_k = sequence.seqlen_k;",
        "tile.seqlen_k = sequence.seqlen_k - (sequence.seqlen_k > 1);",
    ),
    Mistake(
        "flash: the tail of a register tile is not masked",
        STAGE,
        "min(queries.first + tile.key_hi, tile.seqlen_k) >= group.key + end) {",
        "queries.first + tile.key_hi >= group.key + end) {",
    ),
    Mistake(
        "flash: the columns before a group's first key count",
        STAGE,
        "for (; column < group.end && column < lo; column += kLanes) mask(column);",
        "column = max(column, round_down(max(lo, 0), kLanes));",
    ),
    Mistake(
        "flash: a key block boundary off by one",
        KERNEL,
        "int64_t end = min(hi - key, keys);",
        "int64_t end = min(hi - key, keys - 1);",
    ),
    Mistake(
        "flash: too few key blocks for the last queries",
        KERNEL,
        "const int64_t tile_end = min(tile.queries - 1 + tile.key_hi, seqlen_k);",
        "const int64_t tile_end = min(tile.key_hi, seqlen_k);",
    ),
    Mistake(
        "flash: O begins with what the workspace held",
        KERNEL,
        "group.first = !*started;",
        "group.first = key == 0;",
    ),
    Mistake(
        "flash: LSE without the row's maximum",
        KERNEL,
        "const double m = static_cast<double>(state.m[r]) * kLn2 + left_out(tile, r);",
        "const double m = left_out(tile, r);",
    ),
    Mistake(
        "flash: LSE in units of log2",
        KERNEL,
        "static_cast<double>(state.m[r]) * kLn2 + left_out(tile, r);",
        "static_cast<double>(state.m[r]) + left_out(tile, r);",
    ),
    Mistake(
        "flash: a row without a key divides by 0",
        KERNEL,
        "IfThenElse(empty, Zero(), MulAdd(Load(from + dim), inverse, Zero()));",
        "MulAdd(Load(from + dim), inverse, Zero());",
    ),
    Mistake(
        "flash: 0 * NaN of masked values reaches the output",
        PACK,
        "args.nonfinite[begin / args.tile_k] = !AllFinite(poison);",
        "args.nonfinite[begin / args.tile_k] = 0;",
        "nonfinite",
    ),
    Mistake(
        "flash: an attended NaN in V is lost",
        DOT,
        "return bits_of(a) == 0x80000000 ? sum : add(Broadcast(a), b, sum);",
        "return AllFinite(b) ? add(Broadcast(a), b, sum) : sum;",
        "nonfinite",
    ),
    Mistake(
        "flash: bf16 products without K's scales",
        PACK,
        "factor * rows.scale_of_key(i)",
        "factor",
        isa="avx512_bf16",
    ),
    Mistake(
        "flash: P without V's scales",
        KERNEL,
        "Dot::store_p(v_scales ? Mul(weight, Load(v_scales + column)) : weight, s, column);",
        "Dot::store_p(weight, s, column);",
    ),
    Mistake(
        "flash: bf16 products though a row of V has several scales",
        FLASH,
        "!in_blocks(args.k_scale) && !in_blocks(args.v_scale)",
        "!in_blocks(args.k_scale)",
        isa="avx512_bf16",
    ),
    Mistake(
        "flash: the scale of bf16 products",
        PREFILL,
        "run.problem.scale * kLog2E",
        "run.problem.scale * 1.443f",
        isa="avx512_bf16",
    ),
    Mistake(
        "flash: the second half of a row of K is packed over the first one's place",
        DOT,
        "rows.elements(i, dim + kLanes)",
        "rows.elements(i, dim)",
        isa="avx512_bf16",
    ),
    Mistake(
        "flash: a key past the end is in the last pair",
        DOT,
        "i + 1 < n ? rows.elements(i + 1, dim) : Zero()",
        "rows.elements(i + 1, dim)",
        isa="avx512_bf16",
    ),
    Mistake(
        "flash: a masked NaN in a pair's second half reaches the output",
        DOT,
        "bits >> 16 == 0x8000 ? 0 : 0xffff0000",
        "0xffff0000",
        "nonfinite",
        isa="avx512_bf16",
    ),
    Mistake(
        "flash: a pair goes with its masked half",
        DOT,
        "bits >> 16 == 0x8000 ? 0 : 0xffff0000",
        "low << 16",
        "nonfinite",
        isa="avx512_bf16",
    ),
    Mistake(
        "flash: tiles of the second 16 rows are of the first ones",
        PRODUCT_AMX,
        "_tile_loadd(5, a + kTile * product.lda, lda);",
        "_tile_loadd(5, a, lda);",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: tiles of the second 16 columns are of the first ones",
        PRODUCT_AMX,
        "_tile_loadd(7, b + kTile, ldb);",
        "_tile_loadd(7, b, ldb);",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: tiles of O do not go on from the keys before",
        PRODUCT_AMX,
        "if constexpr (kInit == Init::kZero) {\n    _tile_zero(0);",
        "if constexpr (true) {\n    _tile_zero(0);",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: O is not rescaled before tiles are added",
        PRODUCT_AMX,
        "Store(MulAdd(Broadcast(product.alpha + r), Load(c), Zero()), c);",
        "",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: tiles of S without K's scales",
        PRODUCT_AMX,
        "Store(Mul(Load(c), Load(product.column_scales + v * kLanes)), c);",
        "Store(Mul(Load(c), Load(product.column_scales)), c);",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: the last block of items is not computed",
        PRODUCT_AMX,
        "for (int64_t k = product.k; k > 0; k -= kTile",
        "for (int64_t k = product.k; k > kTile; k -= kTile",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: a masked NaN in a tile reaches the output",
        PRODUCT_AMX,
        "AndBits(items, Dot::unmarked(from + i))",
        "items",
        "nonfinite",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: a tile's columns begin at the group's first key",
        KERNEL,
        "round_down(begin, max(kLanes, kKeyBlock))",
        "round_down(begin, kLanes)",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: a tile's columns end at the group's last key",
        KERNEL,
        "round_up(end, kKeyBlock)",
        "end",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: a block of items of V is not filled up",
        PACK,
        "key < items(keys) * Dot::kWidth; key += Dot::kWidth",
        "key < keys; key += Dot::kWidth",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: a block of items of Q is not filled up",
        KERNEL,
        "dim < padded_dim; dim += kLanes) {\n      Dot::store_q",
        "dim < head_dim; dim += kLanes) {\n      Dot::store_q",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: V's scales end with the vector",
        PACK,
        "const int64_t block = max(kLanes, kKeyBlock);",
        "const int64_t block = kLanes;",
        isa="amx_bf16",
    ),
    Mistake(
        "flash: rows past a padded query's length are left as they were",
        PREFILL,
        "clear_rows(run, sequence, rows.head, attended_end, end);",
        "",
    ),
    Mistake(
        "flash: a page's rows begin anew in the middle of a page",
        PACK,
        "int64_t row = key % pages.size;",
        "int64_t row = 0 * key;",
    ),
    Mistake(
        "flash: the wrong page",
        PACK,
        "for (int64_t i = 0; i < n; ++page, row = 0) {",
        "for (int64_t i = 0; i < n; page += 2, row = 0) {",
    ),
    Mistake(
        "flash: softcap in natural units",
        STAGE,
        "const float cap = static_cast<float>(softcap * kLog2E);",
        "const float cap = softcap;",
    ),
    Mistake(
        "flash: ALiBi without the absolute value",
        STAGE,
        "Store(MulAdd(Abs(distance), factor, Load(s + column)), s + column);",
        "Store(MulAdd(distance, factor, Load(s + column)), s + column);",
    ),
    Mistake(
        "flash: ALiBi's common part is left out of the LSE too",
        KERNEL,
        "state.m[r]) * kLn2 + left_out(tile, r);",
        "state.m[r]) * kLn2;",
    ),
    Mistake(
        "flash: the bias in natural units",
        STAGE,
        "MulAdd(addend, Set(static_cast<float>(kLog2E)), Load(s + column))",
        "Add(addend, Load(s + column))",
    ),
    Mistake(
        "flash: a bias or mask of another key block",
        STAGE,
        "(group.key - overlay.key_begin) * overlay.key_stride;  // of column 0",
        "-overlay.key_begin * overlay.key_stride;  // of column 0",
    ),
    Mistake(
        "flash: an overlay's range ends one key late",
        STAGE,
        "const int64_t hi = min(overlay.key_end - group.key, group.end);",
        "const int64_t hi = min(overlay.key_end - group.key - 1, group.end);",
    ),
    Mistake(
        "flash: a block of queries counted from the tile instead of the sequence",
        STAGE,
        "(mask.first_query + row.query) / mask.block_q * mask.q_stride;",
        "row.query / mask.block_q * mask.q_stride;",
    ),
    Mistake(
        "flash: an attended block at the end is skipped",
        STAGE,
        "*end = round_down(key + *end - 1, mask.block_k) - key;",
        "*end = round_down(key + *end - 1, mask.block_k) - key - 1;",
    ),
    Mistake(
        "flash: O is rescaled again after skipped blocks",
        KERNEL,
        "pv.alpha = kOnes.of;",
        "",
    ),
    Mistake(
        "flash: the sink in natural units",
        KERNEL,
        "(sink - left_out(tile, r)) * kLog2E;",
        "sink - left_out(tile, r);",
    ),
    # Merging.
    Mistake(
        "merge: weights with the wrong sign",
        "src/merge/kernel.h",
        "Sub(LoadU(lse[p] + r), most)",
        "Sub(most, LoadU(lse[p] + r))",
        "merge",
    ),
    Mistake(
        "merge: parts in the reverse order",
        "src/merge/kernel.h",
        "for (int64_t p = 0; p < s.count; ++p) {",
        "for (int64_t p = s.count - 1; p >= 0; --p) {",
        "merge",
    ),
    Mistake(
        "merge: NaN of a part without weight",
        MERGE,
        "const bool none = lse.lse[p][r] == -kInfinity;",
        "const bool none = false;",
        "merge",
    ),
    Mistake(
        "merge: the sink left out",
        MERGE,
        "add(sink, 1);",
        "",
        "merge",
    ),
    Mistake(
        "merge: of many parts the last ones alone",
        MERGE,
        "s.start = sums[0];",
        "",
        "merge",
    ),
    Mistake(
        "merge: the columns of a strided part from the first one on",
        MERGE,
        "+ begin * o.strides[3];",
        "+ begin * (o.strides[3] == 1);",
        "merge",
    ),
    # Chunks of keys for short queries.
    Mistake(
        "flash: the last chunk is lost",
        DECODE,
        "args.num_partials = unit.num_chunks;",
        "args.num_partials = unit.num_chunks - (unit.num_chunks > 1);",
    ),
    Mistake(
        "flash: a chunk begins where the one before it does",
        DECODE,
        "const int64_t begin = (unit.first_chunk + chunk) * run.plan.kv_chunk;",
        "const int64_t begin = (unit.first_chunk + chunk / 2 * 2) * run.plan.kv_chunk;",
    ),
    Mistake(
        "flash: chunks are merged without rescaling",
        CHUNK,
        "Mul(Load(sum), Broadcast(alpha + r));",
        "Load(sum);",
    ),
    Mistake(
        "flash: a chunk's sum goes in unscaled",
        CHUNK,
        "MulAdd(Load(addend), Broadcast(beta + r), kept)",
        "Add(Load(addend), kept)",
    ),
    Mistake(
        "flash: a key block of a chunk does not rescale O",
        CHUNK,
        "Store(Mul(Load(c + i), Broadcast(alpha + r)), c + i);",
        "Store(Load(c + i), c + i);",
    ),
    Mistake(
        "flash: each chunk has the sink",
        CHUNK,
        "begin_chunk(tile, scratch, !args.partial);",
        "begin_chunk(tile, scratch, true);",
    ),
    Mistake(
        "flash: the heads of a group swap places",
        DECODE,
        "const int64_t head = unit.head_kv * run.heads_per_kv + first;",
        "const int64_t head = (unit.head_kv ^ 1) % run.problem.heads_kv * run.heads_per_kv + "
        "first;",
    ),
    Mistake(
        "flash: rows of other heads have the first head's mask",
        STAGE,
        "row.head * overlay.head_stride",
        "0 * overlay.head_stride",
    ),
    Mistake(
        "flash: NaN in V leaks out of masked keys of a chunk",
        CHUNK,
        "if (!all_finite(tile, scratch.state)) attend_keys<Stage, true>(args, scratch);",
        "",
        "nonfinite",
    ),
    Mistake(
        "flash: S of a chunk without K's scales",
        CHUNK,
        "if (k_scales) scale_columns(group, k_scales);",
        "",
    ),
    Mistake(
        "flash: block scales of a chunk are taken for scales of keys",
        CHUNK,
        "return keys.scales.data && keys.scales.block >= keys.dim;",
        "return keys.scales.data;",
    ),
    Mistake(
        "flash: blocks without a step end a chunk",
        CHUNK,
        "} while (block->num_steps == 0 && key < args.key_end);",
        "} while (false);",
    ),
    Mistake(
        "flash: the fifth row of a group has the third one's products",
        CHUNK,
        "(scratch.q + (group.row + r) * scratch.ldq, scratch.ldq,",
        "(scratch.q + (group.row + r / 4 * 4) * scratch.ldq, scratch.ldq,",
    ),
    Mistake(
        "flash: a step's first key is that of the group",
        CHUNK,
        "p, group.lds, row + skipped,",
        "p, group.lds, row,",
    ),
    Mistake(
        "flash: all kv heads of a tile read the first one's keys",
        CHUNK,
        "step.head * keys.head_stride * element_size(keys)};",
        "0};",
    ),
    Mistake(
        "flash: all kv heads of a tile have the first one's scales",
        CHUNK,
        "if (keys.scales.data) keys.scales.data += head * keys.scales.head_stride;",
        "",
    ),
    Mistake(
        "flash: the groups of a tile's second kv head go with the first one's keys",
        CHUNK,
        "return head == 0 ? 0 : groups_end[head - 1]; }",
        "return 0; }",
    ),
    Mistake(
        "flash: the last kv heads of a sequence are left out",
        DECODE,
        "return ceil_div(run.problem.heads_kv, heads_kv);",
        "return run.problem.heads_kv / heads_kv;",
    ),
    # Promises about bits.
    Mistake(
        "flash: the key tile depends on the plan's bounds",
        FLASH,
        "plan->tile_k = problem->tile_k ? problem->tile_k : choose_tile_k(*problem);",
        "plan->tile_k = problem->max_seqlen_k > 1000 ? 64 : choose_tile_k(*problem);",
        "determinism",
    ),
    Mistake(
        "flash: the chunk depends on the plan's bounds",
        FLASH,
        "plan->kv_chunk = problem->kv_chunk ? problem->kv_chunk : choose_kv_chunk(*problem);",
        "plan->kv_chunk = problem->max_seqlen_k > 1000 ? 64 : choose_kv_chunk(*problem);",
        "determinism",
    ),
    Mistake(
        "flash: the last tile of a unit is computed twice, the first one never",
        PREFILL,
        "const int64_t tile = num_tiles_of(run, stream->unit) - left;",
        "const int64_t tile = std::min(num_tiles_of(run, stream->unit) - left + 1, "
        "num_tiles_of(run, stream->unit) - 1);",
    ),
    Mistake(
        "flash: all workers pack into the same memory",
        PREFILL,
        "worker * run.workspace.unit_size",
        "0 * run.workspace.unit_size",
        "determinism",
    ),
    Mistake(
        "flash: a group's first keys are those of its panel",
        KERNEL,
        "qk.b = args.packed_k + (group.key + panel) * dim_items + (column - panel);",
        "qk.b = args.packed_k + (group.key + panel) * dim_items;",
    ),
    Mistake(
        "tuning: the slowest value is taken",
        AUTOTUNE,
        "if (relative >= least) continue;",
        "if (relative <= 1.01) continue;",
        "autotune",
    ),
    Mistake(
        "tuning: the caller's output is written",
        AUTOTUNE,
        "  args.o = &o;\n",
        "",
        "autotune",
    ),
    Mistake(
        "tuning: a value that the backend replaces is taken for its own",
        AUTOTUNE,
        "if (value == problem_.*field || value == c.plan.*chosen) {",
        "if (true) {",
        "autotune",
    ),
    Mistake(
        "an output over a block table is accepted",
        "src/validate.cpp",
        '{"block_table", a_.block_table},',
        "",
        "errors_run",
    ),
    Mistake(
        "tasks keep their thread's floating-point modes",
        "src/context.cpp",
        "const FixedFpMode fixed;",
        "",
        "determinism",
    ),
]
