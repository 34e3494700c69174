// TMA.
#include "tma.h"

#include <cstring>

#include "mbarrier.h"
#include "proxy.h"

namespace attn::emulator {
namespace {

int elements(const TensorDescription& t) { return t.box[0] * t.box[1] * t.box[2] * t.box[3]; }

// Rows of a box are 128 bytes apart in shared memory.
uint32_t box_bytes(const TensorDescription& t) { return static_cast<uint32_t>(elements(t)) * 2; }

// Calls visit(index in the box, address or null outside of the tensor).
template <class Visit>
void for_each(const TensorDescription& t, const int (&at)[4], const Visit& visit) {
  uint32_t index = 0;
  for (int d = 0; d < t.box[3]; ++d) {
    for (int c = 0; c < t.box[2]; ++c) {
      for (int b = 0; b < t.box[1]; ++b) {
        const int64_t x[3] = {int64_t{at[1]} + b, int64_t{at[2]} + c, int64_t{at[3]} + d};
        bool inside = true;
        int64_t offset = 0;
        for (int i = 0; i < 3; ++i) {
          inside = inside && x[i] >= 0 && x[i] < t.dims[i + 1];
          offset += x[i] * t.strides[i];
        }
        for (int a = 0; a < t.box[0]; ++a, ++index) {
          const int64_t column = int64_t{at[0]} + a;
          const bool here = inside && column >= 0 && column < t.dims[0];
          visit(index, here ? t.data + offset + column * 2 : nullptr);
        }
      }
    }
  }
}

}  // namespace

std::string TensorDescription::check() const {
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0) return "the address is no multiple of 16";
  for (int i = 0; i < 3; ++i) {
    if (strides[i] % 16 != 0 || strides[i] < 0) return "a stride is no multiple of 16 bytes";
  }
  for (int i = 0; i < 4; ++i) {
    if (dims[i] < 1 || box[i] < 1 || box[i] > 256) return "an extent is out of range";
  }
  if (box[0] * 2 != 128) return "rows of a box are not 128 bytes";
  return "";
}

Tma::Tma(Cta& cta) : cta_(cta) { cta.engine<Proxy>(); }

// Stores that have read finish after the CTA; the others have lost their source.
Tma::~Tma() {
  for (Store& store : stores_) {
    if (!store.has_read) store.data.assign(static_cast<size_t>(elements(store.tensor)), 0xffff);
    write(store);
  }
}

// The 128-byte swizzle: bits 4 to 6 of the address are exchanged by bits 7 to 9.
uint16_t* Tma::element(uint32_t tile, uint32_t index) const {
  const uint32_t address = tile + index * 2;
  const uint32_t swizzled = address ^ (address >> 7 & 7) << 4;
  return reinterpret_cast<uint16_t*>(cta_.shared + (swizzled - kSharedBase));
}

void Tma::load(uint32_t to, const TensorDescription& tensor, uint32_t barrier, const int (&at)[4]) {
  preempt();
  const std::string wrong = tensor.check();
  if (!wrong.empty()) fail("tensor map: " + wrong);
  char* destination = shared_at(to, box_bytes(tensor), 1024);
  cta_.engine<Mbarriers>().check_ready(barrier);
  cta_.engine<Proxy>().check(to, box_bytes(tensor), "a TMA load");
  std::memset(destination, 0xff, box_bytes(tensor));
  loads_.push_back({tensor, to, barrier, {at[0], at[1], at[2], at[3]}});
}

void Tma::land(const Load& load) {
  for_each(load.tensor, load.at, [&](uint32_t index, const char* from) {
    uint16_t value = 0;
    if (from) std::memcpy(&value, from, 2);
    *element(load.to, index) = value;
  });
  cta_.engine<Mbarriers>().land_bytes(load.barrier, box_bytes(load.tensor));
}

void Tma::store(const TensorDescription& tensor, uint32_t from, const int (&at)[4]) {
  preempt();
  const std::string wrong = tensor.check();
  if (!wrong.empty()) fail("tensor map: " + wrong);
  shared_at(from, box_bytes(tensor), 1024);
  cta_.engine<Proxy>().check(from, box_bytes(tensor), "a TMA store");
  stores_.push_back(
      {tensor, from, {at[0], at[1], at[2], at[3]}, current().linear, false, false, {}});
}

void Tma::read(Store& store) {
  store.data.resize(static_cast<size_t>(elements(store.tensor)));
  for (uint32_t i = 0; i < store.data.size(); ++i) store.data[i] = *element(store.from, i);
  store.has_read = true;
}

void Tma::write(const Store& store) {
  for_each(store.tensor, store.at, [&](uint32_t index, char* to) {
    if (to) std::memcpy(to, &store.data[index], 2);
  });
}

void Tma::commit() {
  for (Store& store : stores_) {
    if (store.thread == current().linear) store.committed = true;
  }
}

void Tma::wait_read() {
  preempt();
  for (Store& store : stores_) {
    if (store.thread == current().linear && store.committed && !store.has_read) read(store);
  }
}

void Tma::wait() {
  wait_read();
  for (size_t i = 0; i < stores_.size();) {
    if (stores_[i].thread == current().linear && stores_[i].committed) {
      write(stores_[i]);
      stores_.erase(stores_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
}

bool Tma::land_one(Random& random) {
  if (!loads_.empty() && (stores_.empty() || random.one_in(2))) {
    const size_t i = random.below(static_cast<uint32_t>(loads_.size()));
    const Load load = loads_[i];
    loads_.erase(loads_.begin() + static_cast<std::ptrdiff_t>(i));
    land(load);
    return true;
  }
  if (stores_.empty()) return false;
  const size_t i = random.below(static_cast<uint32_t>(stores_.size()));
  if (!stores_[i].has_read) {
    read(stores_[i]);
  } else {
    write(stores_[i]);
    stores_.erase(stores_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return true;
}

std::string Tma::describe() const {
  if (loads_.empty() && stores_.empty()) return "";
  return std::to_string(loads_.size()) + " loads and " + std::to_string(stores_.size()) +
         " stores of TMA under way;";
}

}  // namespace attn::emulator
