// The CPU allocator: counts what lives, and keeps large blocks for the next tensor of their size. A training step
// asks for the same large blocks over and over; given back to the system each would be zeroed page by page again.
#include "memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

namespace neva {
namespace {

constexpr size_t kAlignment = 64;            // a cache line, and LibTorch's own choice
constexpr size_t kLarge = size_t{1} << 20;   // from here on a block is mapped and kept
constexpr size_t kPage = size_t{2} << 20;    // transparent huge page
// Kept blocks may amount to this share of the peak of what lived; more is given back, largest first.
constexpr double kKeptShare = 0.25;

struct Block {
  size_t size;
  size_t requested;
};

std::mutex mutex;
std::unordered_map<void*, Block> blocks;       // every block alive
std::map<size_t, std::vector<void*>> kept;     // size → free blocks of it
size_t kept_bytes = 0;
size_t live_bytes = 0;
size_t peak_bytes = 0;
size_t peak_ever = 0;

// Steps of an eighth of the power of two below: at most 12.5 % of a large block is slack.
size_t block_size(size_t n) {
  if (n < kLarge) return (n + kAlignment - 1) / kAlignment * kAlignment;
  size_t power = kLarge;
  while (power * 2 <= n) power *= 2;
  const size_t step = std::max<size_t>(power / 8, 4096);
  return (n + step - 1) / step * step;
}

void give_back(void* pointer, size_t size) {
  if (size >= kLarge) {
    munmap(pointer, size);
  } else {
    std::free(pointer);
  }
}

void trim(size_t limit) {
  while (kept_bytes > limit && !kept.empty()) {
    auto largest = std::prev(kept.end());
    give_back(largest->second.back(), largest->first);
    kept_bytes -= largest->first;
    largest->second.pop_back();
    if (largest->second.empty()) kept.erase(largest);
  }
}

void* fresh(size_t size) {
  if (size < kLarge) {
    void* pointer = nullptr;
    return posix_memalign(&pointer, kAlignment, size) == 0 ? pointer : nullptr;
  }
  void* pointer = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pointer == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  if (size >= kPage) madvise(pointer, size, MADV_HUGEPAGE);
#endif
  return pointer;
}

void* allocate_block(size_t n) {
  const size_t size = block_size(n);
  std::lock_guard<std::mutex> lock(mutex);
  void* pointer = nullptr;
  auto found = kept.find(size);
  if (found != kept.end()) {
    pointer = found->second.back();
    found->second.pop_back();
    if (found->second.empty()) kept.erase(found);
    kept_bytes -= size;
  } else {
    pointer = fresh(size);
    if (!pointer) {
      trim(0);
      pointer = fresh(size);
    }
  }
  TORCH_CHECK(pointer, "out of memory: ", n, " bytes more than the ", live_bytes, " in use could not be had");
  blocks[pointer] = {size, n};
  live_bytes += n;
  peak_bytes = std::max(peak_bytes, live_bytes);
  peak_ever = std::max(peak_ever, live_bytes);
  return pointer;
}

void free_block(void* pointer) {
  if (!pointer) return;
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = blocks.find(pointer);
  if (found == blocks.end()) return;
  const Block block = found->second;
  blocks.erase(found);
  live_bytes -= block.requested;
  if (block.size < kLarge) {
    give_back(pointer, block.size);
    return;
  }
  kept[block.size].push_back(pointer);
  kept_bytes += block.size;
  trim(static_cast<size_t>(kKeptShare * static_cast<double>(peak_ever)));
}

struct KeepingAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    if (n == 0) return {nullptr, nullptr, &free_block, c10::Device(c10::DeviceType::CPU)};
    void* pointer = allocate_block(n);
    return {pointer, pointer, &free_block, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }
};

KeepingAllocator allocator;

}  // namespace

void install_cpu_allocator() { c10::SetCPUAllocator(&allocator, /*priority=*/100); }

napi_value memory(Call& call) {
  std::lock_guard<std::mutex> lock(mutex);
  napi_value out;
  check(napi_create_object(call.env, &out));
  check(napi_set_named_property(call.env, out, "bytes", number(call.env, static_cast<double>(live_bytes))));
  check(napi_set_named_property(call.env, out, "peakBytes", number(call.env, static_cast<double>(peak_bytes))));
  check(napi_set_named_property(call.env, out, "cachedBytes", number(call.env, static_cast<double>(kept_bytes))));
  return out;
}

napi_value reset_peak_memory(Call&) {
  std::lock_guard<std::mutex> lock(mutex);
  peak_bytes = live_bytes;
  return nullptr;
}

}  // namespace neva
