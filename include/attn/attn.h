/* attn.h: attention that any program can load. The whole C interface of libattn.
 *
 *   O = softmax(scale * Q K^T + bias, masked) V
 *
 * for CPUs (scalar, AVX2, AVX-512, NEON) and, through plugins, other devices. This header needs a
 * C99 or C++11 compiler and nothing else. The library needs libc, libm and the loader.
 *
 * Contents
 *   1. Basics: version, status, errors
 *   2. Tensors
 *   3. In a hurry: attention in one call
 *   4. Contexts: threads, memory, instruction set
 *   5. Plans: what is to be computed
 *   6. Runs: computing it
 *   7. Merging partial results
 *   8. Introspection: what is there, what was chosen, and why
 *   9. Tuning: the fastest tiles on this machine
 *
 * Stability. This is a 0.x interface: a minor version may still change it, and the SOVERSION is
 * then another (libattn.so.0.MINOR). From 1.0 on nothing is removed or changed within a major
 * version.
 *
 * The contract of a result (every backend, every device)
 *   Per query head:
 *     S = scale * Q K^T                                     scale: 1/sqrt(head_dim) unless given
 *     S = softcap * tanh(S / softcap)                       if softcap is given
 *     S = S - slope * |query position - key position|       ALiBi, if given
 *     S = S + bias                                          if given; -inf masks
 *     S = -inf                                              wherever a mask forbids the key
 *     O = softmax(S) V,   LSE = ln(sum_j exp(S_j))          sink: see attn_run_args
 *   - Lengths are each sequence's own, never the tensor's extent. Query i stands at position
 *     q_start + i, key j at k_start + j. By default k_start is 0 and q_start is
 *     seqlen_k - seqlen_q (bottom-right alignment: the last query sees the last key) or 0
 *     (ATTN_ALIGN_TOP_LEFT). The tensors q_start and k_start override that.
 *   - Causal: key position <= query position. Window: query position - window_left <= key
 *     position <= query position + window_right, each bound only where its feature is set.
 *   - GQA and MQA: query head h reads kv head h / (heads_q / heads_kv).
 *   - A row that may attend to no key, or whose scores are all -inf: O is exactly 0, LSE is -inf
 *     (the sink's logit if there is a sink). Never NaN.
 *   - What is masked out never influences a result, NaN and Inf included. A NaN that is attended
 *     comes out as NaN.
 *   - Accumulation in f32 or wider. Error against exact arithmetic: f32: 1e-5 * max|V|; f16 and
 *     bf16: at most twice that of the plain computation in the same type, plus one ulp of max|V|.
 *   - Deterministic and batch-invariant in bits: the same for any number of threads, any executor
 *     order, and whatever else is in the call, for a given backend, instruction set, tile_k and
 *     kv_chunk.
 *
 * Config structs
 *   Every struct that begins with `struct_size` is a config struct. Start from its ATTN_*_INIT
 *   macro (or attn_*_init() from another language); a field that is 0 then means "default".
 *   Fields are only ever appended. A shorter struct of an older program reads as defaults; a
 *   longer one of a newer program is refused if what this library does not know is non-zero.
 *   Pointers in a config struct are borrowed for the call only, unless said otherwise.
 *
 * Threads
 *   Contexts and plans are immutable after creation. Any number of threads may use the same one at
 *   the same time, as long as concurrent runs have distinct outputs and workspaces. Destroying an
 *   object while another thread uses it is an error of the caller.
 */
#ifndef ATTN_ATTN_H_
#define ATTN_ATTN_H_

#include <stddef.h>
#include <stdint.h>

#ifndef ATTN_API
#if defined(_WIN32)
#define ATTN_API __declspec(dllimport)
#elif defined(__GNUC__)
#define ATTN_API __attribute__((visibility("default")))
#else
#define ATTN_API
#endif
#endif

/* Marks functions whose status must not be ignored. */
#ifndef ATTN_MUST_CHECK
#if defined(__GNUC__)
#define ATTN_MUST_CHECK __attribute__((warn_unused_result))
#else
#define ATTN_MUST_CHECK
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------
 * 1. Basics: version, status, errors
 * --------------------------------------------------------------------------------------------- */

/* The version of this header. */
#define ATTN_VERSION_MAJOR 0
#define ATTN_VERSION_MINOR 1
#define ATTN_VERSION_PATCH 0

/* One number for comparisons: 1002003 is version 1.2.3. */
#define ATTN_MAKE_VERSION(major, minor, patch) ((major)*1000000 + (minor)*1000 + (patch))
#define ATTN_VERSION ATTN_MAKE_VERSION(ATTN_VERSION_MAJOR, ATTN_VERSION_MINOR, ATTN_VERSION_PATCH)

/* The version of the loaded library, comparable with ATTN_VERSION, the header's. Since 0.1. */
ATTN_API int32_t attn_version(void);

/* The same as text, "0.1.0". Static storage. Since 0.1. */
ATTN_API const char* attn_version_string(void);

/* How a call ended. */
typedef int32_t attn_status;
enum {
  ATTN_OK = 0,
  ATTN_ERROR_INVALID_ARGUMENT = 1, /* a value that is never legal; the message names the field */
  ATTN_ERROR_UNSUPPORTED = 2,      /* legal, but the backend that would have to cannot do it */
  ATTN_ERROR_UNAVAILABLE = 3,      /* a forced backend or instruction set is not on this machine */
  ATTN_ERROR_OUT_OF_MEMORY = 4,
  ATTN_ERROR_WORKSPACE = 5, /* the workspace is missing, too small or not aligned */
  ATTN_ERROR_VERSION = 6,   /* a struct or plugin of another version, not readable by this one */
  ATTN_ERROR_EXECUTOR = 7,  /* the executor did not run the tasks; outputs are undefined */
  ATTN_ERROR_DEVICE = 8,    /* the device failed; outputs are undefined */
  ATTN_ERROR_INTERNAL = 9   /* a defect of the library */
};

/* The name of a status, "ATTN_ERROR_WORKSPACE"; for an unknown one "unknown status". Static
 * storage. Since 0.1. */
ATTN_API const char* attn_status_name(attn_status status);

/* A caller-owned place for a failure's status and words. Every function that can fail takes a
 * pointer to one, or NULL. It is written on failure only. `message` is NUL-terminated UTF-8, one
 * line, and names the field, what it held and what is allowed. Frozen layout, 512 bytes. */
typedef struct attn_error {
  attn_status status;
  char message[508];
} attn_error;

/* The message of the last failure on the calling thread, "" if there was none. Valid until the
 * thread's next failure. A caller whose code may move between threads passes an attn_error
 * instead. Since 0.1. */
ATTN_API const char* attn_last_error(void);

/* ------------------------------------------------------------------------------------------------
 * 2. Tensors
 * --------------------------------------------------------------------------------------------- */

/* Types of elements. */
typedef int32_t attn_dtype;
enum {
  ATTN_DTYPE_INVALID = 0,
  ATTN_DTYPE_F32 = 1,
  ATTN_DTYPE_F16 = 2,    /* IEEE binary16 */
  ATTN_DTYPE_BF16 = 3,   /* the upper half of an f32 */
  ATTN_DTYPE_F8E4M3 = 4, /* finite only (OCP E4M3): no infinities, one NaN pattern */
  ATTN_DTYPE_I8 = 5,
  ATTN_DTYPE_U8 = 6, /* boolean masks: any non-zero byte is true */
  ATTN_DTYPE_I32 = 7,
  ATTN_DTYPE_I64 = 8
};

/* Bytes of one element; 0 for an invalid dtype. Since 0.1. */
ATTN_API size_t attn_dtype_size(attn_dtype dtype);

/* "f32", "bf16", ...; "invalid" for an invalid dtype. Static storage. Since 0.1. */
ATTN_API const char* attn_dtype_name(attn_dtype dtype);

/* Device types are numbered as in DLPack; a device type of 0 means the CPU. */
typedef int32_t attn_device_type;
enum { ATTN_DEVICE_CPU = 1, ATTN_DEVICE_CUDA = 2 };

/* The most dimensions of a tensor. */
#define ATTN_MAX_RANK 6

/* A view of the caller's memory; it owns nothing. Frozen layout, 144 bytes.
 *
 * Element (i0, i1, ...) lies at data + byte_offset + (i0*strides[0] + i1*strides[1] + ...) *
 * element size. Strides are in elements, are taken literally, and may be 0 (broadcast) or negative
 * for inputs. Alignment to the element's size is enough; nothing outside of the view is read or
 * written. `data` may be NULL if the view has no elements. Entries of shape and strides from
 * `rank` on are ignored. */
typedef struct attn_tensor {
  void* data;
  uint64_t byte_offset;
  attn_dtype dtype;
  attn_device_type device_type;
  int32_t device_id;
  int32_t rank;
  int64_t shape[ATTN_MAX_RANK];
  int64_t strides[ATTN_MAX_RANK];
  uint64_t reserved[2]; /* must be 0 */
} attn_tensor;

/* Describes contiguous (row-major) CPU memory: sets every field of `tensor`, strides from `shape`.
 * Nothing is checked here; the call that takes the tensor does. Since 0.1. */
ATTN_API void attn_tensor_init(attn_tensor* tensor, void* data, attn_dtype dtype, int32_t rank,
                               const int64_t* shape);

/* ------------------------------------------------------------------------------------------------
 * 3. In a hurry: attention in one call
 * --------------------------------------------------------------------------------------------- */

/* What a plan asks for beyond softmax(scale * Q K^T) V. The ones marked with a tensor's name mean
 * that each run carries that tensor. */
typedef uint32_t attn_features;
enum {
  ATTN_CAUSAL = 1 << 0,
  ATTN_WINDOW_LEFT = 1 << 1,  /* attn_plan_config.window_left is a bound */
  ATTN_WINDOW_RIGHT = 1 << 2, /* attn_plan_config.window_right is a bound */
  ATTN_SEQLENS_Q = 1 << 3,    /* seqlens_q (padded Q only) */
  ATTN_SEQLENS_K = 1 << 4,    /* seqlens_k (padded K and V; implied by paged ones) */
  ATTN_Q_START = 1 << 5,      /* q_start */
  ATTN_K_START = 1 << 6,      /* k_start */
  ATTN_BIAS = 1 << 7,         /* bias, of attn_plan_config.bias_dtype */
  ATTN_BIAS_RANGE = 1 << 8,   /* bias covers only the keys [k0, k0 + n); bias_k0 may be given */
  ATTN_MASK = 1 << 9,         /* mask */
  ATTN_MASK_RANGE = 1 << 10,  /* mask covers only the keys [k0, k0 + n); mask_k0 may be given */
  ATTN_ALIBI = 1 << 11,       /* alibi_slopes */
  ATTN_SINK = 1 << 12,        /* sink */
  ATTN_BLOCK_MASK = 1 << 13   /* block_mask */
};

/* O = softmax(Q K^T / sqrt(head_dim)) V with a context of the library's own (all cores, created at
 * the first call), planning and allocating as needed. For programs that call attention often, a
 * context and a plan avoid that work.
 *
 *   q  [batch, heads_q,  seqlen_q, head_dim]     f32, f16 or bf16
 *   k  [batch, heads_kv, seqlen_k, head_dim]
 *   v  [batch, heads_kv, seqlen_k, head_dim_v]
 *   o  [batch, heads_q,  seqlen_q, head_dim_v]   written
 *   features  0 or ATTN_CAUSAL
 *
 * Thread-safe. Fails as attn_plan_create and attn_run do; o is untouched on failure unless the
 * status is ATTN_ERROR_EXECUTOR or ATTN_ERROR_DEVICE. Since 0.1. */
ATTN_API ATTN_MUST_CHECK attn_status attn_attention(const attn_tensor* q, const attn_tensor* k,
                                                    const attn_tensor* v, const attn_tensor* o,
                                                    attn_features features, attn_error* error);

/* ------------------------------------------------------------------------------------------------
 * 4. Contexts: threads, memory, instruction set
 * --------------------------------------------------------------------------------------------- */

/* Threads, memory and instruction set of the plans that are made from it. */
typedef struct attn_context attn_context;

/* Instruction sets of the CPU backends. AVX512_BF16 is AVX512, but that flash multiplies pairs of
 * bf16 where Q is bf16 and K and V are bf16, i8 or f8e4m3 (without more than one scale in a row):
 * exact products, summed in f32, in which bf16 and f32 denormals count as 0. By default it is used
 * where that is faster: on AMD's processors that have it. AMX_BF16 does those products with the
 * matrix units of Intel's servers, for more than 16 queries. A process must ask Linux for these
 * once, after which stacks for signal handlers have to be larger, for good and in all of its
 * threads. So it is never chosen by default: to name it is to ask. Since 0.1. */
typedef int32_t attn_isa;
enum {
  ATTN_ISA_AUTO = 0,
  ATTN_ISA_SCALAR = 1,
  ATTN_ISA_AVX2 = 2,   /* with FMA and F16C */
  ATTN_ISA_AVX512 = 3, /* F, BW, DQ, VL */
  ATTN_ISA_NEON = 4,   /* AArch64 */
  ATTN_ISA_AVX512_BF16 = 5,
  ATTN_ISA_AMX_BF16 = 6
};

/* Memory that the library asks for: at creation, at warm-up and in attn_attention, never in a run
 * of a warmed-up context. `allocate` returns NULL when it cannot; alignment is a power of two.
 * `deallocate` gets back the size and alignment of the request. Both are called from any thread. */
typedef struct attn_allocator {
  uint32_t struct_size;
  uint32_t reserved; /* must be 0 */
  void* user;
  void* (*allocate)(void* user, size_t size, size_t alignment);
  void (*deallocate)(void* user, void* pointer, size_t size, size_t alignment);
} attn_allocator;
#define ATTN_ALLOCATOR_INIT \
  { sizeof(attn_allocator), 0, 0, 0, 0 }
/* As ATTN_ALLOCATOR_INIT, for a struct of `size` bytes, the caller's sizeof. Since 0.1. */
ATTN_API void attn_allocator_init(attn_allocator* allocator, size_t size);

/* One task of a parallel loop: `task` in [0, n), `worker` in [0, concurrency). Two tasks that run
 * at the same time have different workers. */
typedef void (*attn_task_fn)(void* arg, int64_t task, int32_t worker);

/* The host's threads. `parallel_for` calls fn(arg, task, worker) once for each task, in any order
 * and on any threads, and returns 0 after the last one has returned, or non-zero if it could not
 * run them all. Tasks never wait for one another and never call back into the executor; one thread
 * that runs them in a loop is a correct executor. It may be called from several threads at once
 * if the program runs plans from several threads at once. */
typedef struct attn_executor {
  uint32_t struct_size;
  int32_t concurrency; /* workers: 1 to 1024; 0 means 1 */
  void* user;
  int32_t (*parallel_for)(void* user, int64_t n, attn_task_fn fn, void* arg);
} attn_executor;
#define ATTN_EXECUTOR_INIT \
  { sizeof(attn_executor), 0, 0, 0 }
/* As ATTN_EXECUTOR_INIT, for a struct of `size` bytes, the caller's sizeof. Since 0.1. */
ATTN_API void attn_executor_init(attn_executor* executor, size_t size);

/* How much a message of the log matters. */
typedef int32_t attn_log_level;
enum { ATTN_LOG_DEBUG = 1, ATTN_LOG_INFO = 2, ATTN_LOG_WARNING = 3 };

/* Receives what the library has to say beside statuses: it prints nothing itself. Called from the
 * thread that entered the library; `message` is valid during the call. */
typedef void (*attn_log_fn)(void* user, attn_log_level level, const char* message);

/* What a context is made of; every field may stay 0. */
typedef struct attn_context_config {
  uint32_t struct_size;
  int32_t num_threads; /* of the built-in pool: 1 to 1024; 0: the CPUs that the process may use */
  attn_isa isa;        /* force one; 0: ATTN_FORCE_ISA of the environment, else the fastest */
  uint32_t reserved;   /* must be 0 */
  const attn_allocator* allocator; /* copied; NULL: malloc */
  const attn_executor* executor;   /* copied; NULL: the built-in pool. Excludes num_threads */
  const char* backend_dir; /* absolute directory of the plugins; NULL: ATTN_BACKEND_DIR of the
                              environment (not in a set-uid process), else beside libattn */
  attn_log_fn log;         /* NULL: nobody listens */
  void* log_user;
} attn_context_config;
#define ATTN_CONTEXT_CONFIG_INIT \
  { sizeof(attn_context_config), 0, 0, 0, 0, 0, 0, 0, 0 }
/* As ATTN_CONTEXT_CONFIG_INIT, for a struct of `size` bytes, the caller's sizeof. Since 0.1. */
ATTN_API void attn_context_config_init(attn_context_config* config, size_t size);

/* Creates a context. `config` may be NULL (all defaults). Starts no threads yet. On success
 * *context is set and is the caller's to destroy; on failure it is untouched.
 * Fails with INVALID_ARGUMENT, VERSION, UNAVAILABLE (a forced isa that this machine or build lacks)
 * or OUT_OF_MEMORY. Since 0.1. */
ATTN_API ATTN_MUST_CHECK attn_status attn_context_create(const attn_context_config* config,
                                                         attn_context** context, attn_error* error);

/* Destroys a context; NULL is legal. Plans made from it stay usable: they keep what they need. The
 * threads end with the last of them. Since 0.1. */
ATTN_API void attn_context_destroy(attn_context* context);

/* Starts the threads now instead of in the first run, after which a run allocates nothing. In a
 * child after fork() the next run does this again. Since 0.1. */
ATTN_API ATTN_MUST_CHECK attn_status attn_context_warmup(attn_context* context, attn_error* error);

/* ------------------------------------------------------------------------------------------------
 * 5. Plans: what is to be computed
 * --------------------------------------------------------------------------------------------- */

/* A kind of problem, checked, with the backend that computes it and its tiles. */
typedef struct attn_plan attn_plan;

/* What a plan computes. */
typedef int32_t attn_plan_kind;
enum { ATTN_PLAN_FORWARD = 0 };

/* How a batch of sequences of uneven lengths lies in memory.
 *   PADDED  [batch, heads, seqlen, dim], optional int32 lengths
 *   PACKED  [1, heads, total, dim], sequence after sequence, with int32 cu_seqlens[batch + 1]
 *   PAGED   (K and V only) [pages, heads_kv, page_size, dim] with an int32 block_table
 *           [batch, pages per sequence] and lengths; unused entries are never read
 * Other memory orders ([batch, seqlen, heads, dim] and so on) are a matter of strides. */
typedef int32_t attn_layout;
enum { ATTN_LAYOUT_PADDED = 0, ATTN_LAYOUT_PACKED = 1, ATTN_LAYOUT_PAGED = 2 };

/* Where query 0 stands relative to key 0 when no q_start is given. */
typedef int32_t attn_alignment;
enum { ATTN_ALIGN_BOTTOM_RIGHT = 0, ATTN_ALIGN_TOP_LEFT = 1 };

/* How runs of a plan are treated; no part of the problem. */
typedef uint32_t attn_plan_flags;
enum {
  /* On devices, a run asks the driver about each pointer and the stream, and refuses memory that
   * the plan's device cannot reach and streams of another context. A caller who knows them to be
   * right saves that time. Nothing changes on CPUs. */
  ATTN_PLAN_TRUST_POINTERS = 1 << 0
};

/* A kind of problem. Types, heads, head sizes and features are exact; the max_* fields are upper
 * bounds, and each run may be smaller. */
typedef struct attn_plan_config {
  uint32_t struct_size;
  attn_plan_kind kind;
  attn_features features;
  attn_device_type device_type; /* 0: CPU */
  int32_t device_id;
  attn_dtype q_dtype;    /* required: f32, f16 or bf16 */
  attn_dtype k_dtype;    /* 0: q_dtype */
  attn_dtype v_dtype;    /* 0: k_dtype */
  attn_dtype o_dtype;    /* f32, f16 or bf16, whatever q_dtype is; 0: q_dtype */
  attn_dtype bias_dtype; /* f32 or q_dtype; 0: f32 */
  attn_layout q_layout;  /* of q, o and lse */
  attn_layout kv_layout;
  attn_alignment alignment;
  float scale;          /* 0: 1/sqrt(head_dim) */
  float softcap;        /* 0: none; else > 0 */
  int32_t page_size;    /* paged K and V only: keys a page */
  int32_t block_q;      /* block mask only: queries a block */
  int32_t block_k;      /* block mask only: keys a block */
  int64_t heads_q;      /* required */
  int64_t heads_kv;     /* 0: heads_q; divides heads_q */
  int64_t head_dim;     /* required */
  int64_t head_dim_v;   /* 0: head_dim */
  int64_t max_batch;    /* sequences; 0: 1 */
  int64_t max_seqlen_q; /* of any sequence; required, at least 1 */
  int64_t max_seqlen_k; /* of any sequence; required, at least 1 */
  int64_t max_total_q;  /* packed Q only; 0: max_batch * max_seqlen_q */
  int64_t max_total_k;  /* packed K and V only; 0: max_batch * max_seqlen_k */
  int64_t window_left;  /* >= 0; read only with ATTN_WINDOW_LEFT */
  int64_t window_right; /* >= 0; read only with ATTN_WINDOW_RIGHT */
  const char* backend; /* "standard", "flash", ...; NULL: the first that can. Forced means forced */
  int64_t tile_k;      /* keys a step of the online softmax; 0: the backend's choice. Part of what
                          fixes a result's bits */
  int64_t kv_chunk;    /* keys a chunk where long K/V are split among workers; 0: the backend's
                          choice. Part of what fixes a result's bits */
  attn_plan_flags flags;
  uint32_t reserved; /* must be 0 */
} attn_plan_config;
#define ATTN_PLAN_CONFIG_INIT                                                                      \
  {                                                                                                \
    sizeof(attn_plan_config), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0                                                               \
  }
/* As ATTN_PLAN_CONFIG_INIT, for a struct of `size` bytes, the caller's sizeof. Since 0.1. */
ATTN_API void attn_plan_config_init(attn_plan_config* config, size_t size);

/* Creates a plan: checks the problem, picks a backend (in the order of attn_context_get_backend,
 * the first that accepts) and fixes its tiles. On success *plan is set and is the caller's to
 * destroy; on failure it is untouched. Fails with INVALID_ARGUMENT (an unknown backend name
 * included), VERSION, UNAVAILABLE (the forced backend is not on this machine), UNSUPPORTED (no
 * backend, or not the forced one, serves this; the message says why) or OUT_OF_MEMORY. Since 0.1.
 */
ATTN_API ATTN_MUST_CHECK attn_status attn_plan_create(attn_context* context,
                                                      const attn_plan_config* config,
                                                      attn_plan** plan, attn_error* error);

/* Destroys a plan; NULL is legal. Since 0.1. */
ATTN_API void attn_plan_destroy(attn_plan* plan);

/* Of a workspace's first byte. */
#define ATTN_WORKSPACE_ALIGNMENT 64

/* Bytes of workspace that a run within the plan's bounds needs; may be 0. The workspace is aligned
 * to ATTN_WORKSPACE_ALIGNMENT, on the plan's device, one for each concurrent run; its content on
 * arrival does not matter. With T workers:
 *   standard  T heads: scores [seqlen_q, seqlen_k] and f32 copies of Q, K, V and O
 *   flash     T tiles, plus packed copies of K and V of T kv heads, or of as many as fit in 16 MiB
 *             (at least one): O(T * tile + packed K/V), whatever the batch. Sequences of up to 16
 *             queries need no such copies, but an f32 row of O for each row and chunk of keys
 * Fails with INVALID_ARGUMENT if plan or size is NULL. Since 0.1. */
ATTN_API ATTN_MUST_CHECK attn_status attn_plan_workspace_size(const attn_plan* plan, size_t* size,
                                                              attn_error* error);

/* ------------------------------------------------------------------------------------------------
 * 6. Runs: computing it
 * --------------------------------------------------------------------------------------------- */

/* Everything that one run reads and writes. b = batch, hq = heads_q, hkv = heads_kv, sq and sk =
 * extents of seqlen, d = head_dim, dv = head_dim_v. All tensors lie on the plan's device.
 * A tensor whose feature is not in the plan must be NULL, and the other way round. */
typedef struct attn_run_args {
  uint32_t struct_size;
  uint32_t reserved; /* must be 0 */

  /* Padded: q [b, hq, sq, d], k [b, hkv, sk, d], v [b, hkv, sk, dv], o [b, hq, sq, dv].
   * Packed: q [1, hq, total_q, d], o likewise; k [1, hkv, total_k, d], v likewise.
   * Paged:  k [pages, hkv, page_size, d], v likewise. K and V may share memory.
   * From its lowest to its highest byte, o may overlap neither an input nor lse, nor lse an input.
   * Rows of o and lse past a padded query's length are set to 0 and -inf; packed rows that belong
   * to no sequence are left alone. */
  const attn_tensor* q;
  const attn_tensor* k;
  const attn_tensor* v;
  const attn_tensor* o;
  const attn_tensor* lse; /* optional, f32 [b, hq, sq] or packed [1, hq, total_q]: the natural log
                             of the softmax's denominator, the sink included */

  /* int32 lengths, 0 <= length <= extent. */
  const attn_tensor* seqlens_q;    /* [b] */
  const attn_tensor* seqlens_k;    /* [b] */
  const attn_tensor* cu_seqlens_q; /* [b + 1], packed Q: sequence i has rows [cu[i], cu[i + 1]) */
  const attn_tensor* cu_seqlens_k; /* [b + 1], packed K and V */
  const attn_tensor*
      block_table; /* int32 [b, n], paged: page of key j is table[b][j / page_size] */

  /* int64 [b]: positions of query 0 and key 0 of each sequence. */
  const attn_tensor* q_start;
  const attn_tensor* k_start;

  /* Any dimension of bias, mask and block_mask may be 1, or of stride 0, to broadcast.
   * Padded Q: [b, hq, sq, n]; packed Q: [1, hq, total_q, n], row = packed query row. Column =
   * key within its sequence; n is at least the longest seqlen_k of the call, unless ATTN_*_RANGE
   * says that column c is key k0 + c of its sequence, k0 being int64 [b] or [1] (NULL: 0): outside
   * of that range the mask attends and the bias is 0. There n = 1 is one key and does not
   * broadcast. */
  /* Speculative decoding: draft tokens that form a tree, behind a prefix that all of them see, are
   * queries whose last keys are their own. With ATTN_MASK_RANGE the mask is [1 or b, 1, sq, sq],
   * and mask_k0[i] is sequence i's seqlen_k - seqlen_q: byte (i, j) says whether draft token j is i
   * itself or one of its ancestors. Keys before mask_k0 cost no reading of a mask. */
  const attn_tensor* bias;    /* bias_dtype */
  const attn_tensor* bias_k0; /* optional, with ATTN_BIAS_RANGE */
  const attn_tensor* mask;    /* u8: a non-zero byte attends */
  const attn_tensor* mask_k0; /* optional, with ATTN_MASK_RANGE */

  const attn_tensor* alibi_slopes; /* f32 [hq] or [b, hq] */
  const attn_tensor* sink; /* f32 [hq]: a logit that adds exp(sink) to each row's denominator and
                              nothing to its numerator */
  const attn_tensor* block_mask; /* u8 [b, hq, ceil(max sq / block_q), ceil(max sk / block_k)],
                                    rows and columns counted within a sequence, also if packed;
                                    a zero byte masks the block */

  /* f32 scales of i8 and f8e4m3 K and V, whose values are scale * element: [b, hkv, sk], or
   * [b, hkv, sk, n] with n that divides the head size, one for each d / n elements; paged and
   * packed like K and V. Any of the first three dimensions may be 1, or of stride 0, to broadcast:
   * [1, hkv, 1] is one for each head. A scale is finite and > 0. On CPUs those of all keys are
   * checked, and none past a length, in an unused page or in a page's tail is read. */
  const attn_tensor* k_scale;
  const attn_tensor* v_scale;

  void* workspace;
  size_t workspace_size;
  void* stream; /* the device's stream or queue; NULL on CPUs */
} attn_run_args;
#define ATTN_RUN_ARGS_INIT                                                                         \
  {                                                                                                \
    sizeof(attn_run_args), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
        0                                                                                          \
  }
/* As ATTN_RUN_ARGS_INIT, for a struct of `size` bytes, the caller's sizeof. Since 0.1. */
ATTN_API void attn_run_args_init(attn_run_args* args, size_t size);

/* Runs a plan. On CPUs the result is there on return; on a device the work is in `stream`.
 * Everything is checked before anything is written: lengths, offsets and page numbers too, where
 * they lie in CPU memory. A batch, seqlen_q or seqlen_k of 0 is legal. Never allocates (after the
 * context's first run or attn_context_warmup), never synchronises a device.
 * Fails with INVALID_ARGUMENT, VERSION, WORKSPACE, EXECUTOR, DEVICE or OUT_OF_MEMORY (threads of
 * the first run). Since 0.1. */
ATTN_API ATTN_MUST_CHECK attn_status attn_run(const attn_plan* plan, const attn_run_args* args,
                                              attn_error* error);

/* Lengths, offsets, positions and page numbers that lie on a device cannot be seen by the host.
 * There a run clamps them, reads and writes nothing outside of the tensors, makes NaN of every row
 * of O and LSE that a bad one would feed, and says what was bad: a workspace of a plan whose
 * attn_plan_info.request_status_count is not 0 begins with that many of these words, one for each
 * sequence up to max_batch, valid for the run's batch once its work in the stream is done. The
 * caller may copy them. */
typedef uint32_t attn_request_status;
enum {
  ATTN_REQUEST_BAD_SEQLEN_Q = 1 << 0, /* in seqlens_q or cu_seqlens_q */
  ATTN_REQUEST_BAD_SEQLEN_K = 1 << 1, /* in seqlens_k or cu_seqlens_k */
  ATTN_REQUEST_BAD_PAGE = 1 << 2,     /* a used entry of block_table, or too few of them */
  ATTN_REQUEST_BAD_POSITION = 1 << 3  /* q_start or k_start is beyond 2^60 */
};

/* ------------------------------------------------------------------------------------------------
 * 7. Merging partial results
 * --------------------------------------------------------------------------------------------- */

/* Results of the same queries over disjoint sets of keys combine into the result over all of them:
 *   LSE = ln(sum_p exp(LSE_p)),   O = sum_p exp(LSE_p - LSE) O_p
 * summed in the order given. What ring attention, shared prefixes and split K/V are built on. A
 * part with LSE -inf has no weight, whatever its O holds; all such: O 0 and LSE -inf. */
typedef struct attn_merge_args {
  uint32_t struct_size;
  int32_t count;                       /* parts, at least 1 */
  const attn_tensor* const* o_parts;   /* count x f32 [b, h, s, dv] */
  const attn_tensor* const* lse_parts; /* count x f32 [b, h, s] */
  const attn_tensor* o;                /* f32, f16 or bf16 [b, h, s, dv]; may be the very view of a
                                          part, but overlap one in no other way */
  const attn_tensor* lse;              /* optional, f32 [b, h, s]; likewise */
  const attn_tensor* sink; /* optional, f32 [h]: applied once; then no part may have had it */
  void* stream;
} attn_merge_args;
#define ATTN_MERGE_ARGS_INIT \
  { sizeof(attn_merge_args), 0, 0, 0, 0, 0, 0, 0 }
/* As ATTN_MERGE_ARGS_INIT, for a struct of `size` bytes, the caller's sizeof. Since 0.1. */
ATTN_API void attn_merge_args_init(attn_merge_args* args, size_t size);

/* Merges. Needs no plan and no workspace. Fails as attn_run does. Since 0.1. */
ATTN_API ATTN_MUST_CHECK attn_status attn_merge(attn_context* context, const attn_merge_args* args,
                                                attn_error* error);

/* ------------------------------------------------------------------------------------------------
 * 8. Introspection: what is there, what was chosen, and why
 *
 * The structs of this section are filled by the library, up to the caller's struct_size. Their
 * strings live as long as the object that was asked. Nothing here touches a device.
 * --------------------------------------------------------------------------------------------- */

/* What a context uses. */
typedef struct attn_context_info {
  uint32_t struct_size;
  attn_isa isa;         /* what the CPU backends use */
  const char* isa_name; /* "avx512" */
  int32_t concurrency;  /* workers of the executor */
  int32_t reserved;
  size_t l1_cache_size; /* bytes of data cache for one core; 0 if unknown */
  size_t l2_cache_size;
  size_t l3_cache_size;
  const char* backend_dir; /* where plugins are looked for; "" if nowhere */
} attn_context_info;
#define ATTN_CONTEXT_INFO_INIT \
  { sizeof(attn_context_info), 0, 0, 0, 0, 0, 0, 0, 0 }
/* As ATTN_CONTEXT_INFO_INIT, for a struct of `size` bytes, the caller's sizeof. Since 0.1. */
ATTN_API void attn_context_info_init(attn_context_info* info, size_t size);
/* Fills *info; its strings live as long as the context. Fails with INVALID_ARGUMENT if a pointer is
 * NULL or info->struct_size was not set; *info is then untouched. Since 0.1. */
ATTN_API ATTN_MUST_CHECK attn_status attn_context_get_info(const attn_context* context,
                                                           attn_context_info* info,
                                                           attn_error* error);

/* An instruction set that the library knows. */
typedef struct attn_isa_info {
  uint32_t struct_size;
  attn_isa isa;
  const char* name;
  int32_t available; /* non-zero: compiled in, and this machine and its operating system have it */
  int32_t reserved;
  const char* reason; /* why it is not available, in words; "" if it is */
} attn_isa_info;
#define ATTN_ISA_INFO_INIT \
  { sizeof(attn_isa_info), 0, 0, 0, 0, 0 }
/* As ATTN_ISA_INFO_INIT, for a struct of `size` bytes, the caller's sizeof. Since 0.1. */
ATTN_API void attn_isa_info_init(attn_isa_info* info, size_t size);
/* How many instruction sets the library knows; 0 if context is NULL. Since 0.1. */
ATTN_API int32_t attn_context_isa_count(const attn_context* context);
/* Fills *info with instruction set `index`, 0 to attn_context_isa_count() - 1. Fails as
 * attn_context_get_info does, also for another index. Since 0.1. */
ATTN_API ATTN_MUST_CHECK attn_status attn_context_get_isa(const attn_context* context,
                                                          int32_t index, attn_isa_info* info,
                                                          attn_error* error);

/* A backend that the library knows, in the order in which plans try them. Plugins that are not
 * there are listed too, with the reason. */
typedef struct attn_backend_info {
  uint32_t struct_size;
  int32_t available;
  const char* name;
  const char* description; /* one line, what it serves */
  const char* reason;      /* why it is not available, in words; "" if it is */
} attn_backend_info;
#define ATTN_BACKEND_INFO_INIT \
  { sizeof(attn_backend_info), 0, 0, 0, 0 }
/* As ATTN_BACKEND_INFO_INIT, for a struct of `size` bytes, the caller's sizeof. Since 0.1. */
ATTN_API void attn_backend_info_init(attn_backend_info* info, size_t size);
/* How many backends the library knows; 0 if context is NULL. Since 0.1. */
ATTN_API int32_t attn_context_backend_count(const attn_context* context);
/* Fills *info with backend `index`, 0 to attn_context_backend_count() - 1. Fails as
 * attn_context_get_info does, also for another index. Since 0.1. */
ATTN_API ATTN_MUST_CHECK attn_status attn_context_get_backend(const attn_context* context,
                                                              int32_t index,
                                                              attn_backend_info* info,
                                                              attn_error* error);

/* What a plan chose. */
typedef struct attn_plan_info {
  uint32_t struct_size;
  attn_isa isa; /* 0 on devices that are no CPU */
  const char* backend;
  const char* isa_name; /* "" on devices that are no CPU */
  int64_t tile_q;       /* 0 where the backend has no such thing */
  int64_t tile_k;
  int64_t kv_chunk;
  size_t workspace_size;          /* bytes */
  size_t standard_workspace_size; /* what the standard backend would need for the same bounds */
  int64_t request_status_count;   /* attn_request_status words at the workspace's beginning; 0 on
                                     CPUs, which refuse what is bad before they write anything */
  const char* kernel; /* on devices: which of the backend's kernels, and why none before it, in
                         words; "" where the backend does not say */
} attn_plan_info;
#define ATTN_PLAN_INFO_INIT \
  { sizeof(attn_plan_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
/* As ATTN_PLAN_INFO_INIT, for a struct of `size` bytes, the caller's sizeof. Since 0.1. */
ATTN_API void attn_plan_info_init(attn_plan_info* info, size_t size);
/* Fills *info; its strings live as long as the plan. Fails as attn_context_get_info does.
 * Since 0.1. */
ATTN_API ATTN_MUST_CHECK attn_status attn_plan_get_info(const attn_plan* plan, attn_plan_info* info,
                                                        attn_error* error);

/* Why backend `index` (as in attn_context_get_backend) was not chosen, in words; "" for the one
 * that was; NULL for an index out of range. Lives as long as the plan. Since 0.1. */
ATTN_API const char* attn_plan_refusal(const attn_plan* plan, int32_t index);

/* All of that as text of several lines for people. Writes at most `size` bytes with the closing
 * NUL, and returns the length that the whole text has without it, as snprintf does. `text` may be
 * NULL if size is 0. Since 0.1. */
ATTN_API size_t attn_plan_describe(const attn_plan* plan, char* text, size_t size);

/* ------------------------------------------------------------------------------------------------
 * 9. Tuning: the fastest tiles on this machine
 * --------------------------------------------------------------------------------------------- */

/* What attn_plan_autotune found. The caller may keep tile_k and kv_chunk, for as long as the
 * machine and the kind of problem stay the same, and put them into attn_plan_config. */
typedef struct attn_autotune_info {
  uint32_t struct_size;
  int32_t measured;   /* values that were compared, the plan's own included */
  int64_t tile_k;     /* the fastest; 0 where the backend has no such thing */
  int64_t kv_chunk;   /* likewise */
  int64_t default_ns; /* nanoseconds of a run with the plan's own tile_k and kv_chunk */
  int64_t tuned_ns;   /* with the ones above; default_ns if those are the plan's own */
} attn_autotune_info;
#define ATTN_AUTOTUNE_INFO_INIT \
  { sizeof(attn_autotune_info), 0, 0, 0, 0, 0 }
/* As ATTN_AUTOTUNE_INFO_INIT, for a struct of `size` bytes, the caller's sizeof. Since 0.1. */
ATTN_API void attn_autotune_info_init(attn_autotune_info* info, size_t size);

/* Measures which tile_k and kv_chunk are the fastest for the plan's problem, by runs of it with
 * those of `args`: give what a typical run has. All inputs are read, lengths and masks count, and
 * nothing of the caller's is written: results go to memory from the context's allocator, as large
 * as o, lse and a workspace, freed on return; args->workspace is not used.
 *
 * What the plan was created with is not varied: a tile_k or kv_chunk other than 0, the backend, the
 * instruction set, the threads. The plan itself stays as it is. A value is preferred to the plan's
 * own only if it is at least 1% faster. Since it fixes a result's bits, programs that compare bits
 * tune once and keep the values.
 *
 * Takes about `budget_ns` nanoseconds, at least 1, but never less than the time of two runs; some
 * hundred runs find the best. Nothing else should keep the machine busy meanwhile. Fails as
 * attn_run does, but for WORKSPACE; with OUT_OF_MEMORY; and with UNSUPPORTED on devices that are no
 * CPU. *info is untouched on failure. Since 0.1. */
ATTN_API ATTN_MUST_CHECK attn_status attn_plan_autotune(const attn_plan* plan,
                                                        const attn_run_args* args,
                                                        int64_t budget_ns, attn_autotune_info* info,
                                                        attn_error* error);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* ATTN_ATTN_H_ */
