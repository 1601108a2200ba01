// neva's own operators, registered with LibTorch's dispatcher so that they are called like any other ("neva::rope").
// Each is one pass over memory where the composition of ATen operators takes several; on devices other than the CPU
// the composition is what runs. Arithmetic is in float32 whatever the storage type (float64 in float64).

#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/_to_copy.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>

#include "vector.h"

namespace neva {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// ---- RMSNorm: x · rsqrt(mean(x²) + eps) · w ------------------------------------------------------------------------

template <typename T, typename A>
NEVA_CLONES void rms_forward_row(const T* x, const T* w, T* y, A* rstd, int64_t size, A eps) {
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const A v = static_cast<A>(x[i + l]);
      lanes[l] += v * v;
    }
  }
  A sum = 0;
  for (; i < size; ++i) sum += static_cast<A>(x[i]) * static_cast<A>(x[i]);
  for (A lane : lanes) sum += lane;
  const A r = A(1) / std::sqrt(sum / static_cast<A>(size) + eps);
  *rstd = r;
  for (i = 0; i < size; ++i) y[i] = static_cast<T>(static_cast<A>(x[i]) * r * static_cast<A>(w[i]));
}

// dx = rstd · (g·w − x · rstd² · mean(g·w·x))
template <typename T, typename A>
NEVA_CLONES void rms_backward_row(const T* g, const T* x, const T* w, T* dx, A rstd, int64_t size) {
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      lanes[l] += static_cast<A>(g[i + l]) * static_cast<A>(w[i + l]) * static_cast<A>(x[i + l]);
    }
  }
  A dot = 0;
  for (; i < size; ++i) dot += static_cast<A>(g[i]) * static_cast<A>(w[i]) * static_cast<A>(x[i]);
  for (A lane : lanes) dot += lane;
  const A k = rstd * rstd * dot / static_cast<A>(size);
  for (i = 0; i < size; ++i) {
    dx[i] = static_cast<T>(rstd * (static_cast<A>(g[i]) * static_cast<A>(w[i]) - static_cast<A>(x[i]) * k));
  }
}

// dw[from:to] = Σ over rows of g · x · rstd; each column is summed in row order, so the thread count changes nothing.
template <typename T, typename A>
NEVA_CLONES void rms_backward_weight(const T* g, const T* x, const A* rstd, A* dw, int64_t rows, int64_t size,
                                     int64_t from, int64_t to) {
  for (int64_t c = from; c < to; ++c) dw[c] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const T* gr = g + r * size;
    const T* xr = x + r * size;
    for (int64_t c = from; c < to; ++c) dw[c] += static_cast<A>(gr[c]) * static_cast<A>(xr[c]) * rstd[r];
  }
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& weight, double eps) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor x = input.contiguous();
    const Tensor w = weight.contiguous();
    const int64_t size = x.size(-1);
    const int64_t rows = size ? x.numel() / size : 0;
    Tensor y, rstd;
    if (x.is_cpu()) {
      y = at::empty_like(x);
      rstd = at::empty({rows}, x.options().dtype(at::toOpMathType(x.scalar_type())));
      AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "rms_norm", [&] {
        const auto* xp = x.const_data_ptr<scalar_t>();
        const auto* wp = w.const_data_ptr<scalar_t>();
        auto* yp = y.mutable_data_ptr<scalar_t>();
        using A = at::opmath_type<scalar_t>;
        auto* rp = rstd.mutable_data_ptr<A>();
        at::parallel_for(0, rows, 8, [&](int64_t from, int64_t to) {
          for (int64_t r = from; r < to; ++r) {
            rms_forward_row(xp + r * size, wp, yp + r * size, rp + r, size, static_cast<A>(eps));
          }
        });
      });
    } else {
      const Tensor wide = x.to(at::kFloat);
      rstd = at::rsqrt(at::mean(wide * wide, {-1}, /*keepdim=*/true) + eps);
      y = (wide * rstd * w.to(at::kFloat)).to(x.scalar_type());
    }
    ctx->save_for_backward({x, w, rstd});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], &rstd = saved[2];
    const Tensor g = grads[0].contiguous();
    const int64_t size = x.size(-1);
    const int64_t rows = size ? x.numel() / size : 0;
    Tensor dx, dw;
    if (x.is_cpu()) {
      AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "rms_norm_backward", [&] {
        using A = at::opmath_type<scalar_t>;
        const auto* rp = rstd.const_data_ptr<A>();
        const auto* gp = g.const_data_ptr<scalar_t>();
        const auto* xp = x.const_data_ptr<scalar_t>();
        const auto* wp = w.const_data_ptr<scalar_t>();
        if (ctx->needs_input_grad(0)) {
          dx = at::empty_like(x);
          auto* dp = dx.mutable_data_ptr<scalar_t>();
          at::parallel_for(0, rows, 8, [&](int64_t from, int64_t to) {
            for (int64_t r = from; r < to; ++r) {
              rms_backward_row(gp + r * size, xp + r * size, wp, dp + r * size, rp[r], size);
            }
          });
        }
        if (ctx->needs_input_grad(1)) {
          Tensor wide = at::empty({size}, rstd.options());
          auto* wide_p = wide.mutable_data_ptr<A>();
          at::parallel_for(0, size, 64, [&](int64_t from, int64_t to) {
            rms_backward_weight(gp, xp, rp, wide_p, rows, size, from, to);
          });
          dw = wide.to(w.scalar_type());
        }
      });
    } else {
      const Tensor xw = x.to(at::kFloat), gw = g.to(at::kFloat) * w.to(at::kFloat);
      if (ctx->needs_input_grad(0)) {
        dx = (rstd * (gw - xw * rstd * rstd * at::mean(gw * xw, {-1}, true))).to(x.scalar_type());
      }
      if (ctx->needs_input_grad(1)) {
        dw = at::sum((g.to(at::kFloat) * xw * rstd).reshape({rows, size}), {0}).to(w.scalar_type());
      }
    }
    return {dx, dw, Tensor()};
  }
};

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  TORCH_CHECK(weight.dim() == 1 && x.dim() > 0 && x.size(-1) == weight.size(0), "weight must have the size of x's last dimension");
  TORCH_CHECK(x.scalar_type() == weight.scalar_type(), "x and weight must have one dtype");
  TORCH_CHECK(x.scalar_type() != at::kDouble || !x.is_cuda(), "float64 is for the CPU");
  return RmsNorm::apply(x, weight, eps);
}

// ---- rotary positions, half-rotation: (a, b) → (a·cos − b·sin, b·cos + a·sin) ----------------------------------------

template <typename T>
NEVA_CLONES void rotate_row(const T* x, const float* cos, const float* sin, float sign, T* y, int64_t half) {
  using A = at::opmath_type<T>;
  for (int64_t i = 0; i < half; ++i) {
    const A a = static_cast<A>(x[i]), b = static_cast<A>(x[half + i]);
    const A c = cos[i], s = sign * sin[i];
    y[i] = static_cast<T>(a * c - b * s);
    y[half + i] = static_cast<T>(b * c + a * s);
  }
}

// x [B, H, T, D] with any strides but a dense last dimension; the result has the memory order of x. The first 2·half of D are
// turned, the rest is copied.
Tensor rotate(const Tensor& input, const Tensor& cos, const Tensor& sin, double sign) {
  const Tensor x = input.stride(-1) == 1 ? input : input.contiguous();
  const int64_t B = x.size(0), H = x.size(1), T = x.size(2), D = x.size(3), half = cos.size(1);
  if (!x.is_cpu()) {
    const Tensor c = cos.to(at::kFloat), s = sin.to(at::kFloat) * sign, wide = x.to(at::kFloat);
    const Tensor a = wide.narrow(-1, 0, half), b = wide.narrow(-1, half, half);
    const Tensor rest = wide.narrow(-1, 2 * half, D - 2 * half);
    return at::cat({a * c - b * s, b * c + a * s, rest}, -1).to(x.scalar_type());
  }
  // [B, T, H, D] in memory when that is how x lies: the attention kernels and the next matmul then copy nothing.
  const bool by_position = x.stride(2) > x.stride(1);
  Tensor y = by_position ? at::empty({B, T, H, D}, x.options()).transpose(1, 2) : at::empty({B, H, T, D}, x.options());
  const int64_t xs[3] = {x.stride(0), x.stride(1), x.stride(2)};
  const int64_t ys[3] = {y.stride(0), y.stride(1), y.stride(2)};
  const float* cp = cos.const_data_ptr<float>();
  const float* sp = sin.const_data_ptr<float>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "rope", [&] {
    const auto* xp = x.const_data_ptr<scalar_t>();
    auto* yp = y.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, B * T, 16, [&](int64_t from, int64_t to) {
      for (int64_t row = from; row < to; ++row) {
        const int64_t b = row / T, t = row % T;
        for (int64_t h = 0; h < H; ++h) {
          const auto* from_row = xp + b * xs[0] + h * xs[1] + t * xs[2];
          auto* to_row = yp + b * ys[0] + h * ys[1] + t * ys[2];
          rotate_row(from_row, cp + t * half, sp + t * half, static_cast<float>(sign), to_row, half);
          std::copy(from_row + 2 * half, from_row + D, to_row + 2 * half);
        }
      }
    });
  });
  return y;
}

struct Rope : torch::autograd::Function<Rope> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& cos, const Tensor& sin) {
    at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({cos, sin});
    return rotate(x, cos, sin, 1.0);
  }
  // A rotation's transpose is the rotation back.
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {rotate(grads[0], saved[0], saved[1], -1.0), Tensor(), Tensor()};
  }
};

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  TORCH_CHECK(x.dim() == 4, "x must be [B, H, T, D]");
  for (const Tensor* table : {&cos, &sin}) {
    TORCH_CHECK(table->scalar_type() == at::kFloat && table->dim() == 2 && table->size(0) == x.size(2) &&
                    table->size(1) == cos.size(1) && 2 * table->size(1) <= x.size(3),
                "cos and sin must be float32 [T, R/2] with R at most D");
  }
  return Rope::apply(x, cos.contiguous(), sin.contiguous());
}

// ---- SwiGLU's inside: silu(gate) · up --------------------------------------------------------------------------------

template <typename T>
NEVA_CLONES void silu_mul_forward(const T* gate, const T* up, T* y, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    const float g = static_cast<float>(gate[i]);
    y[i] = static_cast<T>(g / (1.0f + exp_of(-g)) * static_cast<float>(up[i]));
  }
}

// d gate = dy · up · σ · (1 + gate · (1 − σ)), d up = dy · gate · σ
template <typename T>
NEVA_CLONES void silu_mul_backward(const T* dy, const T* gate, const T* up, T* dgate, T* dup, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    const float g = static_cast<float>(gate[i]), d = static_cast<float>(dy[i]);
    const float sigma = 1.0f / (1.0f + exp_of(-g));
    dgate[i] = static_cast<T>(d * static_cast<float>(up[i]) * sigma * (1.0f + g * (1.0f - sigma)));
    dup[i] = static_cast<T>(d * g * sigma);
  }
}

struct SiluMul : torch::autograd::Function<SiluMul> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate_in, const Tensor& up_in) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor gate = gate_in.contiguous(), up = up_in.contiguous();
    ctx->save_for_backward({gate, up});
    if (!gate.is_cpu() || gate.scalar_type() == at::kDouble) return at::silu(gate) * up;
    Tensor y = at::empty_like(gate);
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, gate.scalar_type(), "silu_mul", [&] {
      const auto* gp = gate.const_data_ptr<scalar_t>();
      const auto* up_p = up.const_data_ptr<scalar_t>();
      auto* yp = y.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, gate.numel(), 16384, [&](int64_t from, int64_t to) {
        silu_mul_forward(gp + from, up_p + from, yp + from, to - from);
      });
    });
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1];
    const Tensor dy = grads[0].contiguous();
    if (!gate.is_cpu() || gate.scalar_type() == at::kDouble) {
      return {at::silu_backward(dy * up, gate), dy * at::silu(gate)};
    }
    Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, gate.scalar_type(), "silu_mul_backward", [&] {
      const auto* dp = dy.const_data_ptr<scalar_t>();
      const auto* gp = gate.const_data_ptr<scalar_t>();
      const auto* up_p = up.const_data_ptr<scalar_t>();
      auto* dgp = dgate.mutable_data_ptr<scalar_t>();
      auto* dup_p = dup.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, gate.numel(), 16384, [&](int64_t from, int64_t to) {
        silu_mul_backward(dp + from, gp + from, up_p + from, dgp + from, dup_p + from, to - from);
      });
    });
    return {dgate, dup};
  }
};

Tensor silu_mul(const Tensor& gate, const Tensor& up) {
  TORCH_CHECK(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type(), "gate and up must have one shape and dtype");
  return SiluMul::apply(gate, up);
}

// ---- linear: x · wᵀ + b ------------------------------------------------------------------------------------------------

// LibTorch gives float32 matmuls on the CPU to MKL, which runs AVX2 code on processors that are not Intel's. oneDNN, in the
// same library, takes what the processor has: 1.05 to 1.7 times the rate for y and dx (bench/step); for dw MKL is ahead.
// Its code is made anew for each shape, which only a large product repays.
constexpr double kOneDnnFlops = 3e7;

Tensor onednn_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  using Signature = Tensor(const Tensor&, const Tensor&, const std::optional<Tensor>&, c10::string_view,
                           c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("mkldnn::_linear_pointwise", "")
                             .typed<Signature>();
  return op.call(x, weight, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

struct OneDnnLinear : torch::autograd::Function<OneDnnLinear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
    at::AutoDispatchBelowADInplaceOrView below;
    // As at::linear does: a frozen weight has no use for the input, often a step's largest tensors.
    ctx->save_for_backward({weight.requires_grad() ? x : Tensor(), weight});
    ctx->saved_data["bias"] = bias.has_value();
    return onednn_linear(x, weight, bias);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1];
    const Tensor g = grads[0].reshape({-1, weight.size(0)});
    Tensor dx, dw, db;
    if (ctx->needs_input_grad(0)) {
      std::vector<int64_t> sizes = grads[0].sizes().vec();
      sizes.back() = weight.size(1);
      dx = onednn_linear(g, weight.t(), std::nullopt).view(sizes);
    }
    if (ctx->needs_input_grad(1)) dw = at::mm(g.t(), x.reshape({-1, weight.size(1)}));
    // An empty optional is not counted among the inputs.
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) db = at::sum(g, {0});
    return {dx, dw, db};
  }
};

Tensor linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  static const bool available = at::globalContext().hasMKLDNN();
  const bool fits = x.is_cpu() && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat && weight.dim() == 2 &&
                    x.dim() >= 2 && x.size(-1) == weight.size(1);
  const double flops = 2.0 * static_cast<double>(x.numel()) * static_cast<double>(weight.size(0));
  if (!available || !fits || flops < kOneDnnFlops) return at::linear(x, weight, bias);
  return OneDnnLinear::apply(x, weight, bias);
}

}  // namespace

TORCH_LIBRARY(neva, m) {
  m.def("linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", linear);
  m.def("silu_mul(Tensor gate, Tensor up) -> Tensor", silu_mul);
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", rms_norm);
  m.def("rope(Tensor x, Tensor cos, Tensor sin) -> Tensor", rope);
}

}  // namespace neva
