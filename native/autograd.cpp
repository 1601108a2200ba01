// Autograd: LibTorch's own tape, driven from the walk.
#include "autograd.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

namespace neva {

napi_value detach(Call& call) {
  return tensor_value(call.env, as_tensor(call.env, call[0]).detach());
}

napi_value set_requires_grad(Call& call) {
  as_tensor(call.env, call[0]).set_requires_grad(as_bool(call.env, call[1], "requires_grad"));
  return nullptr;
}

napi_value requires_grad(Call& call) {
  return boolean(call.env, as_tensor(call.env, call[0]).requires_grad());
}

napi_value owns_memory(Call& call) {
  const at::Tensor& tensor = as_tensor(call.env, call[0]);
  return boolean(call.env, tensor.is_contiguous() && tensor.storage().use_count() == 1);
}

napi_value set_grad_enabled(Call& call) {
  const bool before = at::GradMode::is_enabled();
  at::GradMode::set_enabled(as_bool(call.env, call[0], "enabled"));
  return boolean(call.env, before);
}

napi_value gradients(Call& call) {
  napi_env env = call.env;
  torch::autograd::variable_list outputs, grad_outputs, inputs;
  const auto given = as_array(env, call[1], "gradients of the outputs");
  const auto roots = as_array(env, call[0], "outputs");
  if (given.size() != roots.size()) throw BadArgument("gradients: one gradient per output is needed");
  for (size_t i = 0; i < roots.size(); ++i) {
    // An output without a gradient (or off the tape) takes no part.
    const at::Tensor& root = as_tensor(env, roots[i]);
    if (is_nullish(env, given[i]) || !root.requires_grad()) continue;
    outputs.push_back(root);
    grad_outputs.push_back(as_tensor(env, given[i]));
  }
  for (napi_value item : as_array(env, call[2], "inputs")) inputs.push_back(as_tensor(env, item));

  torch::autograd::variable_list grads(inputs.size());
  if (!outputs.empty() && !inputs.empty()) {
    grads = torch::autograd::grad(outputs, inputs, grad_outputs, /*retain_graph=*/false, /*create_graph=*/false,
                                  /*allow_unused=*/true);
  }
  napi_value out;
  check(napi_create_array_with_length(env, grads.size(), &out));
  for (size_t i = 0; i < grads.size(); ++i) {
    napi_value item;
    if (grads[i].defined()) {
      // Without the view metadata, which would keep the base of a view (and so a share in its memory) alive.
      at::Tensor plain = grads[i].variable_data();
      grads[i].reset();
      item = tensor_value(env, std::move(plain));
    } else {
      check(napi_get_null(env, &item));
    }
    check(napi_set_element(env, out, i, item));
  }
  return out;
}

}  // namespace neva
