// Packing K and V of a unit from the caller's memory; the packed forms are in kernel_args.h.
// Included through kernel.h alone.
#ifndef ATTN_FLASH_PACK_H_
#define ATTN_FLASH_PACK_H_

#include "dot.h"
#include "storage.h"

namespace attn::ATTN_FLASH_ISA {
namespace {

using flash::Keys;
using flash::PackArgs;

constexpr int kLocated = 64;  // keys whose addresses are looked up at a time

// The addresses of what keys [key, key + n) have at `data`, one page after the other.
template <class Element, class Place>
void locate(const flash::Pages& pages, const Element* data, int64_t page_stride, int64_t row_stride,
            int64_t key, int64_t n, const Place** rows) {
  const auto place = [](const Element* row) { return reinterpret_cast<const Place*>(row); };
  if (pages.size == 0) {
    for (int64_t i = 0; i < n; ++i) rows[i] = place(data + (key + i) * row_stride);
    return;
  }
  int64_t page = key / pages.size;
  int64_t row = key % pages.size;
  for (int64_t i = 0; i < n; ++page, row = 0) {
    const Element* first = data + pages.table[page * pages.table_stride] * page_stride;
    for (; i < n && row < pages.size; ++i, ++row) rows[i] = place(first + row * row_stride);
  }
}

// Keys [key, key + n), n <= kLocated, as vectors of f32.
template <class Type>
class KeyRows {
 public:
  using Element = typename Type::Element;
  static constexpr bool kBF16 = Type::kBF16;

  explicit KeyRows(const Keys& keys) : keys_(keys) {}

  void seek(int64_t key, int64_t n) {
    located_ = n;
    const flash::Rows& rows = keys_.rows;
    locate(keys_.pages, static_cast<const Element*>(rows.data), keys_.pages.stride, rows.row_stride,
           key, n, rows_);
    const flash::Scales& scales = keys_.scales;
    if constexpr (!Type::kScaled) return;
    locate(keys_.pages, scales.data, scales.page_stride, scales.row_stride, key, n, scales_);
  }

  // Fetches that element of key i, if the key was located.
  [[gnu::always_inline]] inline void fetch(int64_t i, int64_t dim) const {
    if (i < located_) __builtin_prefetch(rows_[i] + dim * keys_.rows.dim_stride, 0, 3);
  }

  // Where key i lies, and whether its elements [dim, dim + n) are there, one after the other.
  const Element* address(int64_t i) const { return rows_[i]; }
  bool whole(int64_t dim, int64_t n) const {
    return keys_.rows.dim_stride == 1 && dim + n <= keys_.dim;
  }

  // Elements [dim, dim + kLanes) of key i, 0 past the end.
  Vec at(int64_t i, int64_t dim) const {
    if constexpr (!Type::kScaled) return elements(i, dim);
    return Mul(elements(i, dim), scale(scales_[i], dim));
  }

  // The same without their scales.
  Vec elements(int64_t i, int64_t dim) const {
    const int64_t stride = keys_.rows.dim_stride;
    return load<Type>(rows_[i] + dim * stride, stride, keys_.dim - dim);
  }

  // The scale of key i, if all of its elements have the same.
  float scale_of_key(int64_t i) const { return Type::kScaled ? *scales_[i] : 1.0f; }

 private:
  Vec scale(const float* scales, int64_t dim) const {
    const int64_t block = keys_.scales.block;
    const int64_t stride = keys_.scales.block_stride;
    const int64_t last = min(dim + kLanes, keys_.dim) - 1;
    if (block > last) return Broadcast(scales);
    const int64_t first = static_cast<uint32_t>(dim) / static_cast<uint32_t>(block);
    if (last < (first + 1) * block) return Broadcast(scales + first * stride);
    alignas(64) float lanes[kLanes] = {};
    for (int64_t i = dim; i <= last; ++i) lanes[i - dim] = scales[i / block * stride];
    return Load(lanes);
  }

  const Keys& keys_;
  int64_t located_ = 0;
  const Element* rows_[kLocated];
  const float* scales_[Type::kScaled ? kLocated : 1];
};

// Each key's scale times `factor`, from packed[key] on; 0 up to a multiple of `block` keys.
template <class Type>
void pack_scales(const KeyRows<Type>& rows, int64_t keys, int64_t block, float factor,
                 float* packed) {
  for (int64_t i = 0; i < round_up(keys, block); ++i) {
    packed[i] = i < keys ? factor * rows.scale_of_key(i) : 0.0f;
  }
}

// K [key_begin .. key_end, dim] to panels [key panel][item][kPanel], by kLanes x kLanes blocks.
template <class Type>
void pack_k(const PackArgs& args) {
  KeyRows<Type> rows(args.keys);
  for (int64_t key = args.key_begin; key < args.key_end; key += kLanes) {
    const int64_t dim_items = items(args.keys.dim);
    float* packed = args.packed + round_down(key, kPanel) * dim_items + key % kPanel;
    const int64_t keys = min(kLanes, args.key_end - key);
    rows.seek(key, min(2 * kLanes, args.key_end - key));
    if constexpr (Dot::kScalesKeys) {
      pack_scales(rows, keys, kLanes, args.factor, args.scales_packed + key);
    }
    for (int64_t item = 0; item < dim_items; item += kLanes) {
      const int64_t n = min(kLanes, dim_items - item);
      // The next keys: rows that are read side by side are too many for the core's own prefetcher.
      for (int i = 0; i < kLanes; ++i) rows.fetch(i + kLanes, item * Dot::kWidth);
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        block[i] = i < keys ? Dot::load_k(rows, i, item) : Zero();
      }
      Transpose(block);
      for (int i = 0; i < kLanes; ++i) {
        if (i < n) Store(block[i], packed + (item + i) * kPanel);
      }
    }
  }
}

// V [key_begin .. key_end, dim] to [key block][dv panel][item][width].
template <class Type>
void pack_v(const PackArgs& args) {
  KeyRows<Type> rows(args.keys);
  const int64_t padded_dim = round_up(args.keys.dim, kLanes);
  const int64_t panel_width = v_panel(padded_dim);
  for (int64_t begin = args.key_begin; begin < args.key_end; begin += args.tile_k) {
    const int64_t block_keys = min(args.tile_k, args.key_end - begin);
    Vec poison = Zero();  // 0 * v is NaN if v is not finite, and NaN stays
    for (int64_t first = 0; first < block_keys; first += kLocated) {
      const int64_t keys = min(kLocated, block_keys - first);
      rows.seek(begin + first, keys);
      if constexpr (Dot::kScalesKeys && Type::kScaled) {
        const int64_t block = max(kLanes, kKeyBlock);
        pack_scales(rows, keys, block, 1.0f, args.scales_packed + begin + first);
      }
      for (int64_t panel = 0; panel < padded_dim; panel += panel_width) {
        const int64_t width = min(panel_width, padded_dim - panel);
        float* packed = args.packed + items(begin) * padded_dim + items(block_keys) * panel +
                        items(first) * width;
        with_int<kVecs>(static_cast<int>(width / kLanes), [&](auto n) {
          constexpr int kN = decltype(n)::value;
          Vec column[kN];  // poison of its own for each: additions in one row would take longer
          ATTN_UNROLL
          for (int v = 0; v < kN; ++v) column[v] = Zero();
          for (int64_t key = 0; key < items(keys) * Dot::kWidth; key += Dot::kWidth) {
            ATTN_UNROLL
            for (int v = 0; v < kN; ++v) {
              const int64_t dim = panel + v * kLanes;
              Store(key < keys ? Dot::load_v(rows, key, keys, dim, &column[v]) : Zero(),
                    packed + v * kLanes);
            }
            packed += kN * kLanes;
          }
          ATTN_UNROLL
          for (int v = 0; v < kN; ++v) poison = Add(poison, column[v]);
        });
      }
    }
    args.nonfinite[begin / args.tile_k] = !AllFinite(poison);
  }
}

void pack_k(const PackArgs* args) {
  with_type(args->keys.rows.storage, [args](auto type) {
    if constexpr (Dot::kHolds<decltype(type)>) pack_k<decltype(type)>(*args);
  });
}

void pack_v(const PackArgs* args) {
  with_type(args->keys.rows.storage, [args](auto type) {
    if constexpr (Dot::kHolds<decltype(type)>) pack_v<decltype(type)>(*args);
  });
}

}  // namespace
}  // namespace attn::ATTN_FLASH_ISA

#endif  // ATTN_FLASH_PACK_H_
