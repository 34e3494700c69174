// placement.cpp: shapes, strides and poison of a problem's tensors.
#include "placement.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "storage.h"

namespace attn_test {
namespace {

constexpr unsigned char kUnset = 0xff;

int64_t product(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t extent : shape) n *= extent;
  return n;
}

// Instruction sets of bf16 products have kernels in flash alone; what standard and merging do there
// is avx512's, which is tested.
bool has_own_kernels(const char* backend, attn_isa isa) {
  return std::strcmp(backend, "standard") != 0 ||
         (isa != ATTN_ISA_AVX512_BF16 && isa != ATTN_ISA_AMX_BF16);
}

std::vector<Target> available_targets() {
  std::vector<Target> found;
  attn_context* probe = nullptr;
  if (!CHECK_OK(attn_context_create(nullptr, &probe, nullptr))) return found;
  for (int32_t i = 0; i < attn_context_isa_count(probe); i++) {
    attn_isa_info isa = ATTN_ISA_INFO_INIT;
    if (!CHECK_OK(attn_context_get_isa(probe, i, &isa, nullptr)) || !isa.available) continue;
    attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
    config.isa = isa.isa;
    config.num_threads = 3;
    attn_context* context = nullptr;
    if (!CHECK_OK(attn_context_create(&config, &context, nullptr))) continue;
    for (int32_t n = 0; n < attn_context_backend_count(context); n++) {
      attn_backend_info backend = ATTN_BACKEND_INFO_INIT;
      if (CHECK_OK(attn_context_get_backend(context, n, &backend, nullptr)) && backend.available &&
          has_own_kernels(backend.name, isa.isa)) {
        found.push_back({backend.name, isa.isa, isa.name, context});
      }
    }
  }
  attn_context_destroy(probe);
  return found;
}

}  // namespace

Placed::Placed(attn_dtype dtype, const std::vector<int64_t>& shape, const Order& order,
               Guard guard) {
  std::memset(&view_, 0, sizeof view_);
  const int rank = static_cast<int>(shape.size());
  int64_t stride = 1, first = 0, last = 0;  // first and last element of the memory
  bool innermost = true;
  for (int d = 3; d >= 0; d--) {
    const int dimension = order.outer_to_inner[static_cast<size_t>(d)];
    if (dimension >= rank) continue;
    const int64_t extent = shape[static_cast<size_t>(dimension)];
    view_.shape[dimension] = extent;
    if ((order.broadcast >> dimension) & 1) continue;
    const bool reversed = (order.reversed >> dimension) & 1;
    view_.strides[dimension] = reversed ? -stride : stride;
    (reversed ? first : last) += (reversed ? -1 : 1) * stride * std::max<int64_t>(extent - 1, 0);
    // A vector's gap lies between its elements.
    stride *= rank == 1 ? 1 : std::max<int64_t>(extent, 1) + (innermost ? order.gap : 0);
    innermost = false;
  }
  if (rank == 1) {
    view_.strides[0] *= 1 + order.gap;
    first *= 1 + order.gap;
    last *= 1 + order.gap;
  }
  const size_t size = element_size(dtype);
  const bool empty = product(shape) == 0;
  memory_ = std::make_unique<GuardedBuffer>(
      empty ? 0 : static_cast<size_t>(last - first + 1) * size, guard, size);
  if (!empty) std::memset(memory_->data(), kUnset, memory_->size());
  const size_t start = static_cast<size_t>(-first) * size;
  view_.data = empty ? nullptr : memory_->data() + (order.offset ? 0 : start);
  view_.byte_offset = order.offset && !empty ? start : 0;
  view_.dtype = dtype;
  view_.device_type = ATTN_DEVICE_CPU;
  view_.rank = rank;
  for (int d = rank; d < ATTN_MAX_RANK; d++) {
    view_.shape[d] = view_.strides[d] = -77;  // not to be looked at
  }
}

unsigned char* Placed::element(const int64_t* index, int rank) const {
  int64_t position = 0;
  for (int d = 0; d < rank; d++) position += index[d] * view_.strides[d];
  return static_cast<unsigned char*>(view_.data) + view_.byte_offset +
         position * static_cast<int64_t>(element_size(view_.dtype));
}

void Placed::set(unsigned char* element, double value) { store(view_.dtype, element, value); }

double Placed::get(const std::vector<int64_t>& index) const {
  return load(view_.dtype, element(index.data(), static_cast<int>(index.size())));
}

bool Placed::gaps_intact() const {
  std::vector<bool> used(memory_->size(), false);
  int64_t n[4] = {1, 1, 1, 1};
  for (int d = 0; d < view_.rank; d++) n[d] = view_.shape[d];
  int64_t i[4];
  for (i[0] = 0; i[0] < n[0]; i[0]++)
    for (i[1] = 0; i[1] < n[1]; i[1]++)
      for (i[2] = 0; i[2] < n[2]; i[2]++)
        for (i[3] = 0; i[3] < n[3]; i[3]++) {
          const ptrdiff_t at = element(i, view_.rank) - memory_->data();
          std::fill_n(used.begin() + at, element_size(view_.dtype), true);
        }
  for (size_t byte = 0; byte < used.size(); byte++) {
    if (!used[byte] && memory_->data()[byte] != kUnset) return false;
  }
  return true;
}

bool same_bits(const Outcome& a, const Outcome& b) {
  const auto same = [](double x, double y) {
    return std::isnan(x) ? std::isnan(y) : std::memcmp(&x, &y, sizeof x) == 0;
  };
  return a.status == b.status && a.o.size() == b.o.size() && a.lse.size() == b.lse.size() &&
         std::equal(a.o.begin(), a.o.end(), b.o.begin(), same) &&
         std::equal(a.lse.begin(), a.lse.end(), b.lse.begin(), same);
}

Placed& Placement::add(attn_dtype dtype, const std::vector<int64_t>& shape, const Order& order) {
  return tensors_.emplace_back(dtype, shape, order, problem_.guard);
}

Placed& Placement::add_list(attn_dtype dtype, const std::vector<int64_t>& values) {
  Order order;
  order.gap = problem_.list_gap;
  Placed& list = add(dtype, {static_cast<int64_t>(values.size())}, order);
  for (size_t i = 0; i < values.size(); i++) {
    list.set({static_cast<int64_t>(i)}, static_cast<double>(values[i]));
  }
  return list;
}

Placement::Placement(const Problem& problem, const Data& data) : problem_(problem) {
  const bool padded_q = problem.q_rows != Rows::kPacked;
  extent_q_ = problem.longest_q() + (padded_q ? problem.slack_q : 0);
  extent_k_ = problem.longest_k() + (problem.k_rows == Rows::kPaddedLengths ? problem.slack_k : 0);
  place_q(data);
  place_kv(data);
  place_overlays(data);
  if (!problem.q_start.empty()) {
    args_.q_start = add_list(ATTN_DTYPE_I64, problem.q_start).view();
  }
  if (!problem.k_start.empty()) {
    args_.k_start = add_list(ATTN_DTYPE_I64, problem.k_start).view();
  }
  if (problem.alibi > 0) {
    std::vector<int64_t> shape = {problem.heads_q};
    if (problem.alibi == 2) shape.insert(shape.begin(), problem.batch());
    Placed& slopes = add(ATTN_DTYPE_F32, shape, Order{});
    for (size_t i = 0; i < data.alibi.size(); i++) {
      const int64_t n = static_cast<int64_t>(i);
      if (problem.alibi == 2) {
        slopes.set({n / problem.heads_q, n % problem.heads_q}, data.alibi[i]);
      } else {
        slopes.set({n}, data.alibi[i]);
      }
    }
    args_.alibi_slopes = slopes.view();
  }
  if (problem.sink) {
    Placed& sink = add(ATTN_DTYPE_F32, {problem.heads_q}, Order{});
    for (int64_t h = 0; h < problem.heads_q; h++) sink.set({h}, data.sink[static_cast<size_t>(h)]);
    args_.sink = sink.view();
  }
  seal();
}

void Placement::place_q(const Data& data) {
  const Problem& p = problem_;
  const bool packed = p.q_rows == Rows::kPacked;
  const int64_t unowned = packed ? p.slack_q : 0;
  const int64_t rows = packed ? p.total_q() : extent_q_;
  const int64_t batch = packed ? 1 : p.batch();
  Placed& q = add(p.q_dtype, {batch, p.heads_q, rows, p.head_dim}, p.q_order);
  args_.q = q.view();
  std::vector<int64_t> cu = {unowned};
  for (int64_t b = 0; b < p.batch(); b++) {
    const int64_t length = p.seqlens_q[static_cast<size_t>(b)];
    cu.push_back(cu.back() + length);
    for (int64_t h = 0; h < p.heads_q; h++)
      for (int64_t i = 0; i < length; i++)
        for (int64_t x = 0; x < p.head_dim; x++) {
          const int64_t row = packed ? p.packed_row_q(b) + i : i;
          q.set(q.element(packed ? 0 : b, h, row, x), data.q.at(b, h, i, x));
        }
  }
  if (packed) args_.cu_seqlens_q = add_list(ATTN_DTYPE_I32, cu).view();
  if (p.q_rows == Rows::kPaddedLengths) {
    args_.seqlens_q = add_list(ATTN_DTYPE_I32, p.seqlens_q).view();
  }
  o_ = &add(p.o_dtype, {batch, p.heads_q, rows, p.head_dim_v}, p.o_order);
  args_.o = o_->view();
  if (p.lse) {
    Order order;
    order.gap = p.o_order.gap;
    lse_ = &add(ATTN_DTYPE_F32, {batch, p.heads_q, rows}, order);
    args_.lse = lse_->view();
  }
}

// The scales of a K or V of that shape; NULL if it has none.
Placed* Placement::add_scales(attn_dtype dtype, const Scaling& scaling, const Order& order,
                              std::vector<int64_t> shape) {
  if (!is_quantised(dtype)) return nullptr;
  shape[3] = scaling.blocks(shape[3]);
  if (scaling.block == 0) shape.pop_back();
  Order own = order;
  own.broadcast = scaling.zero_stride ? scaling.broadcast : 0;
  for (size_t i = 0; i < 3; i++) {
    if (!scaling.zero_stride && (scaling.broadcast >> i) & 1) shape[i] = 1;
  }
  return &add(ATTN_DTYPE_F32, shape, own);
}

void Placement::place_kv(const Data& data) {
  const Problem& p = problem_;
  if (p.k_rows == Rows::kPaged) place_block_table();
  const bool packed = p.k_rows == Rows::kPacked, paged = p.k_rows == Rows::kPaged;
  int64_t batch = packed ? 1 : p.batch();
  int64_t rows = packed ? p.total_k() : extent_k_;
  if (paged) {
    int64_t used = 0;
    for (const auto& list : pages_) used += static_cast<int64_t>(list.size());
    batch = used + 3;  // three pages that nobody has
    rows = p.page_size;
  }
  Placed& k = add(p.k_dtype, {batch, p.heads_kv, rows, p.head_dim}, p.k_order);
  Placed& v = add(p.v_dtype, {batch, p.heads_kv, rows, p.head_dim_v}, p.v_order);
  args_.k = k.view();
  args_.v = v.view();
  Placed* k_scale =
      add_scales(p.k_dtype, p.k_scaling, p.k_order, {batch, p.heads_kv, rows, p.head_dim});
  Placed* v_scale =
      add_scales(p.v_dtype, p.v_scaling, p.v_order, {batch, p.heads_kv, rows, p.head_dim_v});
  if (k_scale) args_.k_scale = k_scale->view();
  if (v_scale) args_.v_scale = v_scale->view();
  const auto set_scales = [](Placed* scale, const Values& values, int64_t b, int64_t h, int64_t j,
                             int64_t outer, int64_t row) {
    if (!scale) return;
    const attn_tensor& t = *scale->view();
    for (int64_t x = 0; x < values.n[3]; x++) {
      const int64_t index[] = {t.shape[0] == 1 ? 0 : outer, t.shape[1] == 1 ? 0 : h,
                               t.shape[2] == 1 ? 0 : row, x};
      scale->set(scale->element(index, t.rank), values.at(b, h, j, x));
    }
  };
  std::vector<int64_t> cu = {packed ? p.slack_k : 0};
  for (int64_t b = 0; b < p.batch(); b++) {
    const int64_t length = p.seqlens_k[static_cast<size_t>(b)];
    cu.push_back(cu.back() + length);
    for (int64_t j = 0; j < length; j++) {
      int64_t outer = packed ? 0 : b, row = packed ? p.packed_row_k(b) + j : j;
      if (paged) {
        outer = pages_[static_cast<size_t>(b)][static_cast<size_t>(j / p.page_size)];
        row = j % p.page_size;
      }
      for (int64_t h = 0; h < p.heads_kv; h++) {
        for (int64_t x = 0; x < p.head_dim; x++)
          k.set(k.element(outer, h, row, x), data.k.at(b, h, j, x));
        for (int64_t x = 0; x < p.head_dim_v; x++)
          v.set(v.element(outer, h, row, x), data.v.at(b, h, j, x));
        set_scales(k_scale, data.k_scale, b, h, j, outer, row);
        set_scales(v_scale, data.v_scale, b, h, j, outer, row);
      }
    }
  }
  if (packed) args_.cu_seqlens_k = add_list(ATTN_DTYPE_I32, cu).view();
  if (paged || p.k_rows == Rows::kPaddedLengths) {
    args_.seqlens_k = add_list(ATTN_DTYPE_I32, p.seqlens_k).view();
  }
}

// Pages in a shuffled order; what the table does not need holds numbers of no page.
void Placement::place_block_table() {
  const Problem& p = problem_;
  const auto pages_of = [&](int64_t length) { return (length + p.page_size - 1) / p.page_size; };
  std::vector<int64_t> pool;
  int64_t total = 0;
  for (const int64_t length : p.seqlens_k) total += pages_of(length);
  for (int64_t page = 0; page < total + 3; page++) pool.push_back(page);
  Random random{p.seed + 77};
  for (int64_t i = total + 2; i > 0; i--) {
    std::swap(pool[static_cast<size_t>(i)], pool[static_cast<size_t>(random.below(i + 1))]);
  }
  const int64_t columns = pages_of(p.longest_k()) + 1;
  Placed& table = add(ATTN_DTYPE_I32, {p.batch(), columns}, Order{});
  for (int64_t b = 0; b < p.batch(); b++) {
    std::vector<int64_t> list;
    for (int64_t n = 0; n < columns; n++) {
      const bool used = n < pages_of(p.seqlens_k[static_cast<size_t>(b)]);
      if (used) {
        list.push_back(pool.back());
        pool.pop_back();
      }
      table.set({b, n}, used ? static_cast<double>(list.back()) : n % 2 ? -1 : 2147483647);
    }
    pages_.push_back(list);
  }
  args_.block_table = table.view();
}

void Placement::place_overlays(const Data& data) {
  const Problem& p = problem_;
  const auto place = [&](attn_dtype dtype, const Overlay& overlay, const Values& values,
                         std::array<int64_t, 4> full) {
    std::vector<int64_t> shape;
    Order order = p.overlay_order;
    for (size_t d = 0; d < 4; d++) {
      const bool broadcast = (overlay.broadcast >> d) & 1;
      shape.push_back(broadcast && !overlay.zero_stride ? 1 : full[d]);
    }
    if (overlay.zero_stride) order.broadcast = overlay.broadcast;
    Placed& tensor = add(dtype, shape, order);
    for (int64_t i0 = 0; i0 < values.n[0]; i0++)
      for (int64_t i1 = 0; i1 < values.n[1]; i1++)
        for (int64_t i2 = 0; i2 < values.n[2]; i2++)
          for (int64_t i3 = 0; i3 < values.n[3]; i3++)
            if (i0 < shape[0] && i1 < shape[1] && i2 < shape[2] && i3 < shape[3])
              tensor.set(tensor.element(i0, i1, i2, i3), values.at(i0, i1, i2, i3));
    return tensor.view();
  };
  const bool packed = p.q_rows == Rows::kPacked;
  const int64_t batch = packed ? 1 : p.batch();
  const int64_t rows = packed ? p.total_q() : extent_q_;
  // Columns beyond the longest sequence are legal and mean nothing.
  const auto columns = [&](const Overlay& overlay) {
    return overlay.ranged ? overlay.range_n : std::max(extent_k_, p.longest_k() + p.slack_k);
  };
  if (p.bias.present) {
    args_.bias = place(p.bias_dtype, p.bias, data.bias, {batch, p.heads_q, rows, columns(p.bias)});
    if (!p.bias.k0.empty()) args_.bias_k0 = add_list(ATTN_DTYPE_I64, p.bias.k0).view();
  }
  if (p.mask.present) {
    args_.mask = place(ATTN_DTYPE_U8, p.mask, data.mask, {batch, p.heads_q, rows, columns(p.mask)});
    if (!p.mask.k0.empty()) args_.mask_k0 = add_list(ATTN_DTYPE_I64, p.mask.k0).view();
  }
  if (p.block_mask.present) {
    const int64_t most_q = packed ? p.longest_q() + p.plan_slack : extent_q_;
    const int64_t most_k = p.k_rows == Rows::kPadded || p.k_rows == Rows::kPaddedLengths
                               ? extent_k_
                               : p.longest_k() + p.plan_slack;
    args_.block_mask = place(ATTN_DTYPE_U8, p.block_mask, data.block_mask,
                             {p.batch(), p.heads_q, (most_q + p.block_q - 1) / p.block_q,
                              (most_k + p.block_k - 1) / p.block_k});
  }
}

attn_plan_config Placement::config() const {
  const Problem& p = problem_;
  attn_plan_config config = ATTN_PLAN_CONFIG_INIT;
  config.features = features_of(p);
  config.q_dtype = p.q_dtype;
  config.k_dtype = p.k_dtype;
  config.v_dtype = p.v_dtype;
  config.o_dtype = p.o_dtype;
  if (p.bias.present) config.bias_dtype = p.bias_dtype;
  config.q_layout = p.q_rows == Rows::kPacked ? ATTN_LAYOUT_PACKED : ATTN_LAYOUT_PADDED;
  config.kv_layout = p.k_rows == Rows::kPacked  ? ATTN_LAYOUT_PACKED
                     : p.k_rows == Rows::kPaged ? ATTN_LAYOUT_PAGED
                                                : ATTN_LAYOUT_PADDED;
  config.alignment = p.alignment;
  config.scale = p.scale;
  config.softcap = p.softcap;
  config.tile_k = p.tile_k;
  config.kv_chunk = p.kv_chunk;
  if (p.k_rows == Rows::kPaged) config.page_size = p.page_size;
  if (p.block_mask.present) {
    config.block_q = p.block_q;
    config.block_k = p.block_k;
  }
  config.heads_q = p.heads_q;
  config.heads_kv = p.heads_kv;
  config.head_dim = p.head_dim;
  config.head_dim_v = p.head_dim_v;
  config.max_batch = std::max<int64_t>(p.batch() + p.plan_slack, 1);
  config.max_seqlen_q = std::max<int64_t>(extent_q_ + p.plan_slack, 1);
  config.max_seqlen_k = std::max<int64_t>(extent_k_ + p.plan_slack, 1);
  if (p.q_rows == Rows::kPacked) config.max_total_q = std::max<int64_t>(p.total_q(), 1);
  if (p.k_rows == Rows::kPacked) config.max_total_k = std::max<int64_t>(p.total_k(), 1);
  if (p.window_left >= 0) config.window_left = p.window_left;
  if (p.window_right >= 0) config.window_right = p.window_right;
  return config;
}

double Placement::o(int64_t b, int64_t h, int64_t i, int64_t x) const {
  const bool packed = problem_.q_rows == Rows::kPacked;
  const int64_t row = packed ? problem_.packed_row_q(b) + i : i;
  return load(problem_.o_dtype, o_->element(packed ? 0 : b, h, row, x));
}

double Placement::lse(int64_t b, int64_t h, int64_t i) const {
  const bool packed = problem_.q_rows == Rows::kPacked;
  const int64_t index[] = {packed ? 0 : b, h, packed ? problem_.packed_row_q(b) + i : i};
  return load(ATTN_DTYPE_F32, lse_->element(index, 3));
}

void Placement::seal() {
  checksums_.clear();
  for (const Placed& tensor : tensors_) checksums_.push_back(tensor.memory().checksum());
}

std::string Placement::damage() const {
  const Problem& p = problem_;
  for (size_t n = 0; n < tensors_.size(); n++) {
    const Placed& tensor = tensors_[n];
    const std::string name = "tensor " + std::to_string(n);
    if (!tensor.memory().margin_intact()) return "memory beside " + name + " was written";
    const bool output = &tensor == o_ || &tensor == lse_;
    if (!output && tensor.memory().checksum() != checksums_[n]) return name + ", an input, changed";
    if (output && !tensor.gaps_intact()) return "gaps of an output were written";
  }
  if (p.q_rows != Rows::kPacked) return "";
  for (int64_t row = 0; row < p.total_q(); row++) {  // rows of no sequence
    if (row >= p.slack_q && row < p.packed_row_q(p.batch())) continue;
    for (int64_t h = 0; h < p.heads_q; h++) {
      for (int64_t x = 0; x < p.head_dim_v; x++) {
        if (!std::isnan(o_->get({0, h, row, x})))
          return "a row of o that is in no sequence changed";
      }
      if (lse_ && !std::isnan(lse_->get({0, h, row}))) {
        return "a row of lse that is in no sequence changed";
      }
    }
  }
  return "";
}

Outcome Placement::outcome(attn_status status, const attn_error& error) const {
  Outcome outcome{status, error, {}, {}};
  for (int64_t b = 0; b < problem_.batch(); b++)
    for (int64_t h = 0; h < problem_.heads_q; h++)
      for (int64_t i = 0; i < problem_.seqlens_q[static_cast<size_t>(b)]; i++) {
        for (int64_t x = 0; x < problem_.head_dim_v; x++) outcome.o.push_back(o(b, h, i, x));
        if (lse_) outcome.lse.push_back(lse(b, h, i));
      }
  return outcome;
}

const std::vector<Target>& targets() {
  struct Targets {
    std::vector<Target> list = available_targets();
    ~Targets() {
      std::set<attn_context*> contexts;
      for (const Target& target : list) contexts.insert(target.context);
      for (attn_context* context : contexts) attn_context_destroy(context);
    }
  };
  static const Targets targets;
  return targets.list;
}

Outcome execute(attn_context* context, const char* backend, const Problem& problem,
                Placement& placement, std::string* damage) {
  attn_error error = {ATTN_OK, ""};
  attn_plan_config config = placement.config();
  config.backend = backend;
  attn_plan* plan = nullptr;
  attn_status status = attn_plan_create(context, &config, &plan, &error);
  if (status != ATTN_OK) return {status, error, {}, {}};
  size_t size = 0;
  CHECK_OK(attn_plan_workspace_size(plan, &size, nullptr));
  GuardedBuffer workspace(size, problem.guard, ATTN_WORKSPACE_ALIGNMENT);
  std::memset(workspace.data(), kUnset, size);  // NaN: its content does not matter
  placement.args().workspace = workspace.data();
  placement.args().workspace_size = size;
  status = attn_run(plan, &placement.args(), &error);
  attn_plan_destroy(plan);
  if (damage) {
    *damage = placement.damage();
    if (!workspace.margin_intact()) *damage = "memory beside the workspace was written";
  }
  return placement.outcome(status, error);
}

Outcome execute(attn_context* context, const char* backend, const Problem& problem,
                const Data& data) {
  Placement placement(problem, data);
  return execute(context, backend, problem, placement, nullptr);
}

}  // namespace attn_test
