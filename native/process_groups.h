// Process groups by number, and the one way in which a collective is started and waited for.
#pragma once
#include "addon.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <array>
#include <chrono>
#include <functional>

namespace neva {

enum class Kind { all_reduce, broadcast, all_gather, reduce_scatter, send, receive };
inline constexpr size_t kKinds = 6;

// Messages of each kind, and bytes of each: of the whole tensor that they make (all-reduce, broadcast, send), or of the
// whole that is put together or shared out (all-gather, reduce-scatter).
struct Traffic {
  std::array<int64_t, kKinds> messages{};
  std::array<int64_t, kKinds> bytes{};
};

struct ProcessGroup {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> host;    // Gloo
  c10::intrusive_ptr<c10d::Backend> device;  // NCCL, in a CUDA build on a GPU; null elsewhere
  std::string who;                           // for messages: "rank 1 of 4 on host"
  bool whole = false;                        // of all ranks; opened first, closed last
  std::string name;                          // the same on all its ranks: "tensor ranks 0, 1"
  Traffic traffic;
  int64_t messages = 0;  // that all ranks of the group take part in
  int64_t digest = 0;    // of these, 26 bits: equal on all ranks, or they have parted

  // The backend that moves tensors which live where this one does.
  c10d::Backend& of(const at::Tensor& tensor) const;
  void count(Kind kind, const at::Tensor& whole);
  void mark(const std::string& message);
  int size() const { return host->getSize(); }
  int rank() const { return host->getRank(); }
};

// NCCL is compiled in.
bool has_nccl();
// Joins the ranks on their GPUs; this one's is `device`. Errors and timeouts within a collective end the process, from a
// thread of NCCL's (c10d's default): the host does not wait in it, and nothing computed after it could be trusted.
c10::intrusive_ptr<c10d::Backend> open_nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                            std::chrono::milliseconds timeout, const std::string& name, int device);
void close_nccl(c10d::Backend& backend);

// Throws BadArgument where there is none of this number.
ProcessGroup& process_group(int64_t number);

// A collective inside a segment failed. Its text begins with kLost: group.ts tells it from other failures by that.
struct LostPeers : std::runtime_error {
  using std::runtime_error::runtime_error;
};
inline constexpr const char* kLost = "[collective] ";

// In place, over all ranks; returns when it is done.
void sum_now(ProcessGroup& group, at::Tensor& tensor, const char* what);
void max_now(ProcessGroup& group, at::Tensor& tensor, const char* what);
// Rows of every rank [R, ...] one after the other → [size·R, ...].
at::Tensor all_gather_now(ProcessGroup& group, const at::Tensor& own, const char* what);
// Sums whole [size·R, ...] over the ranks; this rank's part [R, ...].
at::Tensor reduce_scatter_now(ProcessGroup& group, const at::Tensor& whole, const char* what);

}  // namespace neva
