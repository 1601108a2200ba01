// Products of blocks through oneDNN's kernels, which LibTorch exports, and the orders that they take their second operand in.
// They use AVX-512 (and its bfloat16 products) on processors of every maker.
#pragma once

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <vector>

#include "vector.h"

namespace neva {

constexpr int64_t kBlock = 64;

// Columns that a block's products and loops run over when `count` are in use: whole vectors.
inline int64_t width_of(int64_t count) { return std::min(kBlock, (count + kLanes - 1) / kLanes * kLanes); }

// Bfloat16 products take their second operand in pairs along the inner dimension ("VNNI" order): [K/2][N][2]. A word is what
// stays together: such a pair, or one float32.
template <typename T>
struct Packing;
template <>
struct Packing<float> {
  using Word = float;
  static constexpr int64_t pair = 1;
};
template <>
struct Packing<at::BFloat16> {
  using Word = uint32_t;
  static constexpr int64_t pair = 2;
};

#if defined(__x86_64__) && defined(CPUBLAS_BRGEMM_F32F32F32) && defined(CPUBLAS_BRGEMM_BF16BF16F32)
inline bool supports(at::ScalarType type) {
  if (!at::globalContext().hasMKLDNN() || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return false;
  return type == at::kFloat || (type == at::kBFloat16 && __builtin_cpu_supports("avx512bf16"));
}

// c [M, N] (+)= a [M, K] · b, b packed with `b_row` words a row, c with `c_row` numbers a row.
template <typename T>
void product(int64_t M, int64_t N, int64_t K, const T* a, int64_t a_row, const T* b, int64_t b_row, float* c, int64_t c_row, bool add) {
  at::native::cpublas::brgemm(M, N, K, a_row, b_row, c_row, add, a, b, c, Packing<T>::pair == 2);
}

template <typename T>
void end_products() {
  at::native::cpublas::brgemm_release(Packing<T>::pair == 2);
}
#else
inline bool supports(at::ScalarType) { return false; }
template <typename T>
void product(int64_t, int64_t, int64_t, const T*, int64_t, const T*, int64_t, float*, int64_t, bool) {}
template <typename T>
void end_products() {}
#endif

// A word of the model's tensors, which may stand at any address that suits one number.
template <typename T>
using Loose [[gnu::aligned(alignof(T)), gnu::may_alias]] = typename Packing<T>::Word;

// [rows][columns] words → [columns][rows], by tiles: rows of a projection lie a power of two apart, so that whole columns would fight
// for the same few lines of the cache.
template <typename W>
NEVA_CLONES void turn(const W* from, int64_t from_row, int64_t rows, int64_t columns, W* to, int64_t to_row) {
  using Word = typename std::remove_cv<W>::type;
  for (int64_t r0 = 0; r0 < rows; r0 += kLanes) {
    for (int64_t c0 = 0; c0 < columns; c0 += kLanes) {
      const int64_t height = std::min<int64_t>(kLanes, rows - r0), width = std::min<int64_t>(kLanes, columns - c0);
      Word tile[kLanes][kLanes];
      if (height == kLanes && width == kLanes) {
        for (int r = 0; r < kLanes; ++r) {
          for (int c = 0; c < kLanes; ++c) tile[r][c] = from[(r0 + r) * from_row + c0 + c];
        }
        for (int c = 0; c < kLanes; ++c) {
          for (int r = 0; r < kLanes; ++r) to[(c0 + c) * to_row + r0 + r] = tile[r][c];
        }
      } else {
        for (int64_t c = c0; c < c0 + width; ++c) {
          for (int64_t r = r0; r < r0 + height; ++r) to[c * to_row + r] = from[r * from_row + c];
        }
      }
    }
  }
}

// Two rows as words: numbers that follow each other in a column come to stand in one word.
NEVA_CLONES static void pair_rows(const uint16_t* even, const uint16_t* odd, uint32_t* out, int64_t size) {
  for (int64_t c = 0; c < size; ++c) out[c] = static_cast<uint32_t>(even[c]) | static_cast<uint32_t>(odd[c]) << 16;
}

NEVA_CLONES static void part_rows(const uint32_t* words, uint16_t* even, uint16_t* odd, int64_t size) {
  for (int64_t c = 0; c < size; ++c) {
    even[c] = static_cast<uint16_t>(words[c]);
    odd[c] = static_cast<uint16_t>(words[c] >> 16);
  }
}

// Rows [count][D] as the second operand of a product over D: words [D/pair][64], zero beyond `count`.
template <typename T>
void pack_over_columns(const T* x, int64_t row, int64_t count, int64_t D, T* out) {
  constexpr int64_t pair = Packing<T>::pair;
  if (count < kBlock) std::memset(out, 0, sizeof(T) * kBlock * D);
  if (row % pair == 0) {
    turn(reinterpret_cast<const Loose<T>*>(x), row / pair, count, D / pair, reinterpret_cast<Loose<T>*>(out), kBlock);
    return;
  }
  for (int64_t n = 0; n < count; ++n) {
    for (int64_t d = 0; d < D; d += pair) std::memcpy(out + d * kBlock + n * pair, x + n * row + d, sizeof(T) * pair);
  }
}

// Rows [count][D] as the second operand of a product over rows: [64/pair][D][pair], zero beyond `count`.
inline void pack_over_rows(const float* x, int64_t row, int64_t count, int64_t D, float* out) {
  for (int64_t n = 0; n < count; ++n) std::memcpy(out + n * D, x + n * row, sizeof(float) * D);
  std::memset(out + count * D, 0, sizeof(float) * (kBlock - count) * D);
}

inline void pack_over_rows(const at::BFloat16* x, int64_t row, int64_t count, int64_t D, at::BFloat16* out) {
  const auto* from = reinterpret_cast<const uint16_t*>(x);
  auto* to = reinterpret_cast<uint32_t*>(out);
  thread_local std::vector<uint16_t> nothing;
  nothing.assign(D, 0);
  int64_t n = 0;
  for (; n < count; n += 2) pair_rows(from + n * row, n + 1 < count ? from + (n + 1) * row : nothing.data(), to + n / 2 * D, D);
  std::memset(to + n / 2 * D, 0, sizeof(uint16_t) * (kBlock - n) * D);
}

// What pack_over_columns made, as plain rows [D][64].
inline void unpack_columns(const float* packed, int64_t D, float* out) { std::memcpy(out, packed, sizeof(float) * kBlock * D); }

inline void unpack_columns(const at::BFloat16* packed, int64_t D, at::BFloat16* out) {
  const auto* words = reinterpret_cast<const uint32_t*>(packed);
  auto* to = reinterpret_cast<uint16_t*>(out);
  for (int64_t d = 0; d < D; d += 2) part_rows(words + d / 2 * kBlock, to + d * kBlock, to + (d + 1) * kBlock, kBlock);
}

}  // namespace neva
