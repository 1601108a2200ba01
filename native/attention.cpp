// Attention with its scores written out, and its form that keeps q, k and v alone and computes the rest again in the backward
// pass (selective activation recomputation: Korthikanti et al. 2022; NeMo's activations_checkpoint_granularity=selective).

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <limits>

namespace neva {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// q [B, H, T, D]; k, v [B, H, U, D]. The last query sees the last key. Softmax in float32 (float64 in float64).
Tensor core_attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, double scale) {
  const int64_t queries = q.size(2), keys = k.size(2);
  Tensor scores = at::matmul(q * scale, k.transpose(2, 3));
  if (causal && queries > 1) {
    const Tensor seen = at::ones({queries, keys}, q.options().dtype(at::kBool)).tril(keys - queries);
    scores = at::where(seen, scores, at::full({}, -std::numeric_limits<double>::infinity(), scores.options()));
  }
  const auto wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::matmul(at::softmax(scores, -1, wide).to(q.scalar_type()), v);
}

struct AgainAttention : torch::autograd::Function<AgainAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v, bool causal, double scale) {
    at::NoGradGuard nothing;
    ctx->save_for_backward({q, k, v});
    ctx->saved_data["causal"] = causal;
    ctx->saved_data["scale"] = scale;
    return core_attention(q, k, v, causal, scale);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    variable_list leaves, wanted;
    for (size_t i = 0; i < saved.size(); ++i) {
      leaves.push_back(saved[i].detach().requires_grad_(ctx->needs_input_grad(i)));
      if (ctx->needs_input_grad(i)) wanted.push_back(leaves.back());
    }
    Tensor mixed;
    {
      at::AutoGradMode recording(true);
      mixed = core_attention(leaves[0], leaves[1], leaves[2], ctx->saved_data["causal"].toBool(), ctx->saved_data["scale"].toDouble());
    }
    variable_list found = torch::autograd::grad({mixed}, wanted, {grads[0]});
    variable_list out(5);
    for (size_t i = 0, next = 0; i < saved.size(); ++i) {
      if (ctx->needs_input_grad(i)) out[i] = found[next++];
    }
    return out;
  }
};

Tensor plain_attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, double scale, bool recompute) {
  TORCH_CHECK(q.dim() == 4 && k.dim() == 4 && q.size(1) == k.size(1) && k.sizes() == v.sizes(),
              "q must be [B, H, T, D], k and v [B, H, U, D]");
  return recompute ? AgainAttention::apply(q, k, v, causal, scale) : core_attention(q, k, v, causal, scale);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(neva, m) {
  m.def("plain_attention(Tensor q, Tensor k, Tensor v, bool causal, float scale, bool recompute) -> Tensor", plain_attention);
}

}  // namespace neva
