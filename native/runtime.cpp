// Versions, threads and random state of LibTorch.
#include "runtime.h"

#include "process_groups.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/headeronly/version.h>

#include <cstring>

namespace neva {
namespace {

int gpu_count() { return at::hasCUDA() ? c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).deviceCount() : 0; }

}  // namespace

napi_value versions(Call& call) {
  napi_value out;
  check(napi_create_object(call.env, &out));
  check(napi_set_named_property(call.env, out, "torch", string(call.env, TORCH_VERSION)));
  check(napi_set_named_property(call.env, out, "cuda", boolean(call.env, at::hasCUDA())));
  check(napi_set_named_property(call.env, out, "gpus", number(call.env, gpu_count())));
  check(napi_set_named_property(call.env, out, "nccl", boolean(call.env, has_nccl())));
  const std::string cpu = at::get_cpu_capability();
  check(napi_set_named_property(call.env, out, "cpuCapability", string(call.env, cpu)));
  return out;
}

napi_value set_threads(Call& call) {
  at::set_num_threads(static_cast<int>(as_int(call.env, call[0], "threads")));
  return nullptr;
}

napi_value set_tf32(Call& call) {
  const bool on = as_bool(call.env, call[0], "tf32");
  at::globalContext().setAllowTF32CuBLAS(on);
  at::globalContext().setAllowTF32CuDNN(on);
  return nullptr;
}

napi_value set_gpu(Call& call) {
  const auto index = static_cast<c10::DeviceIndex>(as_int(call.env, call[0], "gpu"));
  if (index < 0 || index >= gpu_count()) throw BadArgument("setGpu: there is no GPU of this number");
  c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).setDevice(c10::Device(c10::DeviceType::CUDA, index));
  return nullptr;
}

napi_value threads(Call& call) { return number(call.env, at::get_num_threads()); }

napi_value manual_seed(Call& call) {
  at::manual_seed(static_cast<uint64_t>(as_int(call.env, call[0], "seed")));
  return nullptr;
}

napi_value rng_state(Call& call) {
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  const at::Tensor state = generator.get_state();
  void* data;
  napi_value out = array_buffer(call.env, state.nbytes(), &data);
  std::memcpy(data, state.const_data_ptr(), state.nbytes());
  return out;
}

napi_value set_rng_state(Call& call) {
  const Bytes bytes = as_bytes(call.env, call[0], "state");
  at::Tensor state = at::empty({static_cast<int64_t>(bytes.size)}, at::TensorOptions().dtype(at::kByte));
  std::memcpy(state.mutable_data_ptr(), bytes.data, bytes.size);
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
  return nullptr;
}

}  // namespace neva
