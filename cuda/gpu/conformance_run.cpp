// conformance_run.cpp: inputs, both launches, and the comparison.
#include "conformance_run.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>

// The kernels themselves, for the emulator.
#include "conformance_sm80.cu"
#include "conformance_sm90.cu"

namespace attn_test {
namespace {

using namespace attn::cuda;
using Words = std::vector<uint32_t>;

struct ConformanceCase {
  const char* name;
  const char* module;
  int threads;
  int shared_bytes;
  Input input;
  Compare compare;
  int box_rows, box_heads;
  void (*twin)(ConformanceParams);
};

#define ATTN_CASE(symbol, module, threads, shared, input, compare, rows, heads) \
  {#symbol, module, threads, shared, Input::input, Compare::compare, rows, heads, symbol},
#define ATTN_CASE_SM80(symbol, ...) ATTN_CASE(symbol, "conformance_sm80", __VA_ARGS__)
#define ATTN_CASE_SM90(symbol, ...) ATTN_CASE(symbol, "conformance_sm90", __VA_ARGS__)
// A [64][64], then B in tiles of 64 columns: 64 rows each, or one tile of as many rows as B has
// columns.
#define ATTN_CASE_WGMMA(symbol, T, n, major, registers)                                           \
  ATTN_CASE_SM90(symbol, 128, 8192 + (Major::major == Major::K ? n * 128 : (n + 63) / 64 * 8192), \
                 k##T, kBits, 1, 1)
const ConformanceCase kCases[] = {ATTN_CONFORMANCE_SM80(ATTN_CASE_SM80) ATTN_CONFORMANCE_SM90(
    ATTN_CASE_SM90) ATTN_CONFORMANCE_WGMMA(ATTN_CASE_WGMMA)};

Words input_of(const ConformanceCase& c) {
  attn::emulator::Random random(7);
  Words words(kInputWords);
  for (uint32_t& word : words) {
    word = static_cast<uint32_t>(random.next());
    const auto integer = [](uint32_t bits) { return static_cast<float>(bits % 13) - 6; };
    if (c.input == Input::kF16) word = F16::pack(integer(word >> 8), integer(word >> 20));
    if (c.input == Input::kBF16) word = BF16::pack(integer(word >> 8), integer(word >> 20));
    if (c.input == Input::kF32) word = bits_of(integer(word >> 8));
  }
  return words;
}

// "" or what went wrong.
std::string run_twin(const ConformanceCase& c, const Words& in, uint64_t seed, Words* out) {
  const auto map_of = [&](const void* data) {
    attn::emulator::TensorDescription d{};
    d.data = static_cast<char*>(const_cast<void*>(data));
    const int64_t row = kRowStride * 2;
    const int64_t strides[] = {row, row * kRowsOfTensor, row * kRowsOfTensor * kHeads};
    const int dims[] = {kColumns, kRowsOfTensor, kHeads, kOuter};
    const int box[] = {64, c.box_rows, c.box_heads, 1};
    std::copy(strides, strides + 3, d.strides);
    std::copy(dims, dims + 4, d.dims);
    std::copy(box, box + 4, d.box);
    TensorMap map{};
    std::memcpy(&map, &d, sizeof d);
    return map;
  };
  out->assign(kOutputWords, ~0u);
  const ConformanceParams params{map_of(in.data()), map_of(out->data()), in.data(), out->data()};
  const attn::emulator::Launch launch{.block = {static_cast<unsigned>(c.threads)},
                                      .shared_bytes = static_cast<uint32_t>(c.shared_bytes),
                                      .seed = seed};
  return attn::emulator::run(launch, [&] { c.twin(params); });
}

void encode_map(const ConformanceCase& c, Address data, TensorMap* map) {
  const uint64_t row = kRowStride * 2;
  const uint64_t dims[] = {kColumns, kRowsOfTensor, kHeads, kOuter};
  const uint64_t strides[] = {row, row * kRowsOfTensor, row * kRowsOfTensor * kHeads};
  const uint32_t box[] = {64, static_cast<uint32_t>(c.box_rows), static_cast<uint32_t>(c.box_heads),
                          1};
  const uint32_t steps[] = {1, 1, 1, 1};
  // bf16, no interleave, a swizzle of 128 bytes, promotion to 256 bytes, zeros out of bounds: as
  // the plugin's own.
  must(cuda.encode_map(map, 9, 4, reinterpret_cast<void*>(data), dims, strides, box, steps, 0, 3, 3,
                       0),
       "cuTensorMapEncodeTiled");
}

// The image of a module for this device: "" if there is none.
std::string image_of(const char* module) {
  int major, minor;
  must(cuda.device_attribute(&major, 75, 0), "cuDeviceGetAttribute");
  must(cuda.device_attribute(&minor, 76, 0), "cuDeviceGetAttribute");
  const char* folder = std::getenv("ATTN_CUDA_IMAGE_DIR");
  const std::string target = major == 9 && minor == 0 ? "sm_90a.cubin"
                             : major == 8             ? "sm_80.cubin"
                                                      : "compute_80.ptx";
  std::ifstream file(std::string(folder ? folder : ".") + "/" + module + "." + target,
                     std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

Words run_gpu(const ConformanceCase& c, const std::string& image, const Words& in) {
  void *module, *function;
  must(cuda.load_module(&module, image.c_str(), 0, nullptr, nullptr), "cuModuleLoadDataEx");
  must(cuda.get_function(&function, module, c.name), "cuModuleGetFunction");
  // 8: CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
  must(cuda.set_function_attribute(function, 8, c.shared_bytes), "cuFuncSetAttribute");
  Address from, to;
  must(cuda.allocate(&from, kInputWords * 4), "cuMemAlloc");
  must(cuda.allocate(&to, kOutputWords * 4), "cuMemAlloc");
  must(cuda.to_device(from, in.data(), kInputWords * 4), "cuMemcpyHtoD");
  must(cuda.fill(to, 0xff, kOutputWords * 4), "cuMemsetD8");
  ConformanceParams params{
      {}, {}, reinterpret_cast<const uint32_t*>(from), reinterpret_cast<uint32_t*>(to)};
  if (std::strcmp(c.module, "conformance_sm90") == 0) {
    encode_map(c, from, &params.in_map);
    encode_map(c, to, &params.out_map);
  }
  void* arguments[] = {&params};
  must(cuda.launch(function, 1, 1, 1, static_cast<unsigned>(c.threads), 1, 1,
                   static_cast<unsigned>(c.shared_bytes), nullptr, arguments, nullptr),
       "cuLaunchKernel");
  must(cuda.stream_wait(nullptr), "cuStreamSynchronize");
  Words out(kOutputWords);
  must(cuda.to_host(out.data(), to, kOutputWords * 4), "cuMemcpyDtoH");
  must(cuda.release(from), "cuMemFree");
  must(cuda.release(to), "cuMemFree");
  return out;
}

bool same(Compare compare, uint32_t actual, uint32_t expected) {
  if (actual == expected) return true;
  if (compare == Compare::kBits) return false;
  const float a = float_of(actual), e = float_of(expected);
  return std::fabs(a - e) <= 0x1p-20f * std::fabs(e);  // false for NaN
}

std::string difference(const ConformanceCase& c, const Words& actual, const Words& expected) {
  int wrong = 0;
  std::string words;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (same(c.compare, actual[i], expected[i])) continue;
    if (++wrong > 1) continue;
    char text[96];
    std::snprintf(text, sizeof text, "first word %zu: %08x, expected %08x", i, actual[i],
                  expected[i]);
    words = text;
  }
  return wrong == 0 ? "" : std::to_string(wrong) + " words differ; " + words;
}

}  // namespace

std::vector<std::string> conformance_cases() {
  std::vector<std::string> names;
  for (const ConformanceCase& c : kCases) names.push_back(c.name);
  return names;
}

Report run_conformance(const std::string& name) {
  const ConformanceCase& c =
      *std::find_if(std::begin(kCases), std::end(kCases),
                    [&](const ConformanceCase& each) { return name == each.name; });
  const std::string image = image_of(c.module);
  if (image.empty()) {
    return {"refused", std::string("no image of ") + c.module + " for this GPU", ""};
  }
  const Words in = input_of(c);
  Words expected;
  const std::string error = run_twin(c, in, 1, &expected);
  if (!error.empty()) return failed("the emulator: " + error);
  const std::string wrong = difference(c, run_gpu(c, image, in), expected);
  return wrong.empty() ? Report{} : failed(wrong);
}

Report check_twins() {
  for (const ConformanceCase& c : kCases) {
    const Words in = input_of(c);
    Words first, out;
    for (uint64_t seed = 1; seed <= 6; ++seed) {
      const std::string error = run_twin(c, in, seed, &out);
      if (!error.empty()) return failed(std::string(c.name) + ": " + error);
      if (seed == 1) first = out;
      const std::string wrong = difference(c, out, first);
      if (!wrong.empty()) return failed(std::string(c.name) + ", another seed: " + wrong);
    }
    const auto untouched = std::count(first.begin(), first.end(), ~0u);
    if (untouched == kOutputWords) return failed(std::string(c.name) + " wrote nothing");
  }
  return {"pass", std::to_string(std::size(kCases)) + " cases", ""};
}

}  // namespace attn_test
