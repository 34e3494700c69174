// attn.hpp: a small RAII face of attn.h for C++17 and later, header only.
//
//   attn::Context context;                                   // throws attn::Error
//   attn::PlanConfig config;                                 // every config struct, initialised
//   config.q_dtype = ATTN_DTYPE_F32;                         // ... the fields of attn.h
//   attn::Plan plan(context, config);
//   attn::Workspace workspace(plan.workspace_size());
//   attn::Tensor q(q_data, {batch, heads, seqlen, head_dim});
//   attn::RunArgs args;
//   args.q = &q;                                             // ... the fields of attn.h
//   args.set_workspace(workspace);
//   plan.run(args);
//
//   attn::Tensor k(k_vector, {batch, heads, seqlen, head_dim});  // a span: its size is checked
//
// Each call that can fail has two forms: the one above throws attn::Error, and the one whose name
// is create() or begins with try_ returns an attn::Result. Compiled with -fno-exceptions, or with
// ATTN_NO_EXCEPTIONS defined, only the second form exists.
//
// What the fields mean, shapes, ownership and thread safety: attn.h. Since 0.1.
#ifndef ATTN_ATTN_HPP_
#define ATTN_ATTN_HPP_

#include <attn/attn.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <initializer_list>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#if !defined(ATTN_NO_EXCEPTIONS) && !defined(__cpp_exceptions)
#define ATTN_NO_EXCEPTIONS
#endif

namespace attn {

// Why a call failed: the status and the library's words. Copying never allocates.
class Error : public std::exception {
 public:
  // No failure yet; `get` is for a call to fill.
  Error() noexcept { error_.status = ATTN_OK, error_.message[0] = '\0'; }
  // What a call filled.
  explicit Error(const attn_error& error) noexcept : error_(error) {}

  // ATTN_OK if there was no failure.
  attn_status status() const noexcept { return error_.status; }
  // The library's words, which live as long as this object.
  const char* what() const noexcept override { return error_.message; }

  // For a call of attn.h to fill.
  attn_error* get() noexcept { return &error_; }

 private:
  attn_error error_;
};

// A value, or the Error that is there instead.
template <class T>
class [[nodiscard]] Result {
 public:
  // A value.
  Result(T value) : value_(std::move(value)) {}
  // An error, and no value.
  Result(const Error& error) noexcept : error_(error) {}

  // Whether there is a value.
  bool ok() const noexcept { return value_.has_value(); }
  // The same.
  explicit operator bool() const noexcept { return ok(); }

  // The value; only if ok().
  T& value() & noexcept { return *value_; }
  // The same, to be moved out.
  T&& value() && noexcept { return std::move(*value_); }

  // The error; status ATTN_OK if ok().
  const Error& error() const noexcept { return error_; }

#ifndef ATTN_NO_EXCEPTIONS
  // The value; throws the error if there is none.
  T or_throw() && {
    if (!ok()) throw error_;
    return std::move(*value_);
  }
#endif

 private:
  std::optional<T> value_;
  Error error_;
};

// Success, or the Error that is there instead.
template <>
class [[nodiscard]] Result<void> {
 public:
  // Success.
  Result() noexcept = default;
  // An error.
  Result(const Error& error) noexcept : error_(error) {}

  // Whether it is success.
  bool ok() const noexcept { return error_.status() == ATTN_OK; }
  // The same.
  explicit operator bool() const noexcept { return ok(); }
  // The error; status ATTN_OK if ok().
  const Error& error() const noexcept { return error_; }

#ifndef ATTN_NO_EXCEPTIONS
  // Throws the error if there is one.
  void or_throw() && {
    if (!ok()) throw error_;
  }
#endif

 private:
  Error error_;
};

// The dtype of a C++ type. Specialise it for your own f16 and bf16 types.
template <class T>
struct DtypeOf;
template <>
struct DtypeOf<float> {
  static constexpr attn_dtype value = ATTN_DTYPE_F32;
};
template <>
struct DtypeOf<std::int8_t> {
  static constexpr attn_dtype value = ATTN_DTYPE_I8;
};
template <>
struct DtypeOf<std::uint8_t> {
  static constexpr attn_dtype value = ATTN_DTYPE_U8;
};
template <>
struct DtypeOf<std::int32_t> {
  static constexpr attn_dtype value = ATTN_DTYPE_I32;
};
template <>
struct DtypeOf<std::int64_t> {
  static constexpr attn_dtype value = ATTN_DTYPE_I64;
};

// A view of CPU memory; owns nothing. Is an attn_tensor, so that its address goes wherever attn.h
// takes one. A pointer to const is for inputs: the library writes to o and lse only.
//
// Made of a pointer, it trusts its caller; made of a span (std::span, std::vector, std::array, all
// that has data() and size()), it is checked to lie inside.
struct Tensor : attn_tensor {
  // A shape, or strides in elements.
  using Extents = std::initializer_list<std::int64_t>;

  // Row-major memory.
  template <class T>
  Tensor(T* memory, Extents extents) noexcept : Tensor(memory, dtype_of(memory), extents) {}

  // Memory with strides, in elements.
  template <class T>
  Tensor(T* memory, Extents extents, Extents steps) noexcept
      : Tensor(memory, dtype_of(memory), extents, steps) {}

  // The same of a dtype that the pointer does not tell, as f16 in uint16_t.
  Tensor(const void* memory, attn_dtype type, Extents extents) noexcept : attn_tensor() {
    // Too many dimensions are stated as they are, for the call that takes the tensor to refuse.
    const bool fits = extents.size() <= ATTN_MAX_RANK;
    attn_tensor_init(this, const_cast<void*>(memory), type,
                     fits ? static_cast<std::int32_t>(extents.size()) : 0, extents.begin());
    rank = static_cast<std::int32_t>(extents.size());
  }

  // Dimensions without a stride of their own get stride 0, which broadcasts.
  Tensor(const void* memory, attn_dtype type, Extents extents, Extents steps) noexcept
      : Tensor(memory, type, extents) {
    for (std::size_t i = 0; i < ATTN_MAX_RANK; ++i)
      strides[i] = i < steps.size() ? steps.begin()[i] : 0;
  }

  // Of a span: row-major, and exactly as large; or with strides, from the span's first element on.
  // INVALID_ARGUMENT if it does not lie inside.
  template <class Span, class = std::enable_if_t<std::is_class_v<std::remove_reference_t<Span>>>>
  static Result<Tensor> create(Span&& span, Extents extents) noexcept {
    return Tensor(span.data(), extents).in(span.size(), true);
  }
  template <class Span, class = std::enable_if_t<std::is_class_v<std::remove_reference_t<Span>>>>
  static Result<Tensor> create(Span&& span, Extents extents, Extents steps) noexcept {
    return Tensor(span.data(), extents, steps).in(span.size(), false);
  }

#ifndef ATTN_NO_EXCEPTIONS
  template <class Span, class = std::enable_if_t<std::is_class_v<std::remove_reference_t<Span>>>>
  Tensor(Span&& span, Extents extents) : Tensor(create(span, extents).or_throw()) {}
  template <class Span, class = std::enable_if_t<std::is_class_v<std::remove_reference_t<Span>>>>
  Tensor(Span&& span, Extents extents, Extents steps)
      : Tensor(create(span, extents, steps).or_throw()) {}
#endif

 private:
  template <class T>
  static constexpr attn_dtype dtype_of(const T*) noexcept {
    return DtypeOf<T>::value;
  }

  // Itself if its elements lie in [0, size) of its memory, and are all of them if they must be.
  Result<Tensor> in(std::size_t size, bool exactly) const noexcept {
    // Extents and strides that no memory has would overflow; a double only rounds them.
    double first = 0, last = 0, count = 1;
    for (std::int32_t i = 0; i < rank && i < ATTN_MAX_RANK; ++i) {
      const double way = static_cast<double>(shape[i] - 1) * static_cast<double>(strides[i]);
      (way < 0 ? first : last) += way;
      count *= static_cast<double>(shape[i]);
    }
    const double elements = static_cast<double>(size);
    if (exactly ? count == elements : count == 0 || (first >= 0 && last < elements)) return *this;
    attn_error error{ATTN_ERROR_INVALID_ARGUMENT, ""};
    if (exactly) {
      std::snprintf(error.message, sizeof(error.message),
                    "span: has %zu elements; the shape has %.0f", size, count);
    } else {
      std::snprintf(error.message, sizeof(error.message),
                    "span: has %zu elements; shape and strides reach from %.0f to %.0f", size,
                    first, last);
    }
    return Error(error);
  }
};

// attn_context_config, initialised.
struct ContextConfig : attn_context_config {
  ContextConfig() noexcept : attn_context_config ATTN_CONTEXT_CONFIG_INIT {}
};
// attn_plan_config, initialised.
struct PlanConfig : attn_plan_config {
  PlanConfig() noexcept : attn_plan_config ATTN_PLAN_CONFIG_INIT {}
};
// attn_merge_args, initialised.
struct MergeArgs : attn_merge_args {
  MergeArgs() noexcept : attn_merge_args ATTN_MERGE_ARGS_INIT {}
};

// Memory for one run at a time, aligned as runs want it. Movable.
class Workspace {
 public:
  // `size` bytes; data() is NULL if size is 0 or the memory is not there, which the run reports.
  explicit Workspace(std::size_t size) noexcept
      : data_(size == 0 ? nullptr : ::operator new(size, kAlignment, std::nothrow)), size_(size) {}
  Workspace(Workspace&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Workspace& operator=(Workspace&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Workspace() { ::operator delete(data_, kAlignment); }

  // ATTN_WORKSPACE_ALIGNMENT-aligned; content undefined.
  void* data() const noexcept { return data_; }
  // Bytes; 0 if the memory is not there.
  std::size_t size() const noexcept { return data_ == nullptr ? 0 : size_; }

 private:
  static constexpr std::align_val_t kAlignment{ATTN_WORKSPACE_ALIGNMENT};
  void* data_;
  std::size_t size_;
};

// attn_run_args, initialised.
struct RunArgs : attn_run_args {
  RunArgs() noexcept : attn_run_args ATTN_RUN_ARGS_INIT {}
  // The workspace must outlive the runs.
  void set_workspace(const Workspace& memory) noexcept {
    workspace = memory.data();
    workspace_size = memory.size();
  }
};

namespace detail {

// Calls fn(attn_error*) and tells how it ended.
template <class Fn>
Result<void> check(Fn&& fn) noexcept {
  Error error;
  if (fn(error.get()) != ATTN_OK) return error;
  return {};
}

// VERSION if the loaded library is older than this header.
inline Result<void> check_version() noexcept {
  const int loaded = attn_version();
  if (loaded >= ATTN_VERSION) return {};
  attn_error error{ATTN_ERROR_VERSION, ""};
  std::snprintf(error.message, sizeof(error.message),
                "libattn is version %d.%d.%d; this program was compiled for %d.%d.%d",
                loaded / 1000000, loaded / 1000 % 1000, loaded % 1000, ATTN_VERSION_MAJOR,
                ATTN_VERSION_MINOR, ATTN_VERSION_PATCH);
  return Error(error);
}

// Owns a handle that `Destroy` ends.
template <class Handle, void (*Destroy)(Handle*)>
class Owner {
 public:
  explicit Owner(Handle* handle) noexcept : handle_(handle) {}
  Owner(Owner&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owner& operator=(Owner&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owner() { Destroy(handle_); }
  Handle* get() const noexcept { return handle_; }

 private:
  Handle* handle_;
};

}  // namespace detail

// Threads, memory and instruction set. Movable.
class Context {
 public:
  // attn_context_create; VERSION if the loaded library is older than this header.
  static Result<Context> create(const attn_context_config& config = ContextConfig()) noexcept {
    const auto fits = detail::check_version();
    if (!fits) return fits.error();
    attn_context* handle = nullptr;
    const auto done =
        detail::check([&](attn_error* e) { return attn_context_create(&config, &handle, e); });
    if (!done) return done.error();
    return Context(handle);
  }

  // attn_context_warmup: starts the threads.
  Result<void> try_warmup() noexcept {
    return detail::check([&](attn_error* e) { return attn_context_warmup(get(), e); });
  }

  // attn_merge: combines results over disjoint keys.
  Result<void> try_merge(const attn_merge_args& args) noexcept {
    return detail::check([&](attn_error* e) { return attn_merge(get(), &args, e); });
  }

  // attn_context_get_info; strings live as long as this object.
  Result<attn_context_info> try_info() const noexcept {
    attn_context_info info = ATTN_CONTEXT_INFO_INIT;
    const auto done =
        detail::check([&](attn_error* e) { return attn_context_get_info(get(), &info, e); });
    if (!done) return done.error();
    return info;
  }

#ifndef ATTN_NO_EXCEPTIONS
  // create, throwing.
  explicit Context(const attn_context_config& config = ContextConfig())
      : Context(create(config).or_throw()) {}
  // try_warmup, throwing.
  void warmup() { try_warmup().or_throw(); }
  // try_merge, throwing.
  void merge(const attn_merge_args& args) { try_merge(args).or_throw(); }
  // try_info, throwing.
  attn_context_info info() const { return try_info().or_throw(); }
#endif

  // The handle, which stays this object's.
  attn_context* get() const noexcept { return owner_.get(); }

 private:
  explicit Context(attn_context* handle) noexcept : owner_(handle) {}
  detail::Owner<attn_context, attn_context_destroy> owner_;
};

// A problem, the backend that serves it, and its tiles. Movable; outlives its context if it must.
class Plan {
 public:
  // attn_plan_create.
  static Result<Plan> create(const Context& context, const attn_plan_config& config) noexcept {
    attn_plan* handle = nullptr;
    const auto done = detail::check(
        [&](attn_error* e) { return attn_plan_create(context.get(), &config, &handle, e); });
    if (!done) return done.error();
    return Plan(handle);
  }

  // attn_plan_workspace_size: bytes.
  Result<std::size_t> try_workspace_size() const noexcept {
    std::size_t size = 0;
    const auto done =
        detail::check([&](attn_error* e) { return attn_plan_workspace_size(get(), &size, e); });
    if (!done) return done.error();
    return size;
  }

  // attn_run; from any number of threads, each with outputs and a workspace of its own.
  Result<void> try_run(const attn_run_args& args) const noexcept {
    return detail::check([&](attn_error* e) { return attn_run(get(), &args, e); });
  }

  // attn_plan_get_info; strings live as long as this object.
  Result<attn_plan_info> try_info() const noexcept {
    attn_plan_info info = ATTN_PLAN_INFO_INIT;
    const auto done =
        detail::check([&](attn_error* e) { return attn_plan_get_info(get(), &info, e); });
    if (!done) return done.error();
    return info;
  }

  // The fastest tile_k and kv_chunk for such runs, measured for about that long.
  Result<attn_autotune_info> try_autotune(const attn_run_args& args,
                                          std::int64_t budget_ns) const noexcept {
    attn_autotune_info info = ATTN_AUTOTUNE_INFO_INIT;
    const auto done = detail::check(
        [&](attn_error* e) { return attn_plan_autotune(get(), &args, budget_ns, &info, e); });
    if (!done) return done.error();
    return info;
  }

  // Choices and refusals, several lines for people.
  std::string describe() const {
    std::string text(attn_plan_describe(get(), nullptr, 0), '\0');
    attn_plan_describe(get(), text.data(), text.size() + 1);
    return text;
  }

#ifndef ATTN_NO_EXCEPTIONS
  // create, throwing.
  Plan(const Context& context, const attn_plan_config& config)
      : Plan(create(context, config).or_throw()) {}
  // try_workspace_size, throwing.
  std::size_t workspace_size() const { return try_workspace_size().or_throw(); }
  // try_run, throwing.
  void run(const attn_run_args& args) const { try_run(args).or_throw(); }
  // try_info, throwing.
  attn_plan_info info() const { return try_info().or_throw(); }
  // try_autotune, throwing.
  attn_autotune_info autotune(const attn_run_args& args, std::int64_t budget_ns) const {
    return try_autotune(args, budget_ns).or_throw();
  }
#endif

  // The handle, which stays this object's.
  attn_plan* get() const noexcept { return owner_.get(); }

 private:
  explicit Plan(attn_plan* handle) noexcept : owner_(handle) {}
  detail::Owner<attn_plan, attn_plan_destroy> owner_;
};

// Attention in one call: attn_attention of attn.h; VERSION if the loaded library is older than this
// header.
inline Result<void> try_attention(const attn_tensor& q, const attn_tensor& k, const attn_tensor& v,
                                  const attn_tensor& o, attn_features features = 0) noexcept {
  const auto fits = detail::check_version();
  if (!fits) return fits;
  return detail::check([&](attn_error* e) { return attn_attention(&q, &k, &v, &o, features, e); });
}

#ifndef ATTN_NO_EXCEPTIONS
// try_attention, throwing.
inline void attention(const attn_tensor& q, const attn_tensor& k, const attn_tensor& v,
                      const attn_tensor& o, attn_features features = 0) {
  try_attention(q, k, v, o, features).or_throw();
}
#endif

}  // namespace attn

#endif  // ATTN_ATTN_HPP_
