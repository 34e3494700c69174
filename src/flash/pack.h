// Packing K and V of a unit from the caller's memory; the packed forms are in kernel_args.h.
// Included through kernel.h alone.
#ifndef ATTN_FLASH_PACK_H_
#define ATTN_FLASH_PACK_H_

#include "storage.h"

namespace attn::ATTN_FLASH_ISA {
namespace {

using flash::PackArgs;

constexpr int kLocated = 64;  // keys whose addresses are looked up at a time

// The addresses of what keys [key, key + n) have at `data`, one page after the other.
template <class Element>
void locate(const flash::Pages& pages, const Element* data, int64_t page_stride, int64_t row_stride,
            int64_t key, int64_t n, const Element** rows) {
  if (pages.size == 0) {
    for (int64_t i = 0; i < n; ++i) rows[i] = data + (key + i) * row_stride;
    return;
  }
  int64_t page = key / pages.size;
  int64_t row = key % pages.size;
  for (int64_t i = 0; i < n; ++page, row = 0) {
    const Element* first = data + pages.table[page * pages.table_stride] * page_stride;
    for (; i < n && row < pages.size; ++i, ++row) rows[i] = first + row * row_stride;
  }
}

// Keys [key, key + n), n <= kLocated, as vectors of f32: with their scales, if they have any.
template <class Type>
class KeyRows {
 public:
  explicit KeyRows(const PackArgs& args) : args_(args) {}

  void seek(int64_t key, int64_t n) {
    const flash::Rows& rows = args_.rows;
    locate(args_.pages, static_cast<const Element*>(rows.data), args_.pages.stride, rows.row_stride,
           key, n, rows_);
    const flash::Scales& scales = args_.scales;
    if constexpr (!Type::kScaled) return;
    locate(args_.pages, scales.data, scales.page_stride, scales.row_stride, key, n, scales_);
  }

  // Elements [dim, dim + kLanes) of key i, 0 past the end.
  Vec at(int64_t i, int64_t dim) const {
    const int64_t stride = args_.rows.dim_stride;
    const Vec elements = load<Type>(rows_[i] + dim * stride, stride, args_.dim - dim);
    if constexpr (!Type::kScaled) return elements;
    return Mul(elements, scale(scales_[i], dim));
  }

 private:
  using Element = typename Type::Element;

  Vec scale(const float* scales, int64_t dim) const {
    const int64_t block = args_.scales.block;
    const int64_t stride = args_.scales.block_stride;
    const int64_t last = min(dim + kLanes, args_.dim) - 1;
    if (block > last) return Broadcast(scales);
    const int64_t first = static_cast<uint32_t>(dim) / static_cast<uint32_t>(block);
    if (last < (first + 1) * block) return Broadcast(scales + first * stride);
    alignas(64) float lanes[kLanes] = {};
    for (int64_t i = dim; i <= last; ++i) lanes[i - dim] = scales[i / block * stride];
    return Load(lanes);
  }

  const PackArgs& args_;
  const Element* rows_[kLocated];
  const float* scales_[kLocated] = {};
};

// K [key_begin .. key_end, dim] to panels [key panel][dim][kPanel], by kLanes x kLanes blocks.
template <class Type>
void pack_k(const PackArgs& args) {
  KeyRows<Type> rows(args);
  for (int64_t key = args.key_begin; key < args.key_end; key += kLanes) {
    float* packed = args.packed + round_down(key, kPanel) * args.dim + key % kPanel;
    const int64_t keys = min(kLanes, args.key_end - key);
    rows.seek(key, keys);
    for (int64_t dim = 0; dim < args.dim; dim += kLanes) {
      const int64_t dims = min(kLanes, args.dim - dim);
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        block[i] = i < keys ? rows.at(i, dim) : Zero();
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
  KeyRows<Type> rows(args);
  const int64_t padded_dim = round_up(args.dim, kLanes);
  const int64_t panel_width = v_panel(padded_dim);
  for (int64_t begin = args.key_begin; begin < args.key_end; begin += args.tile_k) {
    const int64_t block_keys = min(args.tile_k, args.key_end - begin);
    Vec poison = Zero();  // 0 * v is NaN if v is not finite, and NaN stays
    for (int64_t first = 0; first < block_keys; first += kLocated) {
      const int64_t keys = min(kLocated, block_keys - first);
      rows.seek(begin + first, keys);
      for (int64_t panel = 0; panel < padded_dim; panel += panel_width) {
        const int64_t width = min(panel_width, padded_dim - panel);
        float* packed = args.packed + begin * padded_dim + block_keys * panel + first * width;
        for (int64_t key = 0; key < keys; ++key) {
          for (int64_t i = panel; i < panel + width; i += kLanes) {
            const Vec v = rows.at(key, i);
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
