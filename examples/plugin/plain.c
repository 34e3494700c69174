/* plain.c: a backend of one's own, written against attn/backend.h alone: libattn_plain.so.
 *
 * It serves f32 in padded batches of full sequences, without features, by loops that are easy to
 * read, and refuses everything else in words. What it need not do is the library's work: `problem`
 * and `args` arrive checked and with every default filled in, memory and threads are lent. */
#include <attn/backend.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

static attn_status refuse(attn_error* error, const char* format, ...) {
  va_list words;
  va_start(words, format);
  error->status = ATTN_ERROR_UNSUPPORTED;
  vsnprintf(error->message, sizeof(error->message), format, words);
  va_end(words);
  return error->status;
}

/* It works on every machine. */
static attn_status probe(const attn_host* host, attn_error* error) {
  (void)host, (void)error;
  return ATTN_OK;
}

/* A worker's scratch memory, one row of weights, in bytes: whole cache lines of its own. */
static size_t row_size(const attn_plan_config* problem) {
  const size_t bytes = (size_t)problem->max_seqlen_k * sizeof(float);
  return (bytes + ATTN_WORKSPACE_ALIGNMENT - 1) / ATTN_WORKSPACE_ALIGNMENT *
         ATTN_WORKSPACE_ALIGNMENT;
}

static attn_status plan_create(const attn_host* host, const attn_plan_config* problem,
                               attn_backend_plan* plan, attn_error* error) {
  const attn_dtype types[] = {problem->q_dtype, problem->k_dtype, problem->v_dtype,
                              problem->o_dtype};
  const char* const names[] = {"q_dtype", "k_dtype", "v_dtype", "o_dtype"};
  const int64_t limit = (int64_t)1 << 32; /* of a row, so that no size below overflows */
  int i;
  /* Kinds of problems that a later version of the library may have. */
  if (problem->kind != ATTN_PLAN_FORWARD) {
    return refuse(error, "kind is %" PRId32 "; plain serves ATTN_PLAN_FORWARD (%d)", problem->kind,
                  ATTN_PLAN_FORWARD);
  }
  for (i = 0; i < 4; ++i) {
    if (types[i] == ATTN_DTYPE_F32) continue;
    return refuse(error, "%s is %" PRId32 "; plain serves ATTN_DTYPE_F32 (%d)", names[i], types[i],
                  ATTN_DTYPE_F32);
  }
  if (problem->features != 0) {
    return refuse(error, "features are 0x%" PRIx32 "; plain serves none", problem->features);
  }
  if (problem->softcap != 0) {
    return refuse(error, "softcap is %g; plain serves none", (double)problem->softcap);
  }
  if (problem->q_layout != ATTN_LAYOUT_PADDED || problem->kv_layout != ATTN_LAYOUT_PADDED) {
    return refuse(error,
                  "q_layout is %" PRId32 " and kv_layout %" PRId32 "; plain serves padded (%d)",
                  problem->q_layout, problem->kv_layout, ATTN_LAYOUT_PADDED);
  }
  if (problem->max_seqlen_k > limit) {
    return refuse(error, "max_seqlen_k is %" PRId64 "; plain serves up to %" PRId64,
                  problem->max_seqlen_k, limit);
  }
  plan->workspace_size = (size_t)host->concurrency * row_size(problem);
  return ATTN_OK;
}

/* There is no state to free. */
static void plan_destroy(const attn_host* host, const attn_plan_config* problem,
                         attn_backend_plan* plan) {
  (void)host, (void)problem, (void)plan;
}

/* Row (b, h, i) of a tensor of rank 4 or of lse. */
static float* row_at(const attn_tensor* t, int64_t b, int64_t h, int64_t i) {
  return (float*)((char*)t->data + t->byte_offset) + b * t->strides[0] + h * t->strides[1] +
         i * t->strides[2];
}

typedef struct {
  const attn_plan_config* problem;
  const attn_run_args* args;
  const attn_run_shape* shape;
} Run;

/* Task: one query. O = softmax(scale * Q K^T) V, LSE = ln(sum_j exp(S_j)). */
static void attend(void* arg, int64_t task, int32_t worker) {
  const Run* run = arg;
  const attn_plan_config* p = run->problem;
  const attn_run_args* args = run->args;
  const int64_t i = task % run->shape->seqlen_q, head = task / run->shape->seqlen_q;
  const int64_t h = head % p->heads_q, b = head / p->heads_q;
  const int64_t h_kv = h / (p->heads_q / p->heads_kv);
  const int64_t n = run->shape->seqlen_k;
  const float* q = row_at(args->q, b, h, i);
  float* o = row_at(args->o, b, h, i);
  float* weights = (float*)((char*)args->workspace + (size_t)worker * row_size(p));
  double sum = 0;
  float max = -INFINITY;
  int64_t j, x;

  for (j = 0; j < n; ++j) {
    const float* k = row_at(args->k, b, h_kv, j);
    double dot = 0;
    for (x = 0; x < p->head_dim; ++x)
      dot += (double)q[x * args->q->strides[3]] * (double)k[x * args->k->strides[3]];
    weights[j] = (float)(p->scale * dot);
    max = fmaxf(max, weights[j]); /* passes over NaN, which the sum keeps */
  }
  /* Without a key, or with scores of -inf alone, O is 0 and LSE is -inf. */
  if (max == -INFINITY) max = 0;
  for (j = 0; j < n; ++j) {
    weights[j] = expf(weights[j] - max);
    sum += (double)weights[j];
  }
  for (x = 0; x < p->head_dim_v; ++x) {
    double value = 0;
    for (j = 0; j < n; ++j) {
      const float weight = weights[j];
      /* Not 0 * v: a key that has no weight never counts, not even if its value is NaN. */
      if (weight != 0)
        value += (double)weight * (double)row_at(args->v, b, h_kv, j)[x * args->v->strides[3]];
    }
    o[x * args->o->strides[3]] = sum == 0 ? 0 : (float)(value / sum);
  }
  if (args->lse != NULL) *row_at(args->lse, b, h, i) = (float)((double)max + log(sum));
}

static attn_status run(const attn_host* host, const attn_plan_config* problem,
                       const attn_backend_plan* plan, const attn_run_args* args,
                       const attn_run_shape* shape, attn_error* error) {
  Run run = {problem, args, shape};
  const int64_t queries = shape->batch * problem->heads_q * shape->seqlen_q;
  (void)plan;
  return queries == 0 ? ATTN_OK : host->parallel_for(host, queries, attend, &run, error);
}

/* The one symbol that a plugin exports. */
ATTN_API const attn_backend* attn_backend_v1(void);
const attn_backend* attn_backend_v1(void) {
  static const attn_backend backend = {
      sizeof(attn_backend),
      ATTN_BACKEND_ABI,
      "plain",
      "an example: f32 without features, one query at a time",
      ATTN_DEVICE_CPU,
      ATTN_VERSION,
      probe,
      plan_create,
      plan_destroy,
      run,
      NULL, /* merging partial results is left to the library's own backends */
  };
  return &backend;
}
