// run.cpp: the test vectors (vectors.txt tells what they are) from C++, through attn.hpp.
#include <attn/attn.hpp>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "../compare.h"
#include "../storage.h"

namespace attn_test {
namespace {

struct Output {
  attn_tensor* tensor;
  std::vector<unsigned char>* memory;
  int64_t columns = 0;
  std::vector<double> values, tolerances;
};

struct Case {
  std::string name;
  attn::PlanConfig plan;
  attn::RunArgs args;
  std::deque<attn_tensor> tensors;
  std::deque<std::vector<unsigned char>> memory;
  std::vector<std::string> output_names;
  std::map<std::string, Output> outputs;
};

template <class T>
T next(std::istringstream& line) {
  T value;
  if (!(line >> value)) throw std::runtime_error("a word is missing");
  return value;
}

template <class T>
std::vector<T> next_bytes(std::istringstream& line, size_t count) {
  const auto digits = next<std::string>(line);
  std::vector<T> values(count);
  if (count == 0) return values;
  if (digits.size() != 2 * count * sizeof(T)) throw std::runtime_error("wrong number of bytes");
  for (size_t i = 0; i < count * sizeof(T); i++) {
    const int byte = std::stoi(digits.substr(2 * i, 2), nullptr, 16);
    reinterpret_cast<unsigned char*>(values.data())[i] = static_cast<unsigned char>(byte);
  }
  return values;
}

void read_plan_field(Case& c, std::istringstream& line) {
  const auto name = next<std::string>(line);
#define FIELD(field) \
  if (name == #field) return void(c.plan.field = next<decltype(c.plan.field)>(line))
  FIELD(features);
  FIELD(q_dtype);
  FIELD(k_dtype);
  FIELD(v_dtype);
  FIELD(o_dtype);
  FIELD(bias_dtype);
  FIELD(q_layout);
  FIELD(kv_layout);
  FIELD(alignment);
  FIELD(scale);
  FIELD(softcap);
  FIELD(page_size);
  FIELD(block_q);
  FIELD(block_k);
  FIELD(heads_q);
  FIELD(heads_kv);
  FIELD(head_dim);
  FIELD(head_dim_v);
  FIELD(max_batch);
  FIELD(max_seqlen_q);
  FIELD(max_seqlen_k);
  FIELD(max_total_q);
  FIELD(max_total_k);
  FIELD(window_left);
  FIELD(window_right);
#undef FIELD
  throw std::runtime_error("no plan field " + name);
}

void point_at(Case& c, const std::string& name, const attn_tensor* tensor) {
#define FIELD(field) \
  if (name == #field) return void(c.args.field = tensor)
  FIELD(q);
  FIELD(k);
  FIELD(v);
  FIELD(o);
  FIELD(lse);
  FIELD(seqlens_q);
  FIELD(seqlens_k);
  FIELD(cu_seqlens_q);
  FIELD(cu_seqlens_k);
  FIELD(block_table);
  FIELD(q_start);
  FIELD(k_start);
  FIELD(bias);
  FIELD(bias_k0);
  FIELD(mask);
  FIELD(mask_k0);
  FIELD(alibi_slopes);
  FIELD(sink);
  FIELD(block_mask);
  FIELD(k_scale);
  FIELD(v_scale);
#undef FIELD
  throw std::runtime_error("no tensor " + name);
}

void read_tensor(Case& c, std::istringstream& line, bool output) {
  const auto name = next<std::string>(line);
  attn::Tensor tensor(nullptr, next<attn_dtype>(line), {});
  tensor.rank = next<int32_t>(line);
  for (int32_t d = 0; d < tensor.rank; d++) tensor.shape[d] = next<int64_t>(line);
  for (int32_t d = 0; d < tensor.rank; d++) tensor.strides[d] = next<int64_t>(line);
  const size_t size = attn_dtype_size(tensor.dtype);
  tensor.byte_offset = next<uint64_t>(line) * size;
  const size_t bytes = next<size_t>(line) * size;
  auto& memory = c.memory.emplace_back(output ? std::vector<unsigned char>(bytes)
                                              : next_bytes<unsigned char>(line, bytes));
  tensor.data = memory.data();
  c.tensors.push_back(tensor);
  point_at(c, name, &c.tensors.back());
  if (!output) return;
  c.output_names.push_back(name);
  c.outputs[name] = {&c.tensors.back(), &memory, 0, {}, {}};
}

void read_expected(Case& c, std::istringstream& line) {
  Output& output = c.outputs.at(next<std::string>(line));
  const auto rows = next<size_t>(line);
  output.columns = next<int64_t>(line);
  output.values = next_bytes<double>(line, rows * static_cast<size_t>(output.columns));
  output.tolerances = next_bytes<double>(line, rows);
}

// Element n in row-major order.
double element(const attn_tensor& t, int64_t n) {
  const unsigned char* at = static_cast<const unsigned char*>(t.data) + t.byte_offset;
  for (int32_t d = t.rank - 1; d >= 0; d--) {
    at += n % t.shape[d] * t.strides[d] * static_cast<int64_t>(attn_dtype_size(t.dtype));
    n /= t.shape[d];
  }
  return load(t.dtype, at);
}

void compare(const Case& c, const std::string& target) {
  for (const auto& [name, output] : c.outputs) {
    for (size_t n = 0; n < output.values.size(); n++) {
      const double actual = element(*output.tensor, static_cast<int64_t>(n));
      const double tolerance = output.tolerances[n / static_cast<size_t>(output.columns)];
      CHECK(close(actual, output.values[n], tolerance),
            "%s on %s: %s[%zu] is %.9g, expected %.9g within %.3g", c.name.c_str(), target.c_str(),
            name.c_str(), n, actual, output.values[n], tolerance);
    }
  }
}

uint64_t hash_of(const Case& c) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const std::string& name : c.output_names) {
    for (const unsigned char byte : *c.outputs.at(name).memory) {
      hash = (hash ^ byte) * 0x100000001b3u;
    }
  }
  return hash;
}

// One for each available instruction set.
std::vector<attn::Context> contexts() {
  std::vector<attn::Context> list;
  const attn::Context probe;
  for (int32_t i = 0; i < attn_context_isa_count(probe.get()); i++) {
    attn_isa_info isa = ATTN_ISA_INFO_INIT;
    if (!CHECK_OK(attn_context_get_isa(probe.get(), i, &isa, nullptr)) || !isa.available) continue;
    attn::ContextConfig config;
    config.isa = isa.isa;
    list.emplace_back(config);
  }
  return list;
}

void run_case(Case& c, const attn::Context& context, const char* backend, std::ostream& hashes) {
  const std::string target = std::string(backend) + " " + context.info().isa_name;
  c.plan.backend = backend;
  auto plan = attn::Plan::create(context, c.plan);
  hashes << c.name << " " << target << " ";
  if (plan.error().status() == ATTN_ERROR_UNSUPPORTED && std::string(backend) != "standard") {
    hashes << "unsupported\n";
    return count(std::string(backend) + " refused");
  }
  if (!CHECK(plan.ok(), "%s on %s: %s", c.name.c_str(), target.c_str(), plan.error().what())) {
    return;
  }
  const attn::Workspace workspace(plan.value().workspace_size());
  c.args.set_workspace(workspace);
  for (auto& [name, output] : c.outputs) output.memory->assign(output.memory->size(), 0);
  plan.value().run(c.args);
  compare(c, target);
  count(backend);
  char hash[17];
  std::snprintf(hash, sizeof hash, "%016" PRIx64, hash_of(c));
  hashes << hash << "\n";
}

void vectors() {
  std::ifstream file(ATTN_VECTORS);
  std::ofstream hashes;
  if (const char* folder = std::getenv("ATTN_VECTORS_OUT")) {
    hashes.open(std::string(folder) + "/cpp.txt");
    CHECK(hashes.is_open());
  }
  const auto all = contexts();
  int cases = 0;
  Case c;
  for (std::string text; std::getline(file, text);) {
    if (text.empty() || text[0] == '#') continue;
    std::istringstream line(text);
    const auto keyword = next<std::string>(line);
    if (keyword == "case") {
      c = Case{};
      c.name = next<std::string>(line);
    } else if (keyword == "plan") {
      read_plan_field(c, line);
    } else if (keyword == "input" || keyword == "output") {
      read_tensor(c, line, keyword == "output");
    } else if (keyword == "expect") {
      read_expected(c, line);
    } else if (keyword == "end") {
      cases++;
      for (const attn::Context& context : all)
        for (int32_t n = 0; n < attn_context_backend_count(context.get()); n++) {
          attn_backend_info backend = ATTN_BACKEND_INFO_INIT;
          CHECK_OK(attn_context_get_backend(context.get(), n, &backend, nullptr));
          if (backend.available) run_case(c, context, backend.name, hashes);
        }
    } else {
      CHECK(false, "no keyword %s", keyword.c_str());
    }
  }
  CHECK(cases > 0 && counted("standard") >= cases);
}

}  // namespace
}  // namespace attn_test

int main(int argc, char** argv) {
  using namespace attn_test;
  return run_tests("vectors", argc, argv, {TEST(vectors)});
}
