// The backends that a context knows: the built-in ones and the plugins of its directory.
#ifndef ATTN_SRC_REGISTRY_H_
#define ATTN_SRC_REGISTRY_H_

#include <attn/backend.h>

namespace attn {

// One backend, there or not.
struct BackendEntry {
  const attn_backend* backend;  // NULL for a plugin that could not be loaded
  void* library;                // of a plugin, from dlopen
  char name[32];
  char reason[256];  // why it is not available; "" if it is
  bool available() const { return reason[0] == '\0'; }
};

// In the order in which plans try them: flash, the plugins by name, standard. Part of its context,
// whose memory starts out zeroed.
struct Registry {
  static constexpr int kMaxBackends = 16;
  int count;
  BackendEntry entries[kMaxBackends];
};

// Fills `registry`: probes every backend, loads the plugins libattn_NAME.so of `backend_dir`
// (absolute; "" for none). A plugin that is missing or does not load is listed with the reason.
void load_backends(const attn_host& host, const char* backend_dir, Registry* registry);

// Unloads the plugins. No plan may be left.
void unload_backends(Registry* registry);

// Where plugins are looked for if nobody says: the directory of the file that this library was
// loaded from. Writes an absolute path, or "".
void default_backend_dir(char* path, size_t size);

}  // namespace attn

#endif  // ATTN_SRC_REGISTRY_H_
