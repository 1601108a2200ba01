// The CPU allocator: counts what lives, and cuts large tensors out of one address range whose freed parts it joins and
// uses again. A training step frees its gradients before the next one's activations come; given back to the system, every
// page would be zeroed anew (a tenth of a step's time), and kept by size, both would lie in memory side by side.
#include "memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <set>
#include <unordered_map>

#ifdef NEVA_CUDA
#include <ATen/Context.h>
#include <torch/headeronly/version.h>
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 9
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#define NEVA_DEVICE_STATS 1
#endif
#endif

namespace neva {
namespace {

constexpr size_t kAlignment = 64;                 // a cache line, and LibTorch's own choice
constexpr size_t kPage = 4096;
constexpr size_t kLarge = size_t{128} << 10;      // from here on a block comes from the range; smaller ones from malloc
constexpr size_t kGrowth = size_t{32} << 20;      // the range is made usable in steps of this
constexpr size_t kReserved = size_t{1} << 42;     // addresses only: 4 TiB, or the largest half of a half that can be had
constexpr size_t kLeastReserved = size_t{1} << 30;

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// One range of addresses, used from the bottom: best fit, ties to the lowest address, neighbours joined when freed.
class Range {
 public:
  // Null when no more memory can be had.
  char* take(size_t size) {
    if (!base_ && !reserve()) return nullptr;
    auto fit = by_size_.lower_bound({size, nullptr});
    if (fit == by_size_.end()) {
      if (!grow(size)) return nullptr;
      fit = by_size_.lower_bound({size, nullptr});
    }
    const auto [found, place] = *fit;
    remove(place, found);
    if (found > size) insert(place + size, found - size);
    return place;
  }

  void put_back(char* place, size_t size) {
    auto after = by_place_.lower_bound(place);
    if (after != by_place_.end() && after->first == place + size) {
      size += after->second;
      remove(after->first, after->second);
    }
    auto before = by_place_.lower_bound(place);
    if (before != by_place_.begin()) {
      --before;
      if (before->first + before->second == place) {
        place = before->first;
        size += before->second;
        remove(place, before->second);
      }
    }
    insert(place, size);
  }

  size_t free_bytes() const { return free_bytes_; }

 private:
  bool reserve() {
    for (size_t size = kReserved; size >= kLeastReserved; size /= 2) {
      void* got = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (got == MAP_FAILED) continue;
      base_ = top_ = static_cast<char*>(got);
      end_ = base_ + size;
      return true;
    }
    return false;
  }

  // Makes a free block of at least `size` at the top, joined with the free one that may already end there.
  bool grow(size_t size) {
    size_t spare = 0;
    if (!by_place_.empty()) {
      const auto last = std::prev(by_place_.end());
      if (last->first + last->second == top_) spare = last->second;
    }
    const size_t more = round_up(size - spare, kGrowth);
    if (more > static_cast<size_t>(end_ - top_)) return false;
    if (mprotect(top_, more, PROT_READ | PROT_WRITE) != 0) return false;
#ifdef MADV_HUGEPAGE
    madvise(top_, more, MADV_HUGEPAGE);
#endif
    char* place = top_;
    top_ += more;
    put_back(place, more);
    return true;
  }

  void insert(char* place, size_t size) {
    by_place_[place] = size;
    by_size_.insert({size, place});
    free_bytes_ += size;
  }

  void remove(char* place, size_t size) {
    by_place_.erase(place);
    by_size_.erase({size, place});
    free_bytes_ -= size;
  }

  char* base_ = nullptr;
  char* top_ = nullptr;
  char* end_ = nullptr;
  std::map<char*, size_t> by_place_;
  std::set<std::pair<size_t, char*>> by_size_;
  size_t free_bytes_ = 0;
};

std::mutex mutex;
Range range;
std::unordered_map<void*, size_t> blocks;  // every block alive, with the bytes asked for
size_t live_bytes = 0;
size_t peak_bytes = 0;

void* fresh(size_t n) {
  if (n >= kLarge) return range.take(round_up(n, kPage));
  void* pointer = nullptr;
  return posix_memalign(&pointer, kAlignment, n) == 0 ? pointer : nullptr;
}

void* allocate_block(size_t n) {
  std::lock_guard<std::mutex> lock(mutex);
  void* pointer = fresh(n);
  TORCH_CHECK(pointer, "out of memory: ", n, " bytes more than the ", live_bytes, " in use could not be had");
  blocks[pointer] = n;
  live_bytes += n;
  peak_bytes = std::max(peak_bytes, live_bytes);
  return pointer;
}

void free_block(void* pointer) {
  if (!pointer) return;
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = blocks.find(pointer);
  if (found == blocks.end()) return;
  const size_t n = found->second;
  blocks.erase(found);
  live_bytes -= n;
  if (n >= kLarge) {
    range.put_back(static_cast<char*>(pointer), round_up(n, kPage));
  } else {
    std::free(pointer);
  }
}

struct RangeAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    if (n == 0) return {nullptr, nullptr, &free_block, c10::Device(c10::DeviceType::CPU)};
    void* pointer = allocate_block(n);
    return {pointer, pointer, &free_block, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }
};

RangeAllocator allocator;

}  // namespace

void install_cpu_allocator() { c10::SetCPUAllocator(&allocator, /*priority=*/100); }

napi_value memory(Call& call) {
  std::lock_guard<std::mutex> lock(mutex);
  napi_value out;
  check(napi_create_object(call.env, &out));
  check(napi_set_named_property(call.env, out, "bytes", number(call.env, static_cast<double>(live_bytes))));
  check(napi_set_named_property(call.env, out, "peakBytes", number(call.env, static_cast<double>(peak_bytes))));
  check(napi_set_named_property(call.env, out, "cachedBytes", number(call.env, static_cast<double>(range.free_bytes()))));
  return out;
}

#ifdef NEVA_DEVICE_STATS
static c10::DeviceIndex current_gpu() {
  return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getDevice().index();
}
#endif

// Tensors of the GPU that this process computes on, in LibTorch's own count; null in a build without GPUs, and in LibTorch before 2.9.
napi_value device_memory(Call& call) {
  napi_value out;
#ifdef NEVA_DEVICE_STATS
  if (at::hasCUDA()) {
    const auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(current_gpu());
    const auto& bytes = stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
    check(napi_create_object(call.env, &out));
    check(napi_set_named_property(call.env, out, "bytes", number(call.env, static_cast<double>(bytes.current))));
    check(napi_set_named_property(call.env, out, "peakBytes", number(call.env, static_cast<double>(bytes.peak))));
    return out;
  }
#endif
  check(napi_get_null(call.env, &out));
  return out;
}

napi_value reset_peak_memory(Call&) {
#ifdef NEVA_DEVICE_STATS
  if (at::hasCUDA()) c10::getDeviceAllocator(c10::DeviceType::CUDA)->resetPeakStats(current_gpu());
#endif
  std::lock_guard<std::mutex> lock(mutex);
  peak_bytes = live_bytes;
  return nullptr;
}

}  // namespace neva
