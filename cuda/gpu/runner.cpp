// runner.cpp: one case on a real GPU, for cuda/gpu/gpu.py: device primitives against the emulator,
// results against the float64 reference of abi_tests, first runs inside a graph capture, several
// streams at once, single runs for a profiler.
//
//   runner device                 what GPU there is
//   runner twins                  the emulator's side of "conformance" alone, without a GPU
//   runner list PART              the names of a part's cases
//   runner PART CASE              runs one; prints one line of JSON; exit code 1 if it is wrong
//
// "conformance" loads its kernels from the folder that ATTN_CUDA_IMAGE_DIR names.
#include <attn/attn.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "compare.h"
#include "conformance_run.h"
#include "cuda.h"

namespace attn_test {

// The harness of abi_tests without CMocka, which a machine with a GPU may lack: what its parts
// check for themselves ends the case.
void fail(const char* file, int line, const char* what) { fail(file, line, what, "%s", ""); }

void fail(const char* file, int line, const char* what, const char* format, ...) {
  std::fprintf(stderr, "%s:%d: %s: ", file, line, what);
  va_list list;
  va_start(list, format);
  std::vfprintf(stderr, format, list);
  va_end(list);
  std::exit(2);
}

void count(const std::string&) {}

namespace {

// ---- a placement on the device
// -------------------------------------------------------------------

// Copies of all tensors of a run; around each one lie bytes that must stay as they are.
class OnDevice {
 public:
  explicit OnDevice(Placement& placement) : args_(placement.args()) {
    const attn_tensor** const slots[] = {&args_.q,
                                         &args_.k,
                                         &args_.v,
                                         &args_.o,
                                         &args_.lse,
                                         &args_.seqlens_q,
                                         &args_.seqlens_k,
                                         &args_.cu_seqlens_q,
                                         &args_.cu_seqlens_k,
                                         &args_.block_table,
                                         &args_.q_start,
                                         &args_.k_start,
                                         &args_.bias,
                                         &args_.bias_k0,
                                         &args_.mask,
                                         &args_.mask_k0,
                                         &args_.alibi_slopes,
                                         &args_.sink,
                                         &args_.block_mask,
                                         &args_.k_scale,
                                         &args_.v_scale};
    copies_.reserve(std::size(slots));  // args_ points into it
    for (const attn_tensor** slot : slots) {
      if (*slot) *slot = copy(**slot);
    }
  }
  ~OnDevice() {
    for (const Copy& c : copies_) cuda.release(c.base);
    if (workspace_) cuda.release(workspace_);
  }
  OnDevice(const OnDevice&) = delete;

  attn_run_args& args() { return args_; }

  // A workspace whose content is 0xff bytes. Copies and fills go through the default stream, which
  // the stream of a run does not wait for, so they end here.
  void make_workspace(size_t size) {
    if (!workspace_) must(cuda.allocate(&workspace_, size + 64), "cuMemAlloc");
    must(cuda.fill(workspace_, 0xff, size + 64), "cuMemsetD8");
    must(cuda.wait(), "cuCtxSynchronize");
    args_.workspace = reinterpret_cast<void*>(workspace_);
    args_.workspace_size = size;
  }

  // Outputs back to the host, from where the placement reads them. "" or what was damaged.
  std::string fetch() {
    std::string damage;
    for (const Copy& c : copies_) {
      std::vector<unsigned char> all(c.size + 2 * kMargin);
      must(cuda.to_host(all.data(), c.base, all.size()), "cuMemcpyDtoH");
      for (size_t i = 0; i < kMargin; ++i) {
        if (all[i] != 0xff || all[kMargin + c.size + i] != 0xff) damage = "written beside a tensor";
      }
      const bool is_output = &c.view == args_.o || &c.view == args_.lse;
      if (is_output) {
        std::memcpy(c.host, all.data() + kMargin, c.size);
      } else if (std::memcmp(c.host, all.data() + kMargin, c.size) != 0) {
        damage = "an input was written to";
      }
    }
    return damage;
  }

 private:
  static constexpr size_t kMargin = 256;
  struct Copy {
    attn_tensor view;
    Address base;  // of the margin before it
    unsigned char* host;
    size_t size;
  };

  const attn_tensor* copy(const attn_tensor& t) {
    int64_t lowest = 0, highest = 0;
    bool empty = false;
    for (int32_t i = 0; i < t.rank; ++i) {
      const int64_t reach = (t.shape[i] - 1) * t.strides[i];
      (reach < 0 ? lowest : highest) += reach;
      empty = empty || t.shape[i] == 0;
    }
    const int64_t element = static_cast<int64_t>(attn_dtype_size(t.dtype));
    Copy c{};
    c.host = static_cast<unsigned char*>(t.data) + t.byte_offset + lowest * element;
    c.size = empty ? 0 : static_cast<size_t>((highest - lowest + 1) * element);
    must(cuda.allocate(&c.base, c.size + 2 * kMargin), "cuMemAlloc");
    must(cuda.fill(c.base, 0xff, c.size + 2 * kMargin), "cuMemsetD8");
    if (c.size) must(cuda.to_device(c.base + kMargin, c.host, c.size), "cuMemcpyHtoD");
    c.view = t;
    c.view.device_type = ATTN_DEVICE_CUDA;
    c.view.byte_offset = 0;
    c.view.data =
        reinterpret_cast<void*>(c.base + kMargin - static_cast<Address>(lowest * element));
    copies_.push_back(c);
    return &copies_.back().view;
  }

  attn_run_args args_;
  std::vector<Copy> copies_;
  Address workspace_ = 0;
};

// ---- cases
// ---------------------------------------------------------------------------------------

struct Planned {
  attn_context* context = nullptr;
  attn_plan* plan = nullptr;
  size_t workspace_size = 0;
  ~Planned() {
    attn_plan_destroy(plan);
    attn_context_destroy(context);
  }
};

// False, with the report filled, if there is nothing to run.
bool make_plan(const Placement& placement, Planned* planned, Report* report) {
  attn_error error{};
  if (attn_context_create(nullptr, &planned->context, &error) != ATTN_OK) {
    *report = failed(error.message);
    return false;
  }
  attn_plan_config config = placement.config();
  config.device_type = ATTN_DEVICE_CUDA;
  config.backend = "cuda";
  const attn_status status = attn_plan_create(planned->context, &config, &planned->plan, &error);
  if (status != ATTN_OK) {
    *report = {status == ATTN_ERROR_UNSUPPORTED ? "refused" : "fail", error.message, ""};
    return false;
  }
  attn_plan_info info = ATTN_PLAN_INFO_INIT;
  if (attn_plan_get_info(planned->plan, &info, &error) == ATTN_OK) {
    report->kernel = info.kernel;
    planned->workspace_size = info.workspace_size;
  }
  return true;
}

Report compare(const Problem& problem, const Data& data, Placement& placement, OnDevice& device,
               Report report) {
  const std::string damage = device.fetch();
  const std::string wrong = difference(problem, placement, reference(problem, data));
  if (!damage.empty() || !wrong.empty()) {
    report.status = "fail";
    report.words = damage + (damage.empty() || wrong.empty() ? "" : "; ") + wrong;
  }
  return report;
}

void* new_stream() {
  void* stream;
  must(cuda.stream_create(&stream, 1), "cuStreamCreate");  // does not wait for the default stream
  return stream;
}

Report run_once(const Problem& problem, bool compared) {
  const Data data = make_data(problem);
  Placement placement(problem, data);
  Planned planned;
  Report report;
  if (!make_plan(placement, &planned, &report)) return report;
  OnDevice device(placement);
  device.make_workspace(planned.workspace_size);
  device.args().stream = new_stream();
  attn_error error{};
  if (attn_run(planned.plan, &device.args(), &error) != ATTN_OK) return failed(error.message);
  must(cuda.stream_wait(device.args().stream), "cuStreamSynchronize");
  return compared ? compare(problem, data, placement, device, report) : report;
}

Report run_numerics(const Problem& problem) { return run_once(problem, true); }

// For a profiler: problems too large for the reference.
Report run_profile(const Problem& problem) { return run_once(problem, false); }

// The plan's first run is recorded; the graph then runs three times on a dirty workspace.
Report run_graph(const Problem& problem) {
  const Data data = make_data(problem);
  Placement placement(problem, data);
  Planned planned;
  Report report;
  if (!make_plan(placement, &planned, &report)) return report;
  OnDevice device(placement);
  device.make_workspace(planned.workspace_size);
  void* const stream = device.args().stream = new_stream();
  attn_error error{};
  void *graph, *executable;
  must(cuda.capture_begin(stream, 0), "cuStreamBeginCapture");  // 0: the strictest mode
  const attn_status status = attn_run(planned.plan, &device.args(), &error);
  must(cuda.capture_end(stream, &graph), "cuStreamEndCapture");
  if (status != ATTN_OK) return failed(error.message);
  must(cuda.instantiate(&executable, graph, 0), "cuGraphInstantiate");
  for (int i = 0; i < 3; ++i) {
    device.make_workspace(planned.workspace_size);
    must(cuda.graph_launch(executable, stream), "cuGraphLaunch");
    must(cuda.stream_wait(stream), "cuStreamSynchronize");
  }
  return compare(problem, data, placement, device, report);
}

// Four threads, each with a stream, a workspace and outputs of its own, share one plan.
Report run_streams(const Problem& problem) {
  constexpr int kThreads = 4, kRuns = 20;
  const Data data = make_data(problem);
  std::vector<std::unique_ptr<Placement>> placements;
  for (int i = 0; i < kThreads; ++i)
    placements.push_back(std::make_unique<Placement>(problem, data));
  Planned planned;
  Report report;
  if (!make_plan(*placements[0], &planned, &report)) return report;
  void* const context = open_device();
  std::vector<Report> reports(kThreads, report);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      must(cuda.set_current(context), "cuCtxSetCurrent");
      OnDevice device(*placements[i]);
      device.make_workspace(planned.workspace_size);
      device.args().stream = new_stream();
      attn_error error{};
      for (int run = 0; run < kRuns; ++run) {
        if (attn_run(planned.plan, &device.args(), &error) != ATTN_OK) {
          reports[i] = failed(error.message);
          return;
        }
      }
      must(cuda.stream_wait(device.args().stream), "cuStreamSynchronize");
      reports[i] = compare(problem, data, *placements[i], device, report);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Report& one : reports) {
    if (one.status != "pass") return one;
  }
  return report;
}

using Cases = std::map<std::string, Problem>;

void set_types(Problem& p, attn_dtype dtype) {
  p.q_dtype = p.k_dtype = p.v_dtype = p.o_dtype = dtype;
}

// Plain problems of every type and head size, around the kernels' tiles.
Cases plain_cases() {
  Cases cases;
  for (const attn_dtype dtype : {ATTN_DTYPE_F16, ATTN_DTYPE_BF16, ATTN_DTYPE_F32}) {
    for (const int64_t dim : {64, 72, 96, 128, 192, 256}) {
      for (const bool causal : {false, true}) {
        for (const int64_t seqlen : {1, 130, 600}) {
          Problem p;
          p.heads_q = 4;
          p.heads_kv = 2;
          p.head_dim = p.head_dim_v = dim;
          p.seqlens_q = {seqlen, seqlen};
          p.seqlens_k = {seqlen + 37, seqlen + 37};
          p.causal = causal;
          set_types(p, dtype);
          p.name = std::string(attn_dtype_name(dtype)) + "-d" + std::to_string(dim) +
                   (causal ? "-causal-" : "-full-") + std::to_string(seqlen);
          cases[p.name] = p;
        }
      }
    }
  }
  return cases;
}

// The grid of the CPU's tests, in each type that a GPU kernel has.
Cases grid_cases() {
  Cases cases = plain_cases();
  int number = 0;
  for (Problem p : pairwise_problems(1)) {
    if (p.head_dim > 256 || p.head_dim_v > 256) continue;
    const attn_dtype dtypes[] = {ATTN_DTYPE_F16, ATTN_DTYPE_BF16, ATTN_DTYPE_F32};
    set_types(p, dtypes[number % 3]);
    p.bias_dtype = ATTN_DTYPE_F32;
    p.tile_k = 0;
    char name[32];
    std::snprintf(name, sizeof name, "grid-%04d", number++);
    p.name = name;
    cases[name] = p;
  }
  return cases;
}

Cases named_cases(std::initializer_list<const char*> names) {
  Cases all = plain_cases(), few;
  for (const char* name : names) few[name] = all.at(name);
  return few;
}

Cases few_cases() {
  return named_cases({"f16-d64-causal-600", "bf16-d128-full-600", "bf16-d128-causal-600",
                      "f16-d256-causal-130", "f32-d64-causal-130"});
}

// Small: a sanitizer makes a kernel hundreds of times slower.
Cases small_cases() {
  return named_cases({"f16-d64-causal-130", "bf16-d128-full-130", "bf16-d128-causal-130",
                      "f16-d256-causal-130", "f32-d64-causal-130"});
}

// The main kernels, each with enough work for all multiprocessors.
Cases profile_cases() {
  Cases cases;
  const auto add = [&](const char* name, attn_dtype dtype, int64_t dim, int64_t seqlen,
                       auto change) {
    Problem p;
    p.name = name;
    p.heads_q = p.heads_kv = 2048 / dim;
    p.head_dim = p.head_dim_v = dim;
    p.seqlens_q = p.seqlens_k = {seqlen};
    set_types(p, dtype);
    change(p);
    cases[name] = p;
  };
  const auto causal = [](Problem& p) { p.causal = true; };
  add("bf16-d64-causal-4096", ATTN_DTYPE_BF16, 64, 4096, causal);
  add("bf16-d128-causal-4096", ATTN_DTYPE_BF16, 128, 4096, causal);
  add("bf16-d128-full-4096", ATTN_DTYPE_BF16, 128, 4096, [](Problem&) {});
  add("bf16-d256-causal-4096", ATTN_DTYPE_BF16, 256, 4096, causal);
  // The mma.sync family.
  add("bf16-d128-bias-2048", ATTN_DTYPE_BF16, 128, 2048, [](Problem& p) {
    p.bias.present = true;
    p.bias.broadcast = 0b0011;  // the same for all sequences and heads
  });
  add("f32-d128-causal-2048", ATTN_DTYPE_F32, 128, 2048, causal);
  // One query each, K and V split in chunks, which a second kernel combines.
  add("bf16-d128-decode-8192", ATTN_DTYPE_BF16, 128, 8192, [](Problem& p) {
    p.heads_q = 32;
    p.heads_kv = 8;
    p.seqlens_q = {1, 1};
    p.seqlens_k = {8192, 8192};
    p.kv_chunk = 512;
  });
  return cases;
}

struct Part {
  Cases (*cases)();
  Report (*run)(const Problem&);
};
const std::map<std::string, Part> kParts = {{"numerics", {grid_cases, run_numerics}},
                                            {"graph", {few_cases, run_graph}},
                                            {"streams", {few_cases, run_streams}},
                                            {"profile", {profile_cases, run_profile}},
                                            {"sanitizer", {small_cases, run_numerics}}};

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c == '\n' ? ' ' : c;
  }
  return result + "\"";
}

int tell(const Report& report) {
  std::printf("{\"status\": %s, \"words\": %s, \"kernel\": %s}\n", quoted(report.status).c_str(),
              quoted(report.words).c_str(), quoted(report.kernel).c_str());
  return report.status == "fail";
}

int tell_device() {
  open_cuda();
  int device, version;
  char name[128], words[160];
  must(cuda.device_get(&device, 0), "cuDeviceGet");
  must(cuda.device_name(name, sizeof name, device), "cuDeviceGetName");
  must(cuda.driver_version(&version), "cuDriverGetVersion");
  std::snprintf(words, sizeof words, "%s, driver for CUDA %d.%d", name, version / 1000,
                version % 1000 / 10);
  return tell({"pass", words, ""});
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  const std::string what = argc > 1 ? argv[1] : "", which = argc > 2 ? argv[2] : "";
  const std::string part_name = what == "list" ? which : what;
  const auto part = kParts.find(part_name);
  if (argc == 2 && what == "device") return tell_device();
  if (argc == 2 && what == "twins") return tell(check_twins());
  if (argc != 3 || (part == kParts.end() && part_name != "conformance")) {
    std::fprintf(stderr, "usage: runner device | twins | list PART | PART CASE\n");
    return 2;
  }
  const Cases cases = part == kParts.end() ? Cases{} : part->second.cases();
  std::vector<std::string> names = conformance_cases();
  if (part != kParts.end()) {
    names.clear();
    for (const auto& [name, problem] : cases) names.push_back(name);
  }
  if (what == "list") {
    for (const std::string& name : names) std::puts(name.c_str());
    return 0;
  }
  if (std::find(names.begin(), names.end(), which) == names.end()) {
    std::fprintf(stderr, "runner: no case %s in %s\n", argv[2], argv[1]);
    return 2;
  }
  open_cuda();
  open_device();
  return tell(part == kParts.end() ? run_conformance(which) : part->second.run(cases.at(which)));
}
