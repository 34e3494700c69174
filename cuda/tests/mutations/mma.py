#!/usr/bin/env python3
"""Plants mistakes in a copy of the mma.sync kernels, one at a time, and expects the emulator tests
to notice.

    mma.py [--only REGEX] [--compiler CXX] [-j JOBS]

Exits with 1 if a mistake goes unnoticed or does not apply any more, or if the copy without mistakes
does not pass.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]
LIMIT = 180  # seconds for one run of the tests


class Mistake(NamedTuple):
    what: str
    file: str  # in cuda/kernels
    old: str  # stands exactly once
    new: str


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
]

FLAGS = ["-std=c++20", "-w", "-ffp-contract=off", "-DATTN_TEST_FEW_KERNELS"]


def build_objects(compiler: str, objects: Path) -> None:
    cuda = ROOT / "cuda"
    files = [*sorted((cuda / "emulator").glob("*.cpp"))]
    files += [cuda / "tests/test_mma.cpp", cuda / "tests/attention.cpp"]
    for file in files:
        command = [compiler, *FLAGS, "-O2", "-I", str(ROOT / "include"), "-c", str(file)]
        subprocess.run([*command, "-o", str(objects / f"{file.stem}.o")], check=True)


def build(compiler: str, objects: Path, tree: Path) -> Path | None:
    """The test program of a tree; objects of what has no mistakes are shared."""
    program = tree / "test"
    command = [compiler, *FLAGS, "-O1", "-I", str(ROOT / "include"), "-x", "c++"]
    command += [str(tree / "cuda/tests/mma_kernels_few.cpp"), "-x", "none"]
    command += [*map(str, sorted(objects.glob("*.o"))), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stderr)
        return None
    return program


def complaint(program: Path) -> str:
    """What the tests say first; "" if they pass."""
    environment = {**os.environ, "ATTN_TEST_FIRST_FAILURE": "1"}
    try:
        done = subprocess.run(
            [str(program)], env=environment, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return "DOES NOT END"
    if done.returncode == 0:
        return ""
    lines = done.stdout.splitlines()
    return lines[0] if lines else f"exit status {done.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only mistakes whose name matches this")
    parser.add_argument("--compiler", default=os.environ.get("CXX", "c++"))
    parser.add_argument("-j", type=int, default=2, help="at a time")
    options = parser.parse_args()
    mistakes = [m for m in MISTAKES if re.search(options.only, m.what)]
    with tempfile.TemporaryDirectory(prefix="attn-mma-mutations-") as name:
        folder = Path(name)
        objects = folder / "objects"
        objects.mkdir()
        build_objects(options.compiler, objects)

        def judge(number: int, mistake: Mistake | None) -> str:
            tree = folder / str(number)
            shutil.copytree(ROOT / "cuda", tree / "cuda", ignore=shutil.ignore_patterns("build"))
            if mistake:
                path = tree / "cuda/kernels" / mistake.file
                text = path.read_text()
                if text.count(mistake.old) != 1:
                    return "DOES NOT APPLY"
                path.write_text(text.replace(mistake.old, mistake.new))
            program = build(options.compiler, objects, tree)
            words = complaint(program) if program else "DOES NOT BUILD"
            shutil.rmtree(tree)
            return words

        clean = judge(0, None)
        if clean:
            sys.exit(f"the tests fail without any mistake: {clean}")
        failures = 0
        with ThreadPoolExecutor(options.j) as pool:
            start = time.monotonic()
            results = pool.map(judge, range(1, len(mistakes) + 1), mistakes)
            for mistake, words in zip(mistakes, results, strict=True):
                noticed = words and not words.startswith("DOES NOT")
                failures += not noticed
                verdict = "noticed" if noticed else words or "NOT NOTICED"
                seconds = time.monotonic() - start
                print(f"{verdict:14} {seconds:5.0f} s  {mistake.what}: {words[:150]}", flush=True)
    print(f"{len(mistakes) - failures} noticed, {failures} not, of {len(mistakes)} mistakes")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
