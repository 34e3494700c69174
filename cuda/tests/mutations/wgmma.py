#!/usr/bin/env python3
"""The mistakes that are planted in the wgmma kernels; see planting.py for how to run this."""

import sys

from planting import Family, Mistake, run

LOOP = "wgmma_mainloop.cuh"
SOFTMAX = "wgmma_softmax.cuh"
WORK = "wgmma_scheduler.cuh"
EPILOGUE = "wgmma_epilogue.cuh"
KERNEL = "wgmma_kernel.cuh"
TILE = "wgmma_tile.cuh"
PARTIAL = "output.cuh"

MISTAKES = [
    # Phases and barriers.
    Mistake("a ring keeps its parity", TILE, "parity ^= 1;", "parity ^= 0;"),
    Mistake(
        "the loader waits for the other parity",
        LOOP,
        "barrier_wait(empty, ring.parity ^ 1);",
        "barrier_wait(empty, ring.parity);",
    ),
    Mistake(
        "K is not waited for",
        LOOP,
        "barrier_wait(Tile::barrier(Tile::kKFull, k_ring.stage), k_ring.parity);",
        "",
    ),
    Mistake(
        "V is waited for in the other parity",
        LOOP,
        "barrier_wait(Tile::barrier(Tile::kVFull, v_ring.stage), v_ring.parity);",
        "barrier_wait(Tile::barrier(Tile::kVFull, v_ring.stage), v_ring.parity ^ 1);",
    ),
    Mistake(
        "Q is not waited for",
        LOOP,
        "barrier_wait(Tile::barrier(Tile::kQFull, consumer), q_ring.parity);",
        "",
    ),
    Mistake(
        "V's barrier counts too few arrivals",
        KERNEL,
        "barrier_init(Tile::barrier(Tile::kVEmpty, i), Tile::ConsumerWarps);",
        "barrier_init(Tile::barrier(Tile::kVEmpty, i), Tile::ConsumerWarps / 2);",
    ),
    Mistake(
        "the mailbox does not wait for the loader",
        KERNEL,
        "Tile::ConsumerWarps + 1);  // and the loader",
        "Tile::ConsumerWarps);",
    ),
    Mistake(
        "lanes of the scheduler run ahead of one another",
        WORK,
        "    warp_sync();  // a lane that looked late",
        "    // a lane that looked late",
    ),
    Mistake(
        "nobody begins taking turns",
        KERNEL,
        "if (index == Tile::Consumers - 1) consumer.pass_turn();",
        "",
    ),
    Mistake(
        "too many bytes of Q are expected",
        LOOP,
        "Tile::Boxes * queries * attend.gqa_pack * kBoxRowBytes",
        "Tile::Boxes * kRows * kBoxRowBytes",
    ),
    Mistake(
        "bytes of pages that are not loaded are expected",
        LOOP,
        "pieces * boxes * kv_box * kBoxRowBytes",
        "Tile::TileK * boxes * kBoxRowBytes",
    ),
    # What is under way.
    Mistake(
        "K is given back before S is done",
        LOOP,
        "wgmma_wait<1>(s);\n      release_k();",
        "release_k();\n      wgmma_wait<1>(s);",
        "the loader has to wake, load and have the first bytes land before the very next "
        "instruction of the consumer: the same mistake on V, whose wait is longer, is noticed",
    ),
    Mistake("S is used before it is done", LOOP, "wgmma_wait<1>(s);", "wgmma_wait<2>(s);"),
    Mistake(
        "P is written while wgmma reads it",
        LOOP,
        "wgmma_wait<0>(o);\n      release_v();\n      pack_probabilities<Tile>(p, s);",
        "pack_probabilities<Tile>(p, s);\n      wgmma_wait<0>(o);\n      release_v();",
    ),
    Mistake(
        "V is given back before O is done",
        LOOP,
        "wgmma_wait<0>(o);\n      release_v();\n      pack",
        "release_v();\n      wgmma_wait<0>(o);\n      pack",
    ),
    Mistake(
        "no fence before the store of O",
        EPILOGUE,
        "fence_async_shared();\n    named_barrier_sync(kStoreBarrier + consumer, kWarpgroup);\n"
        "    const bool whole",
        "named_barrier_sync(kStoreBarrier + consumer, kWarpgroup);\n    const bool whole",
    ),
    Mistake(
        "no barrier before the store of O",
        EPILOGUE,
        "fence_async_shared();\n    named_barrier_sync(kStoreBarrier + consumer, kWarpgroup);",
        "fence_async_shared();",
    ),
    Mistake("Q is given back while O is read from it", EPILOGUE, "tensor_store_wait_read();", ""),
    Mistake("no fence after V's tail is zeroed", LOOP, "    fence_async_shared();\n", ""),
    Mistake(
        "no barrier after V's tail is zeroed",
        LOOP,
        "    named_barrier_sync(kTailBarrier, Tile::Consumers * kWarpgroup);\n",
        "",
    ),
    # Addresses.
    Mistake("O's swizzle", EPILOGUE, "^ row % 8) * 16", "^ row % 4) * 16"),
    Mistake(
        "a step of Q is twice as long", LOOP, "bytes = step % 4 * 32;", "bytes = step % 4 * 64;"
    ),
    Mistake(
        "V's boxes are where Q's would be",
        LOOP,
        "wgmma_descriptor(Tile::v(v_ring.stage), Tile::KBoxBytes);",
        "wgmma_descriptor(Tile::v(v_ring.stage), Tile::QBoxBytes);",
    ),
    Mistake(
        "K of the wrong head",
        LOOP,
        "work.head * attend.gqa_pack / (attend.heads_q / attend.heads_kv);",
        "work.head * attend.gqa_pack % attend.heads_kv;",
    ),
    Mistake("a page's row", LOOP, "row %= attend.page_size;", "row %= attend.page_size * 2;"),
    Mistake(
        "packed rows of Q in the other order",
        SOFTMAX,
        "work.q_begin + consumer * queries + index % queries",
        "work.q_begin + consumer * queries + index / attend.gqa_pack % queries",
    ),
    # Softmax and masks.
    Mistake(
        "the sum is not rescaled",
        SOFTMAX,
        "sum[i] = sum[i] * factor[i] + total;",
        "sum[i] = sum[i] + total;",
    ),
    Mistake(
        "O is rescaled with the other row's factor", LOOP, "factor[i / 2 % 2]", "factor[i % 2]"
    ),
    Mistake(
        "rows without a key",
        SOFTMAX,
        "m == -kInfinity ? 0.0f : m * scale",
        "m * scale",
    ),
    Mistake(
        "the last key is masked", SOFTMAX, "if (8 * c + j >= high)", "if (8 * c + j + 1 >= high)"
    ),
    Mistake("one key too many", SOFTMAX, "if (8 * c + j >= high)", "if (8 * c + j > high)"),
    Mistake("a window's first key", SOFTMAX, "8 * c + j < low)", "8 * c + j <= low)"),
    Mistake(
        "tiles on the diagonal are not masked",
        SOFTMAX,
        "return key + Tile::TileK > clear_to ||",
        "return key > clear_to ||",
    ),
    Mistake(
        "what all rows see is the last row's",
        SOFTMAX,
        "clear_to = attended_keys(attend, work.sequence, first).end;",
        "clear_to = attended_keys(attend, work.sequence, first + queries - 1).end;",
    ),
    Mistake("softcap without its factor", SOFTMAX, "cap - 2 * cap *", "cap - cap *"),
    # The scheduler.
    Mistake(
        "the last group of heads is as large as the others",
        WORK,
        "const int part = rest / min_of(shared, units - first);",
        "const int part = rest / shared;",
    ),
    Mistake(
        "short tiles first",
        WORK,
        "w.q_begin = (tiles_q - 1 - part / attend.num_chunks) * queries;",
        "w.q_begin = part / attend.num_chunks * queries;",
    ),
    Mistake(
        "one tile of keys too few",
        WORK,
        "w.last = (end + Tile::TileK - 1) / Tile::TileK;",
        "w.last = max_of(w.first + 1, end / Tile::TileK);",
    ),
    Mistake("a bad page goes unseen", WORK, "page < 0 || page >= attend.num_pages", "page < 0"),
    # Results.
    Mistake(
        "a tile store over the next sequence",
        EPILOGUE,
        "attend.q_layout != ATTN_LAYOUT_PACKED || q_begin() + queries <= q_extent();",
        "true;",
    ),
    Mistake(
        "a row over the next sequence",
        EPILOGUE,
        "if (query >= q_extent() || column >= attend.head_dim_v) continue;",
        "if (query > q_extent() || column >= attend.head_dim_v) continue;",
    ),
    Mistake(
        "NaN of masked values stays",
        EPILOGUE,
        "odd[i] = ballot(check != check);",
        "odd[i] = ballot(false);",
    ),
    Mistake(
        "V beyond a length is not zeroed",
        LOOP,
        "if (rows <= 0 || to_the_end) return;",
        "return;",
    ),
    Mistake(
        "rows past a length keep what they got",
        EPILOGUE,
        "const bool empty = !real || factor == 0;",
        "const bool empty = factor == 0;",
    ),
    Mistake(
        "rows past a length are NaN for bad keys",
        EPILOGUE,
        "const bool bad = real && work.state == kBadWork;",
        "const bool bad = work.state == kBadWork;",
    ),
    Mistake(
        "columns of O are next to each other",
        EPILOGUE,
        "row + column * attend.o.strides[3]",
        "row + column",
    ),
    Mistake(
        "a chunk's rows",
        PARTIAL,
        "return chunk * params.partial_chunk_rows",
        "return chunk * int64_t{7}",
    ),
]

if __name__ == "__main__":
    sys.exit(
        run(Family("wgmma", ["test_wgmma.cpp"], "wgmma_launch.cpp", ["", "2"], 180, True), MISTAKES)
    )
