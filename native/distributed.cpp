// Process groups of LibTorch's c10d: TCPStore for finding one another, Gloo for the collectives.
#define USE_C10D_GLOO
#include "distributed.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <unordered_map>

namespace neva {
namespace {

struct Group {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> backend;
};

// What a running collective needs until it is waited for.
struct Running {
  c10::intrusive_ptr<c10d::Work> work;
  at::Tensor buffer;                // the message, where it is a copy
  std::vector<at::Tensor> targets;  // where its values go
  bool sum = false;                 // of the buffer's rows, into the only target
};

// Never destroyed: at the end of a process that failed, a group's threads may still wait for ranks that are gone.
auto& groups = *new std::unordered_map<int64_t, Group>;
auto& running = *new std::unordered_map<int64_t, Running>;
int64_t next_number = 1;

Group& as_group(Call& call) {
  const auto found = groups.find(as_int(call.env, call[0], "group"));
  if (found == groups.end()) throw BadArgument("there is no such process group (closed, or never opened)");
  return found->second;
}

napi_value started(Call& call, Running item) {
  running.emplace(next_number, std::move(item));
  return number(call.env, static_cast<double>(next_number++));
}

const at::Tensor& dense(const at::Tensor& tensor) {
  if (!tensor.is_contiguous()) throw BadArgument("collective: " + describe(tensor) + " is not contiguous");
  return tensor;
}

int as_rank(Call& call, size_t i) { return static_cast<int>(as_int(call.env, call[i], "rank")); }

}  // namespace

napi_value open_group(Call& call) {
  const auto text = [&](size_t i, const char* what) { return as_string(call.env, call[i], what); };
  const std::string host = text(0, "host");
  const int rank = as_rank(call, 2);
  const auto size = as_int(call.env, call[3], "size");
  const std::chrono::milliseconds timeout(as_int(call.env, call[4], "timeout"));
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(as_int(call.env, call[1], "port"));
  options.isServer = as_bool(call.env, call[5], "server");
  options.numWorkers = static_cast<size_t>(size);
  options.waitWorkers = false;  // the group's own rendezvous waits
  options.timeout = timeout;
  const auto tcp = c10::make_intrusive<c10d::TCPStore>(host, options);
  Group group;
  group.store = c10::make_intrusive<c10d::PrefixStore>(text(6, "prefix"), tcp);
  auto gloo = c10d::ProcessGroupGloo::Options::create(timeout);
  const std::string address = text(7, "address");
  const std::string interface = text(8, "interface");
  gloo->devices.push_back(!interface.empty() ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                          : !address.empty() ? c10d::ProcessGroupGloo::createDeviceForHostname(address)
                                             : c10d::ProcessGroupGloo::createDefaultDevice());
  group.backend = c10::make_intrusive<c10d::ProcessGroupGloo>(group.store, rank, static_cast<int>(size), gloo);
  groups.emplace(next_number, std::move(group));
  return number(call.env, static_cast<double>(next_number++));
}

napi_value close_group(Call& call) {
  as_group(call);
  groups.erase(as_int(call.env, call[0], "group"));
  return nullptr;
}

napi_value all_reduce(Call& call) {
  Group& group = as_group(call);
  Running item;
  for (napi_value each : as_array(call.env, call[1], "tensors")) item.targets.push_back(as_tensor(call.env, each));
  if (item.targets.empty()) throw BadArgument("allReduce: no tensors");
  // A single dense tensor is its own message; several are copied together and back.
  const bool alone = item.targets.size() == 1 && item.targets[0].is_contiguous();
  if (alone) {
    item.buffer = item.targets[0];
    item.targets.clear();
  } else {
    std::vector<at::Tensor> flat;
    for (const at::Tensor& tensor : item.targets) flat.push_back(tensor.reshape({-1}));
    item.buffer = at::cat(flat);
  }
  std::vector<at::Tensor> message{item.buffer};
  item.work = group.backend->allreduce(message);
  return started(call, std::move(item));
}

napi_value broadcast(Call& call) {
  std::vector<at::Tensor> message{dense(as_tensor(call.env, call[1]))};
  c10d::BroadcastOptions options;
  options.rootRank = as_rank(call, 2);
  return started(call, {as_group(call).backend->broadcast(message, options), message[0], {}});
}

napi_value all_gather(Call& call) {
  at::Tensor input = dense(as_tensor(call.env, call[1]));
  at::Tensor output = dense(as_tensor(call.env, call[2]));
  return started(call, {as_group(call).backend->_allgather_base(output, input), output, {}});
}

napi_value reduce_scatter(Call& call) {
  // Gloo's own is an all-reduce inside, with twice the bytes: each rank gets its part from every other and adds up.
  at::Tensor input = dense(as_tensor(call.env, call[1]));
  const at::Tensor output = dense(as_tensor(call.env, call[2]));
  const auto& backend = as_group(call).backend;
  if (input.numel() != output.numel() * backend->getSize() || input.scalar_type() != output.scalar_type()) {
    throw BadArgument("reduceScatter: " + describe(input) + " does not make " + std::to_string(backend->getSize()) +
                      " parts of " + describe(output));
  }
  at::Tensor parts = at::empty({backend->getSize(), output.numel()}, output.options());
  at::Tensor received = parts.view({-1});
  at::Tensor sent = input.view({-1});
  std::vector<int64_t> equal;
  return started(call, {backend->alltoall_base(received, sent, equal, equal), parts, {output}, true});
}

napi_value send(Call& call) {
  std::vector<at::Tensor> message{dense(as_tensor(call.env, call[1]))};
  const int tag = static_cast<int>(as_int(call.env, call[3], "tag"));
  return started(call, {as_group(call).backend->send(message, as_rank(call, 2), tag), message[0], {}});
}

napi_value receive(Call& call) {
  std::vector<at::Tensor> message{dense(as_tensor(call.env, call[1]))};
  const int tag = static_cast<int>(as_int(call.env, call[3], "tag"));
  return started(call, {as_group(call).backend->recv(message, as_rank(call, 2), tag), message[0], {}});
}

napi_value barrier(Call& call) { return started(call, {as_group(call).backend->barrier(), {}, {}}); }

napi_value work_done(Call& call) {
  const auto found = running.find(as_int(call.env, call[0], "work"));
  return boolean(call.env, found == running.end() || found->second.work->isCompleted());
}

napi_value wait_work(Call& call) {
  const auto node = running.extract(as_int(call.env, call[0], "work"));
  if (node.empty()) throw BadArgument("wait: this work has been waited for");
  Running& item = node.mapped();
  item.work->wait();
  if (item.sum) item.buffer = item.buffer.sum(0);
  int64_t at = 0;
  for (at::Tensor& target : item.targets) {
    target.copy_(item.buffer.narrow(0, at, target.numel()).view(target.sizes()));
    at += target.numel();
  }
  return nullptr;
}

}  // namespace neva
