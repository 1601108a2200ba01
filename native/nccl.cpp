// NCCL's half of a process group: compiled in when LibTorch is a CUDA build and nccl.h is at hand (build.ts).
#include "process_groups.h"

#ifdef NEVA_NCCL
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace neva {

bool has_nccl() { return true; }

c10::intrusive_ptr<c10d::Backend> open_nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                            std::chrono::milliseconds timeout, const std::string& name, int device) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  options->group_name = name;
  // Keys of its own, apart from Gloo's.
  const auto keys = c10::make_intrusive<c10d::PrefixStore>("nccl", store);
  auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(keys, rank, size, options);
  backend->setBoundDeviceId(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
  return backend;
}

void close_nccl(c10d::Backend& backend) { static_cast<c10d::ProcessGroupNCCL&>(backend).shutdown(); }

}  // namespace neva

#else

namespace neva {

bool has_nccl() { return false; }

c10::intrusive_ptr<c10d::Backend> open_nccl(const c10::intrusive_ptr<c10d::Store>&, int, int, std::chrono::milliseconds,
                                            const std::string&, int) {
  throw BadArgument("openGroup: this addon was built without NCCL");
}

void close_nccl(c10d::Backend&) {}

}  // namespace neva
#endif
