// The tensor table: JS holds numbers, this table holds at::Tensor.
#include "addon.h"

namespace neva {
namespace {

constexpr uint64_t kSlotBits = 22;  // 4 million tensors alive at once; 31 bits of generation fit a double exactly
constexpr uint64_t kSlotMask = (uint64_t{1} << kSlotBits) - 1;

struct Slot {
  at::Tensor tensor;
  uint32_t generation = 1;
  bool used = false;
};

std::vector<Slot> slots;
std::vector<uint32_t> free_slots;
int64_t live = 0;

Slot& slot_of(double handle) {
  const bool whole = handle >= 0 && handle < 9007199254740992.0;
  const uint64_t bits = whole ? static_cast<uint64_t>(handle) : 0;
  const uint64_t index = bits & kSlotMask;
  if (!whole || index >= slots.size() || !slots[index].used || slots[index].generation != bits >> kSlotBits) {
    throw BadArgument("use of a tensor after it was freed (or of something that is no tensor)");
  }
  return slots[index];
}

}  // namespace

double put(at::Tensor tensor) {
  uint32_t index;
  if (free_slots.empty()) {
    if (slots.size() > kSlotMask) throw BadArgument("too many live tensors: something is not being freed");
    index = static_cast<uint32_t>(slots.size());
    slots.emplace_back();
  } else {
    index = free_slots.back();
    free_slots.pop_back();
  }
  Slot& slot = slots[index];
  slot.tensor = std::move(tensor);
  slot.used = true;
  ++live;
  return static_cast<double>((uint64_t{slot.generation} << kSlotBits) | index);
}

const at::Tensor& get(double handle) { return slot_of(handle).tensor; }

void release(double handle) {
  Slot& slot = slot_of(handle);
  // Moved out first: freeing may run code (deleters) that must not see a half-freed slot.
  at::Tensor dying = std::move(slot.tensor);
  slot.used = false;
  slot.generation = (slot.generation + 1) & 0x7fffffff;
  free_slots.push_back(static_cast<uint32_t>(&slot - slots.data()));
  --live;
}

int64_t live_tensors() { return live; }

}  // namespace neva
