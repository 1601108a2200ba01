// A float32 weight as its bfloat16 part and what that leaves: bits = (part << 16) + remainder. The part is the weight rounded
// to the nearest, ties away from zero: with ties to even, one of 65,536 remainders would not fit into 16 bits.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/where.h>
#include <torch/library.h>

#include <cstdint>

#include "vector.h"

namespace neva {
namespace {

using at::Tensor;

constexpr int16_t kQuietNan = 0x7fc0;

inline bool is_nan(uint32_t bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }
inline int16_t part_of(uint32_t bits) { return is_nan(bits) ? kQuietNan : static_cast<int16_t>((bits + 0x8000u) >> 16); }

NEVA_CLONES void parts_of(const uint32_t* from, int16_t* to, int64_t size) {
  for (int64_t i = 0; i < size; ++i) to[i] = part_of(from[i]);
}

NEVA_CLONES void remainders_of(const uint32_t* from, int16_t* to, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t bits = from[i];
    to[i] = is_nan(bits) ? int16_t{0} : static_cast<int16_t>(bits - (static_cast<uint32_t>(part_of(bits)) << 16));
  }
}

NEVA_CLONES void join_words(const uint16_t* high, const int16_t* low, uint32_t* to, int64_t size) {
  for (int64_t i = 0; i < size; ++i) {
    to[i] = (static_cast<uint32_t>(high[i]) << 16) + static_cast<uint32_t>(static_cast<int32_t>(low[i]));
  }
}

// One pass over float32 words on the CPU, into the 16-bit words of `out`.
void each_word(const Tensor& input, Tensor& out, void (*pass)(const uint32_t*, int16_t*, int64_t)) {
  const Tensor main = input.contiguous();
  const auto* from = static_cast<const uint32_t*>(main.const_data_ptr());
  auto* to = static_cast<int16_t*>(out.mutable_data_ptr());
  at::parallel_for(0, main.numel(), 65536, [&](int64_t begin, int64_t end) { pass(from + begin, to + begin, end - begin); });
}

void require_float(const Tensor& main) { TORCH_CHECK(main.scalar_type() == at::kFloat, "the main weight must be float32"); }

// The part as int32 words, for devices without a pass of their own.
Tensor wide_part(const Tensor& main) {
  const Tensor part = main.view(at::kInt).add(0x8000).bitwise_right_shift(16);
  return at::where(main.isnan(), at::full_like(part, kQuietNan), part);
}

Tensor& main_part_(Tensor& part, const Tensor& main) {
  require_float(main);
  TORCH_CHECK(part.scalar_type() == at::kBFloat16 && part.sizes() == main.sizes(), "the part must be bfloat16 of the weight's shape");
  if (part.is_cpu() && part.is_contiguous()) each_word(main, part, parts_of);
  else part.copy_(wide_part(main).to(at::kShort).view(at::kBFloat16));
  return part;
}

Tensor main_remainder(const Tensor& main) {
  require_float(main);
  if (main.is_cpu()) {
    Tensor out = at::empty(main.sizes(), main.options().dtype(at::kShort));
    each_word(main, out, remainders_of);
    return out;
  }
  const Tensor left = main.view(at::kInt).sub(wide_part(main).bitwise_left_shift(16));
  return at::where(main.isnan(), at::full_like(left, 0), left).to(at::kShort);
}

Tensor main_join(const Tensor& part_in, const Tensor& remainder_in) {
  TORCH_CHECK(part_in.scalar_type() == at::kBFloat16 && remainder_in.scalar_type() == at::kShort &&
                  part_in.sizes() == remainder_in.sizes(),
              "a bfloat16 part and an int16 remainder of one shape");
  const Tensor part = part_in.contiguous(), remainder = remainder_in.contiguous();
  if (!part.is_cpu()) {
    return part.view(at::kShort).to(at::kInt).bitwise_left_shift(16).add(remainder.to(at::kInt)).view(at::kFloat);
  }
  Tensor out = at::empty(part.sizes(), part.options().dtype(at::kFloat));
  const auto* high = static_cast<const uint16_t*>(part.const_data_ptr());
  const auto* low = static_cast<const int16_t*>(remainder.const_data_ptr());
  auto* to = static_cast<uint32_t*>(out.mutable_data_ptr());
  at::parallel_for(0, part.numel(), 65536, [&](int64_t begin, int64_t end) {
    join_words(high + begin, low + begin, to + begin, end - begin);
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(neva, m) {
  m.def("main_part_(Tensor(a!) self, Tensor main) -> Tensor(a!)", main_part_);
  m.def("main_remainder(Tensor main) -> Tensor", main_remainder);
  m.def("main_join(Tensor part, Tensor remainder) -> Tensor", main_join);
}

}  // namespace neva
