// Packing K and V of a unit from the caller's memory; the packed forms are in kernel_args.h.
// Included through kernel.h alone.
#ifndef ATTN_FLASH_PACK_H_
#define ATTN_FLASH_PACK_H_

#include "storage.h"

namespace attn::ATTN_FLASH_ISA {
namespace {

using flash::PackArgs;

constexpr int kLocated = 64;  // keys whose addresses are looked up at a time

// The addresses of keys [key, key + n), one page after the other.
template <class Element>
void locate(const PackArgs& args, int64_t key, int64_t n, const Element** rows) {
  const Element* data = static_cast<const Element*>(args.rows.data);
  const flash::Pages& pages = args.pages;
  const int64_t row_stride = args.rows.row_stride;
  if (pages.size == 0) {
    for (int64_t i = 0; i < n; ++i) rows[i] = data + (key + i) * row_stride;
    return;
  }
  int64_t page = key / pages.size;
  int64_t row = key % pages.size;
  for (int64_t i = 0; i < n; ++page, row = 0) {
    const Element* first = data + pages.table[page * pages.table_stride] * pages.stride;
    for (; i < n && row < pages.size; ++i, ++row) rows[i] = first + row * row_stride;
  }
}

// K [key_begin .. key_end, dim] to panels [key panel][dim][kPanel], by kLanes x kLanes blocks.
template <class Type>
void pack_k(const PackArgs& args) {
  const int64_t stride = args.rows.dim_stride;
  for (int64_t key = args.key_begin; key < args.key_end; key += kLanes) {
    float* packed = args.packed + round_down(key, kPanel) * args.dim + key % kPanel;
    const int64_t keys = min(kLanes, args.key_end - key);
    const typename Type::Element* rows[kLanes];
    locate(args, key, keys, rows);
    for (int64_t dim = 0; dim < args.dim; dim += kLanes) {
      const int64_t dims = min(kLanes, args.dim - dim);
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        block[i] = i < keys ? load<Type>(rows[i] + dim * stride, stride, dims) : Zero();
      }
      Transpose(block);
      for (int i = 0; i < kLanes; ++i) {
        if (i < dims) Store(block[i], packed + (dim + i) * kPanel);
      }
    }
  }
}

// V [key_begin .. key_end, dim] to [key block][dv panel][key][width].
template <class Type>
void pack_v(const PackArgs& args) {
  const int64_t stride = args.rows.dim_stride;
  const int64_t padded_dim = round_up(args.dim, kLanes);
  const int64_t panel_width = v_panel(padded_dim);
  for (int64_t begin = args.key_begin; begin < args.key_end; begin += args.tile_k) {
    const int64_t block_keys = min(args.tile_k, args.key_end - begin);
    Vec poison = Zero();  // 0 * v is NaN if v is not finite, and NaN stays
    for (int64_t first = 0; first < block_keys; first += kLocated) {
      const int64_t keys = min(kLocated, block_keys - first);
      const typename Type::Element* rows[kLocated];
      locate(args, begin + first, keys, rows);
      for (int64_t panel = 0; panel < padded_dim; panel += panel_width) {
        const int64_t width = min(panel_width, padded_dim - panel);
        float* packed = args.packed + begin * padded_dim + block_keys * panel + first * width;
        for (int64_t key = 0; key < keys; ++key) {
          for (int64_t i = panel; i < panel + width; i += kLanes) {
            const Vec v = load<Type>(rows[key] + i * stride, stride, args.dim - i);
            poison = MulAdd(v, Zero(), poison);
            Store(v, packed);
            packed += kLanes;
          }
        }
      }
    }
    args.nonfinite[begin / args.tile_k] = !AllFinite(poison);
  }
}

void pack_k(const PackArgs* args) {
  with_type(args->rows.storage, [args](auto type) { pack_k<decltype(type)>(*args); });
}

void pack_v(const PackArgs* args) {
  with_type(args->rows.storage, [args](auto type) { pack_v<decltype(type)>(*args); });
}

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

#endif  // ATTN_FLASH_PACK_H_
