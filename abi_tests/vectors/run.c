/* run.c: the test vectors (vectors.txt tells what they are) from C, through attn.h. */
#include <setjmp.h> /* cmocka.h wants these four before it */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <attn/attn.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { MAX_TENSORS = 24, MAX_CONTEXTS = 16 };

typedef struct Output {
  const char* name;
  attn_tensor* tensor;
  unsigned char* memory;
  size_t size;
  int64_t rows, columns;
  double* values;
  double* tolerances;
} Output;

typedef struct Case {
  const char* name;
  attn_plan_config plan;
  attn_run_args args;
  attn_tensor tensors[MAX_TENSORS];
  unsigned char* memory[MAX_TENSORS];
  int tensor_count;
  Output outputs[2];
  int output_count;
} Case;

static const struct {
  const char* name;
  size_t offset;
  size_t size;
} kPlanFields[] = {
#define FIELD(name) \
  { #name, offsetof(attn_plan_config, name), sizeof(((attn_plan_config*)0)->name) }
    FIELD(features),    FIELD(q_dtype),      FIELD(k_dtype),      FIELD(v_dtype),
    FIELD(o_dtype),     FIELD(bias_dtype),   FIELD(q_layout),     FIELD(kv_layout),
    FIELD(alignment),   FIELD(page_size),    FIELD(block_q),      FIELD(block_k),
    FIELD(heads_q),     FIELD(heads_kv),     FIELD(head_dim),     FIELD(head_dim_v),
    FIELD(max_batch),   FIELD(max_seqlen_q), FIELD(max_seqlen_k), FIELD(max_total_q),
    FIELD(max_total_k), FIELD(window_left),  FIELD(window_right),
#undef FIELD
};

static const struct {
  const char* name;
  size_t offset;
} kTensorFields[] = {
#define FIELD(name) \
  { #name, offsetof(attn_run_args, name) }
    FIELD(q),
    FIELD(k),
    FIELD(v),
    FIELD(o),
    FIELD(lse),
    FIELD(seqlens_q),
    FIELD(seqlens_k),
    FIELD(cu_seqlens_q),
    FIELD(cu_seqlens_k),
    FIELD(block_table),
    FIELD(q_start),
    FIELD(k_start),
    FIELD(bias),
    FIELD(bias_k0),
    FIELD(mask),
    FIELD(mask_k0),
    FIELD(alibi_slopes),
    FIELD(sink),
    FIELD(block_mask),
    FIELD(k_scale),
    FIELD(v_scale),
#undef FIELD
};

/* ---- reading ---- */

static char* words; /* the rest of the line that is being read */

static char* word(void) {
  char* start = words + strspn(words, " ");
  size_t length = strcspn(start, " ");
  if (length == 0) fail_msg("a word is missing");
  words = start + length;
  if (*words) *words++ = '\0';
  return start;
}

static int64_t number(void) { return strtoll(word(), NULL, 10); }

/* `size` bytes, of which the line has the hexadecimal digits, as memory of their own. */
static void* bytes(size_t size) {
  unsigned char* memory = calloc(size + 1, 1);
  const char* digits = word();
  size_t i;
  if (size == 0) {
    assert_string_equal(digits, "-");
    return memory;
  }
  assert_int_equal(strlen(digits), 2 * size);
  for (i = 0; i < size; i++) {
    const char pair[3] = {digits[2 * i], digits[2 * i + 1], '\0'};
    char* end;
    memory[i] = (unsigned char)strtol(pair, &end, 16);
    if (*end) fail_msg("not hexadecimal: %s", pair);
  }
  return memory;
}

static void read_plan_field(Case* c) {
  const char* name = word();
  size_t i;
  if (strcmp(name, "scale") == 0) {
    c->plan.scale = strtof(word(), NULL);
    return;
  }
  if (strcmp(name, "softcap") == 0) {
    c->plan.softcap = strtof(word(), NULL);
    return;
  }
  for (i = 0; i < COUNT(kPlanFields); i++) {
    char* field = (char*)&c->plan + kPlanFields[i].offset;
    const int64_t value = strcmp(name, kPlanFields[i].name) == 0 ? number() : 0;
    if (value == 0) continue;
    if (kPlanFields[i].size == 8) {
      memcpy(field, &value, 8);
    } else {
      const int32_t small = (int32_t)value;
      memcpy(field, &small, 4);
    }
    return;
  }
  fail_msg("no plan field %s", name);
}

static void read_tensor(Case* c, int is_output) {
  const char* name = word();
  attn_tensor* tensor = &c->tensors[c->tensor_count];
  int64_t shape[ATTN_MAX_RANK], first, count;
  size_t i;
  int d;
  const attn_dtype dtype = (attn_dtype)number();
  const int32_t rank = (int32_t)number();
  assert_in_range(rank, 1, ATTN_MAX_RANK);
  for (d = 0; d < rank; d++) shape[d] = number();
  attn_tensor_init(tensor, NULL, dtype, rank, shape);
  for (d = 0; d < rank; d++) tensor->strides[d] = number();
  first = number();
  count = number();
  {
    const size_t size = (size_t)count * attn_dtype_size(dtype);
    unsigned char* memory = is_output ? calloc(size + 1, 1) : bytes(size);
    tensor->data = memory;
    tensor->byte_offset = (uint64_t)first * attn_dtype_size(dtype);
    c->memory[c->tensor_count++] = memory;
    if (is_output) {
      Output* output = &c->outputs[c->output_count++];
      output->name = name;
      output->tensor = tensor;
      output->memory = memory;
      output->size = size;
    }
  }
  for (i = 0; i < COUNT(kTensorFields); i++) {
    if (strcmp(name, kTensorFields[i].name)) continue;
    memcpy((char*)&c->args + kTensorFields[i].offset, &tensor, sizeof tensor);
    return;
  }
  fail_msg("no tensor %s", name);
}

static void read_expected(Case* c) {
  const char* name = word();
  int i;
  for (i = 0; i < c->output_count; i++) {
    Output* output = &c->outputs[i];
    if (strcmp(name, output->name)) continue;
    output->rows = number();
    output->columns = number();
    output->values = bytes((size_t)(output->rows * output->columns) * sizeof(double));
    output->tolerances = bytes((size_t)output->rows * sizeof(double));
    return;
  }
  fail_msg("expect %s: no such output", name);
}

/* ---- running and comparing ---- */

static double half(unsigned bits, int fraction_bits, int bias) {
  const int field = (int)(bits & 0x7fff) >> fraction_bits;
  const double fraction = (double)(bits & ((1u << fraction_bits) - 1));
  const double one = (double)(1u << fraction_bits);
  double magnitude = field ? ldexp(one + fraction, field - bias - fraction_bits)
                           : ldexp(fraction, 1 - bias - fraction_bits);
  if (field == 0x7fff >> fraction_bits) magnitude = fraction != 0 ? NAN : INFINITY;
  return bits & 0x8000 ? -magnitude : magnitude;
}

/* Element n in row-major order. */
static double element(const attn_tensor* t, int64_t n) {
  const char* at = (const char*)t->data + t->byte_offset;
  float f32;
  uint16_t u16;
  int32_t d;
  for (d = t->rank - 1; d >= 0; d--) {
    at += n % t->shape[d] * t->strides[d] * (int64_t)attn_dtype_size(t->dtype);
    n /= t->shape[d];
  }
  if (t->dtype == ATTN_DTYPE_F32) {
    memcpy(&f32, at, sizeof f32);
    return f32;
  }
  memcpy(&u16, at, sizeof u16);
  return t->dtype == ATTN_DTYPE_F16 ? half(u16, 10, 15) : half(u16, 7, 127);
}

static void compare(const Case* c, const char* target) {
  int i;
  for (i = 0; i < c->output_count; i++) {
    const Output* output = &c->outputs[i];
    int64_t n;
    assert_non_null(output->values);
    for (n = 0; n < output->rows * output->columns; n++) {
      const double actual = element(output->tensor, n), right = output->values[n];
      const double tolerance = output->tolerances[n / output->columns];
      if (!(isinf(right) ? actual == right : fabs(actual - right) <= tolerance)) {
        fail_msg("%s on %s: %s[%" PRId64 "] is %.9g, expected %.9g within %.3g", c->name, target,
                 output->name, n, actual, right, tolerance);
      }
    }
  }
}

static uint64_t hash_of(const Case* c) {
  uint64_t hash = 0xcbf29ce484222325u;
  int i;
  for (i = 0; i < c->output_count; i++) {
    size_t n;
    for (n = 0; n < c->outputs[i].size; n++) {
      hash = (hash ^ c->outputs[i].memory[n]) * 0x100000001b3u;
    }
  }
  return hash;
}

static attn_context* contexts[MAX_CONTEXTS]; /* one for each available instruction set */
static int context_count;
static FILE* hashes; /* or NULL */
static int computed;

static void run_case(Case* c) {
  int i;
  for (i = 0; i < context_count; i++) {
    attn_context_info info = ATTN_CONTEXT_INFO_INIT;
    int32_t n;
    assert_int_equal(attn_context_get_info(contexts[i], &info, NULL), ATTN_OK);
    for (n = 0; n < attn_context_backend_count(contexts[i]); n++) {
      attn_backend_info backend = ATTN_BACKEND_INFO_INIT;
      attn_plan* plan = NULL;
      attn_error error = {ATTN_OK, ""};
      attn_status status;
      char target[64];
      int o;
      assert_int_equal(attn_context_get_backend(contexts[i], n, &backend, NULL), ATTN_OK);
      if (!backend.available) continue;
      snprintf(target, sizeof target, "%s %s", backend.name, info.isa_name);
      c->plan.backend = backend.name;
      status = attn_plan_create(contexts[i], &c->plan, &plan, &error);
      if (status == ATTN_ERROR_UNSUPPORTED && strcmp(backend.name, "standard")) {
        if (hashes) fprintf(hashes, "%s %s unsupported\n", c->name, target);
        continue;
      }
      if (status != ATTN_OK) fail_msg("%s on %s: %s", c->name, target, error.message);
      assert_int_equal(attn_plan_workspace_size(plan, &c->args.workspace_size, NULL), ATTN_OK);
      c->args.workspace = aligned_alloc(ATTN_WORKSPACE_ALIGNMENT,
                                        (c->args.workspace_size + ATTN_WORKSPACE_ALIGNMENT) /
                                            ATTN_WORKSPACE_ALIGNMENT * ATTN_WORKSPACE_ALIGNMENT);
      for (o = 0; o < c->output_count; o++) {
        memset(c->outputs[o].memory, 0, c->outputs[o].size);
      }
      status = attn_run(plan, &c->args, &error);
      free(c->args.workspace);
      attn_plan_destroy(plan);
      if (status != ATTN_OK) fail_msg("%s on %s: %s", c->name, target, error.message);
      compare(c, target);
      computed++;
      if (hashes) fprintf(hashes, "%s %s %016" PRIx64 "\n", c->name, target, hash_of(c));
    }
  }
}

static void free_case(Case* c) {
  int i;
  for (i = 0; i < c->tensor_count; i++) free(c->memory[i]);
  for (i = 0; i < c->output_count; i++) {
    free(c->outputs[i].values);
    free(c->outputs[i].tolerances);
  }
}

static void create_contexts(void) {
  attn_context* probe = NULL;
  int32_t i;
  assert_int_equal(attn_context_create(NULL, &probe, NULL), ATTN_OK);
  for (i = 0; i < attn_context_isa_count(probe); i++) {
    attn_isa_info isa = ATTN_ISA_INFO_INIT;
    attn_context_config config = ATTN_CONTEXT_CONFIG_INIT;
    assert_int_equal(attn_context_get_isa(probe, i, &isa, NULL), ATTN_OK);
    if (!isa.available) continue;
    assert_in_range(context_count, 0, MAX_CONTEXTS - 1);
    config.isa = isa.isa;
    assert_int_equal(attn_context_create(&config, &contexts[context_count++], NULL), ATTN_OK);
  }
  attn_context_destroy(probe);
}

static char* read_file(const char* path) {
  FILE* file = fopen(path, "rb");
  long size;
  char* text;
  if (!file) fail_msg("%s does not open", path);
  fseek(file, 0, SEEK_END);
  size = ftell(file);
  rewind(file);
  text = calloc((size_t)size + 1, 1);
  assert_int_equal(fread(text, 1, (size_t)size, file), (size_t)size);
  fclose(file);
  return text;
}

static void vectors(void** state) {
  char* text = read_file(ATTN_VECTORS);
  const char* folder = getenv("ATTN_VECTORS_OUT");
  char* next = text;
  Case c;
  int cases = 0;
  (void)state;
  if (folder) {
    char path[4096];
    snprintf(path, sizeof path, "%s/c.txt", folder);
    hashes = fopen(path, "w");
    if (!hashes) fail_msg("%s does not open", path);
  }
  create_contexts();
  while (*next) {
    const char* keyword;
    words = next;
    next += strcspn(next, "\n");
    if (*next) *next++ = '\0';
    if (*words == '\0' || *words == '#') continue;
    keyword = word();
    if (strcmp(keyword, "case") == 0) {
      memset(&c, 0, sizeof c);
      attn_plan_config_init(&c.plan, sizeof c.plan);
      attn_run_args_init(&c.args, sizeof c.args);
      c.name = word();
    } else if (strcmp(keyword, "plan") == 0) {
      read_plan_field(&c);
    } else if (strcmp(keyword, "input") == 0) {
      read_tensor(&c, 0);
    } else if (strcmp(keyword, "output") == 0) {
      read_tensor(&c, 1);
    } else if (strcmp(keyword, "expect") == 0) {
      read_expected(&c);
    } else if (strcmp(keyword, "end") == 0) {
      run_case(&c);
      free_case(&c);
      cases++;
    } else {
      fail_msg("no keyword %s", keyword);
    }
  }
  printf("%d cases, computed %d times\n", cases, computed);
  assert_true(cases > 0 && computed >= cases);
  while (context_count > 0) attn_context_destroy(contexts[--context_count]);
  if (hashes) fclose(hashes);
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(vectors)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
