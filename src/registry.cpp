// The backends that a context knows.
#include "registry.h"

#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "flash/flash.h"
#include "standard/standard.h"

namespace attn {
namespace {

constexpr const char* kPluginPrefix = "libattn_";
constexpr const char* kPluginSuffix = ".so";
constexpr const char* kCudaPlugin = "cuda";  // listed also where it is missing

BackendEntry* append(Registry* registry) {
  return registry->count < Registry::kMaxBackends ? &registry->entries[registry->count++] : nullptr;
}

void probe(const attn_host& host, BackendEntry* entry) {
  attn_error error{};
  if (entry->backend->probe(&host, &error) == ATTN_OK) return;
  std::snprintf(entry->reason, sizeof(entry->reason), "%s", error.message);
}

void add_builtin(const attn_host& host, const attn_backend& backend, Registry* registry) {
  BackendEntry* entry = append(registry);
  if (!entry) return;
  entry->backend = &backend;
  std::snprintf(entry->name, sizeof(entry->name), "%s", backend.name);
  probe(host, entry);
}

// Loads one plugin; entry->reason tells if that failed.
void load_plugin(const attn_host& host, const char* path, BackendEntry* entry) {
  const auto refuse = [entry](const char* format, const auto&... args) {
    std::snprintf(entry->reason, sizeof(entry->reason), format, args...);
  };
  entry->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!entry->library) {
    const char* why = dlerror();
    return refuse("%s", why ? why : "dlopen failed");
  }
  const auto get = reinterpret_cast<attn_backend_entry>(dlsym(entry->library, ATTN_BACKEND_ENTRY));
  const attn_backend* backend = get ? get() : nullptr;
  if (!backend) return refuse("%s does not offer " ATTN_BACKEND_ENTRY, path);
  if (backend->abi != ATTN_BACKEND_ABI || backend->struct_size < sizeof(attn_backend)) {
    return refuse("%s has backend interface %u of %u bytes; libattn %s has %u of %zu", path,
                  backend->abi, backend->struct_size, attn_version_string(),
                  static_cast<unsigned>(ATTN_BACKEND_ABI), sizeof(attn_backend));
  }
  // Until 1.0 a minor version may change what a plugin reads.
  constexpr int32_t kMinor = 1000;
  if (backend->version != 0 && backend->version / kMinor != ATTN_VERSION / kMinor) {
    return refuse("%s is made for libattn %d.%d.%d; this is libattn %s", path,
                  backend->version / 1000000, backend->version / kMinor % 1000,
                  backend->version % kMinor, attn_version_string());
  }
  entry->backend = backend;
  probe(host, entry);
}

// The NAME of "libattn_NAME.so" in `file`; false if the file is not called so.
bool plugin_name(const char* file, char* name, size_t size) {
  const size_t prefix = std::strlen(kPluginPrefix), suffix = std::strlen(kPluginSuffix);
  const size_t length = std::strlen(file);
  if (length <= prefix + suffix || length - prefix - suffix >= size) return false;
  if (std::strncmp(file, kPluginPrefix, prefix) != 0) return false;
  if (std::strcmp(file + length - suffix, kPluginSuffix) != 0) return false;
  std::snprintf(name, size, "%.*s", static_cast<int>(length - prefix - suffix), file + prefix);
  return true;
}

}  // namespace

void load_backends(const attn_host& host, const char* backend_dir, Registry* registry) {
  add_builtin(host, kFlashBackend, registry);

  const int first_plugin = registry->count;
  DIR* directory = *backend_dir ? opendir(backend_dir) : nullptr;
  while (const dirent* file = directory ? readdir(directory) : nullptr) {
    char name[sizeof(BackendEntry::name)];
    if (!plugin_name(file->d_name, name, sizeof(name))) continue;
    if (registry->count == Registry::kMaxBackends - 2) break;  // keep room for cuda and standard
    std::memcpy(append(registry)->name, name, sizeof(name));
  }
  if (directory) closedir(directory);
  BackendEntry* const plugins = registry->entries + first_plugin;
  BackendEntry* const end = registry->entries + registry->count;
  std::sort(plugins, end, [](const BackendEntry& a, const BackendEntry& b) {
    return std::strcmp(a.name, b.name) < 0;
  });
  for (BackendEntry* entry = plugins; entry != end; ++entry) {
    char path[PATH_MAX];
    std::snprintf(path, sizeof(path), "%s/%s%s%s", backend_dir, kPluginPrefix, entry->name,
                  kPluginSuffix);
    load_plugin(host, path, entry);
  }
  const bool has_cuda = std::any_of(plugins, end, [](const BackendEntry& entry) {
    return std::strcmp(entry.name, kCudaPlugin) == 0;
  });
  if (!has_cuda) {
    BackendEntry* entry = append(registry);
    std::snprintf(entry->name, sizeof(entry->name), "%s", kCudaPlugin);
    std::snprintf(entry->reason, sizeof(entry->reason), "no %s%s%s in %.200s", kPluginPrefix,
                  kCudaPlugin, kPluginSuffix, *backend_dir ? backend_dir : "any directory");
  }

  add_builtin(host, kStandardBackend, registry);
}

void unload_backends(Registry* registry) {
  for (int i = 0; i < registry->count; ++i) {
    if (registry->entries[i].library) dlclose(registry->entries[i].library);
  }
  registry->count = 0;
}

void default_backend_dir(char* path, size_t size) {
  path[0] = '\0';
  Dl_info info;
  char file[PATH_MAX];
  // realpath, so that neither a relative name nor the working directory at a later time matters.
  if (!dladdr(reinterpret_cast<const void*>(&default_backend_dir), &info) || !info.dli_fname ||
      !realpath(info.dli_fname, file)) {
    return;
  }
  if (char* slash = std::strrchr(file, '/')) {
    *slash = '\0';
    std::snprintf(path, size, "%s", *file ? file : "/");
  }
}

}  // namespace attn
