// Collectives that are part of a segment: pairs of a forward and a backward message (Shoeybi et al. 2019, figure 3;
// Korthikanti et al. 2022, figure 5), and the loss over a vocabulary that is shared out.
#include "tensor_parallel.h"

#include "process_groups.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

namespace neva {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

ProcessGroup& group_of(AutogradContext* ctx) { return process_group(ctx->saved_data["group"].toInt()); }

// Memory of its own, since the collective overwrites it.
at::Tensor summed(ProcessGroup& group, const at::Tensor& tensor, const char* what) {
  at::Tensor own = tensor.clone(at::MemoryFormat::Contiguous);
  sum_now(group, own, what);
  return own;
}

int64_t rows_each(const ProcessGroup& group, int64_t rows) { return (rows + group.size() - 1) / group.size(); }

at::Tensor gathered(ProcessGroup& group, const at::Tensor& own, int64_t rows, const char* what) {
  return all_gather_now(group, own, what).narrow(0, 0, rows);
}

at::Tensor scattered(ProcessGroup& group, const at::Tensor& whole, const char* what) {
  const int64_t missing = rows_each(group, whole.size(0)) * group.size() - whole.size(0);
  if (missing == 0) return reduce_scatter_now(group, whole.contiguous(), what);
  std::vector<int64_t> pad(2 * whole.dim(), 0);  // from the last dimension to the first, before and behind
  pad.back() = missing;
  return reduce_scatter_now(group, at::constant_pad_nd(whole, pad), what);
}

struct Enter : Function<Enter> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, int64_t group) {
    ctx->saved_data["group"] = group;
    return x;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {summed(group_of(ctx), grads[0], "the gradient of an input"), at::Tensor()};
  }
};

struct Leave : Function<Leave> {
  static at::Tensor forward(AutogradContext*, const at::Tensor& x, int64_t group) {
    return summed(process_group(group), x, "the parts of an output");
  }
  static variable_list backward(AutogradContext*, variable_list grads) { return {grads[0], at::Tensor()}; }
};

struct GatherRows : Function<GatherRows> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& own, int64_t group, int64_t rows) {
    ctx->saved_data["group"] = group;
    return gathered(process_group(group), own.contiguous(), rows, "the rows of an input");
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {scattered(group_of(ctx), grads[0], "the gradient of an input's rows"), at::Tensor(), at::Tensor()};
  }
};

struct ScatterRows : Function<ScatterRows> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& whole, int64_t group) {
    ctx->saved_data["group"] = group;
    ctx->saved_data["rows"] = whole.size(0);
    return scattered(process_group(group), whole, "the parts of an output's rows");
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const int64_t rows = ctx->saved_data["rows"].toInt();
    return {gathered(group_of(ctx), grads[0].contiguous(), rows, "the gradient of an output's rows"), at::Tensor()};
  }
};

// Sum of −log softmax(logits)[target]. Three numbers a position travel, never logits: the maximum, the sum of
// exponentials, and the target's own logit, which one rank has.
struct CrossEntropy : Function<CrossEntropy> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& logits, const at::Tensor& targets, int64_t number,
                            int64_t first) {
    ProcessGroup& group = process_group(number);
    const at::Tensor wide = logits.to(at::kFloat);
    at::Tensor highest = std::get<0>(wide.max(1));
    max_now(group, highest, "the largest logits");
    at::Tensor shifted = wide - highest.unsqueeze(1);
    const at::Tensor own = (targets - first).clamp(0, logits.size(1) - 1).unsqueeze(1);
    const at::Tensor mine = targets.ge(first).logical_and(targets.lt(first + logits.size(1))).to(at::kFloat);
    const at::Tensor target_logit = shifted.gather(1, own).squeeze(1) * mine;
    at::Tensor exponentials = shifted.exp_();
    at::Tensor sums = at::stack({exponentials.sum(1), target_logit});
    sum_now(group, sums, "the sums of the softmax");
    exponentials.div_(sums[0].unsqueeze(1));
    ctx->save_for_backward({exponentials, own, mine});
    ctx->saved_data["dtype"] = static_cast<int64_t>(logits.scalar_type());
    return (sums[0].log() - sums[1]).sum();
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    at::Tensor grad = saved[0].clone();
    grad.scatter_add_(1, saved[1], saved[2].neg().unsqueeze(1));
    grad.mul_(grads[0]);
    const auto dtype = static_cast<at::ScalarType>(ctx->saved_data["dtype"].toInt());
    return {grad.to(dtype), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

int64_t number_of(Call& call) {
  const int64_t number = as_int(call.env, call[0], "group");
  process_group(number);
  return number;
}

}  // namespace

napi_value tp_enter(Call& call) {
  return tensor_value(call.env, Enter::apply(as_tensor(call.env, call[1]), number_of(call)));
}

napi_value tp_leave(Call& call) {
  return tensor_value(call.env, Leave::apply(as_tensor(call.env, call[1]), number_of(call)));
}

napi_value tp_gather_rows(Call& call) {
  const int64_t rows = as_int(call.env, call[2], "rows");
  const at::Tensor& own = as_tensor(call.env, call[1]);
  if (own.size(0) != rows_each(process_group(number_of(call)), rows)) {
    throw BadArgument("gatherRows: " + describe(own) + " is no equal share of " + std::to_string(rows) + " rows");
  }
  return tensor_value(call.env, GatherRows::apply(own, number_of(call), rows));
}

napi_value tp_scatter_rows(Call& call) {
  return tensor_value(call.env, ScatterRows::apply(as_tensor(call.env, call[1]), number_of(call)));
}

napi_value tp_cross_entropy(Call& call) {
  const int64_t first = as_int(call.env, call[3], "first token");
  return tensor_value(call.env, CrossEntropy::apply(as_tensor(call.env, call[1]), as_tensor(call.env, call[2]),
                                                    number_of(call), first));
}

}  // namespace neva
