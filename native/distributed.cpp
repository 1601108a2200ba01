// Process groups of LibTorch's c10d: TCPStore for finding one another, Gloo for the collectives.
#define USE_C10D_GLOO
#include "distributed.h"

#include "process_groups.h"
#include "watch.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <unordered_map>

namespace neva {
namespace {

// What a running collective needs until it is waited for.
struct Running {
  c10::intrusive_ptr<c10d::Work> work;
  at::Tensor buffer;                // the message, where it is a copy
  std::vector<at::Tensor> targets;  // where its values go
  bool sum = false;                 // of the buffer's rows, into the only target
  std::string group = {};
};

// Never destroyed: at the end of a process that failed, a group's threads may still wait for ranks that are gone.
auto& groups = *new std::unordered_map<int64_t, ProcessGroup>;
auto& running = *new std::unordered_map<int64_t, Running>;
int64_t next_number = 1;

ProcessGroup& as_group(Call& call) { return process_group(as_int(call.env, call[0], "group")); }

napi_value started(Call& call, Running item) {
  item.group = as_group(call).name;
  running.emplace(next_number, std::move(item));
  return number(call.env, static_cast<double>(next_number++));
}

const at::Tensor& dense(const at::Tensor& tensor) {
  if (!tensor.is_contiguous()) throw BadArgument("collective: " + describe(tensor) + " is not contiguous");
  return tensor;
}

int as_rank(Call& call, size_t i) { return static_cast<int>(as_int(call.env, call[i], "rank")); }

// Each rank gets its part from every other, and adds them up in the order of the ranks: [size, R, ...].
// Gloo's own reduce-scatter is an all-reduce inside, with twice the bytes.
std::pair<c10::intrusive_ptr<c10d::Work>, at::Tensor> exchange(ProcessGroup& group, const at::Tensor& whole) {
  at::Tensor sent = whole.view({-1});
  at::Tensor parts = at::empty({group.size(), sent.numel() / group.size()}, whole.options());
  at::Tensor received = parts.view({-1});
  std::vector<int64_t> equal;
  return {group.of(whole).alltoall_base(received, sent, equal, equal), parts};
}

// Waits for what `start` starts; a failure says who waited for what, and is told from others by kLost.
template <typename Start>
void now(const ProcessGroup& group, const char* what, Start start) {
  try {
    const Waiting waiting(group.name, what);
    start()->wait();
  } catch (const std::exception& error) {
    throw LostPeers(std::string(kLost) + group.who + " waited for " + what + "\n" + error.what());
  }
}

void reduce_now(ProcessGroup& group, at::Tensor& tensor, c10d::ReduceOp::RedOpType operation, const char* what) {
  group.count(Kind::all_reduce, tensor);
  now(group, what, [&] {
    std::vector<at::Tensor> message{tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = operation;
    return group.of(tensor).allreduce(message, options);
  });
}

}  // namespace

c10d::Backend& ProcessGroup::of(const at::Tensor& tensor) const {
  if (tensor.is_cpu()) return *host;
  if (!device) throw BadArgument("collective: " + describe(tensor) + " is on a device that this group cannot reach");
  return *device;
}

void ProcessGroup::count(Kind kind, const at::Tensor& whole) {
  traffic.messages[static_cast<size_t>(kind)] += 1;
  traffic.bytes[static_cast<size_t>(kind)] += static_cast<int64_t>(whole.nbytes());
  // What two ranks have between them is no message of the group's.
  if (kind == Kind::send || kind == Kind::receive) return;
  static constexpr const char* kNames[] = {"all-reduce", "broadcast", "all-gather", "reduce-scatter"};
  mark(std::string(kNames[static_cast<size_t>(kind)]) + " of " + std::to_string(whole.nbytes()) + " bytes of " +
       c10::toString(whole.scalar_type()));
}

void ProcessGroup::mark(const std::string& message) {
  messages += 1;
  for (const char c : message) digest = (digest * 31 + c) % (int64_t{1} << 26);
  watch_message(name, messages, message);
}

ProcessGroup& process_group(int64_t number) {
  const auto found = groups.find(number);
  if (found == groups.end()) throw BadArgument("there is no such process group (closed, or never opened)");
  return found->second;
}

void sum_now(ProcessGroup& group, at::Tensor& tensor, const char* what) {
  reduce_now(group, tensor, c10d::ReduceOp::SUM, what);
}

void max_now(ProcessGroup& group, at::Tensor& tensor, const char* what) {
  reduce_now(group, tensor, c10d::ReduceOp::MAX, what);
}

at::Tensor all_gather_now(ProcessGroup& group, const at::Tensor& own, const char* what) {
  std::vector<int64_t> shape = own.sizes().vec();
  shape[0] *= group.size();
  at::Tensor whole = at::empty(shape, own.options());
  group.count(Kind::all_gather, whole);
  now(group, what, [&] {
    at::Tensor input = own;
    return group.of(own)._allgather_base(whole, input);
  });
  return whole;
}

at::Tensor reduce_scatter_now(ProcessGroup& group, const at::Tensor& whole, const char* what) {
  group.count(Kind::reduce_scatter, whole);
  std::vector<int64_t> shape = whole.sizes().vec();
  shape[0] /= group.size();
  if (!whole.is_cpu()) {
    at::Tensor own = at::empty(shape, whole.options());
    now(group, what, [&] {
      at::Tensor input = whole;
      return group.of(whole)._reduce_scatter_base(own, input);
    });
    return own;
  }
  at::Tensor parts;
  now(group, what, [&] {
    auto [work, received] = exchange(group, whole);
    parts = received;
    return work;
  });
  return parts.sum(0).view(shape);
}

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
  options.isServer = false;
  const std::string prefix = text(6, "prefix");
  const std::string where = host + ":" + std::to_string(options.port);
  const bool first = groups.empty();
  watch_begin(c10::make_intrusive<c10d::TCPStore>(host, options), rank, static_cast<int>(size), text(9, "who"),
              prefix + "watch/", where);
  ProcessGroup group;
  group.name = text(11, "name");
  group.whole = first;
  watch_group(group.name);
  group.store = c10::make_intrusive<c10d::PrefixStore>(prefix, tcp);
  auto gloo = c10d::ProcessGroupGloo::Options::create(timeout);
  const std::string address = text(7, "address");
  const std::string interface = text(8, "interface");
  gloo->devices.push_back(!interface.empty() ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                          : !address.empty() ? c10d::ProcessGroupGloo::createDeviceForHostname(address)
                                             : c10d::ProcessGroupGloo::createDefaultDevice());
  group.host = c10::make_intrusive<c10d::ProcessGroupGloo>(group.store, rank, static_cast<int>(size), gloo);
  group.who = text(9, "who");
  const auto gpu = static_cast<int>(as_int(call.env, call[10], "gpu"));
  if (gpu >= 0) group.device = open_nccl(group.store, rank, static_cast<int>(size), timeout, group.who, gpu);
  groups.emplace(next_number, std::move(group));
  return number(call.env, static_cast<double>(next_number++));
}

napi_value close_group(Call& call) {
  ProcessGroup& group = as_group(call);
  if (group.device) close_nccl(*group.device);
  if (group.whole) {
    // Rank 0 takes the store with it: nobody must write to it any more.
    watch_end();
    const Waiting waiting(group.name, "the others to end");
    group.host->barrier()->wait();
  }
  groups.erase(as_int(call.env, call[0], "group"));
  return nullptr;
}

napi_value all_reduce(Call& call) {
  ProcessGroup& group = as_group(call);
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
  group.count(Kind::all_reduce, item.buffer);
  item.work = group.of(item.buffer).allreduce(message);
  return started(call, std::move(item));
}

napi_value broadcast(Call& call) {
  std::vector<at::Tensor> message{dense(as_tensor(call.env, call[1]))};
  c10d::BroadcastOptions options;
  options.rootRank = as_rank(call, 2);
  ProcessGroup& group = as_group(call);
  group.count(Kind::broadcast, message[0]);
  return started(call, {group.of(message[0]).broadcast(message, options), message[0], {}});
}

napi_value all_gather(Call& call) {
  at::Tensor input = dense(as_tensor(call.env, call[1]));
  at::Tensor output = dense(as_tensor(call.env, call[2]));
  ProcessGroup& group = as_group(call);
  group.count(Kind::all_gather, output);
  return started(call, {group.of(input)._allgather_base(output, input), output, {}});
}

napi_value reduce_scatter(Call& call) {
  at::Tensor input = dense(as_tensor(call.env, call[1]));
  at::Tensor output = dense(as_tensor(call.env, call[2]));
  ProcessGroup& group = as_group(call);
  if (input.numel() != output.numel() * group.size() || input.scalar_type() != output.scalar_type()) {
    throw BadArgument("reduceScatter: " + describe(input) + " does not make " + std::to_string(group.size()) +
                      " parts of " + describe(output));
  }
  group.count(Kind::reduce_scatter, input);
  if (!input.is_cpu()) return started(call, {group.of(input)._reduce_scatter_base(output, input), input, {}});
  auto [work, parts] = exchange(group, input);
  return started(call, {work, parts, {output}, true});
}

napi_value send(Call& call) {
  std::vector<at::Tensor> message{as_tensor(call.env, call[1]).contiguous()};
  const int tag = static_cast<int>(as_int(call.env, call[3], "tag"));
  ProcessGroup& group = as_group(call);
  group.count(Kind::send, message[0]);
  return started(call, {group.of(message[0]).send(message, as_rank(call, 2), tag), message[0], {}});
}

napi_value receive(Call& call) {
  std::vector<at::Tensor> message{dense(as_tensor(call.env, call[1]))};
  const int tag = static_cast<int>(as_int(call.env, call[3], "tag"));
  ProcessGroup& group = as_group(call);
  group.count(Kind::receive, message[0]);
  return started(call, {group.of(message[0]).recv(message, as_rank(call, 2), tag), message[0], {}});
}

napi_value barrier(Call& call) {
  ProcessGroup& group = as_group(call);
  group.mark("barrier");
  return started(call, {group.host->barrier(), {}, {}});
}

napi_value work_done(Call& call) {
  const auto found = running.find(as_int(call.env, call[0], "work"));
  return boolean(call.env, found == running.end() || found->second.work->isCompleted());
}

napi_value wait_work(Call& call) {
  const auto node = running.extract(as_int(call.env, call[0], "work"));
  if (node.empty()) throw BadArgument("wait: this work has been waited for");
  Running& item = node.mapped();
  {
    const Waiting waiting(item.group, as_string(call.env, call[1], "what"));
    item.work->wait();
  }
  if (item.sum) item.buffer = item.buffer.sum(0);
  int64_t at = 0;
  for (at::Tensor& target : item.targets) {
    target.copy_(item.buffer.narrow(0, at, target.numel()).view(target.sizes()));
    at += target.numel();
  }
  return nullptr;
}

napi_value digest(Call& call) { return number(call.env, static_cast<double>(as_group(call).digest)); }

napi_value traffic(Call& call) {
  const Traffic& counted = as_group(call).traffic;
  napi_value out;
  check(napi_create_array_with_length(call.env, 2 * kKinds, &out));
  for (size_t i = 0; i < kKinds; ++i) {
    const auto [messages, bytes] = std::pair(counted.messages[i], counted.bytes[i]);
    check(napi_set_element(call.env, out, 2 * i, number(call.env, static_cast<double>(messages))));
    check(napi_set_element(call.env, out, 2 * i + 1, number(call.env, static_cast<double>(bytes))));
  }
  return out;
}

}  // namespace neva
