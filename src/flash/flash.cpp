// The flash backend: placeholder until its host side lands.
#include "flash.h"

#include "../error.h"

namespace attn {
namespace {

attn_status probe(const attn_host*, attn_error*) { return ATTN_OK; }
attn_status plan_create(const attn_host*, const attn_plan_config*, attn_backend_plan*,
                        attn_error* error) {
  return fail(error, ATTN_ERROR_UNSUPPORTED, "not there yet");
}

}  // namespace

const attn_backend kFlashBackend = {sizeof(attn_backend), ATTN_BACKEND_ABI, "flash", "", ATTN_DEVICE_CPU, 0, probe, plan_create, nullptr, nullptr, nullptr};

}  // namespace attn
