// For loops that the compiler turns into vector code.
#pragma once

#include <cstdint>
#include <cstring>

// One body compiled for several instruction sets, chosen when the addon is loaded. Bfloat16 needs AVX-512's 16-bit part (v4): with
// avx512f alone GCC leaves those loops scalar, seven times as slow.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define NEVA_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default"), optimize("O3")))
#else
#define NEVA_CLONES __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#endif
#else
#define NEVA_CLONES
#endif

namespace neva {

constexpr int kLanes = 16;  // independent partial results: lets the compiler use vectors without reordering by itself

// e^x within 2 ulp on [-87, 87], clamped outside: Cody–Waite reduction and the minimax polynomial of Cephes' expf.
// Written out because a call into libm would keep the compiler from vectorizing the loops that use it.
__attribute__((always_inline)) inline float exp_of(float x) {
  x = x < -87.0f ? -87.0f : (x > 87.0f ? 87.0f : x);
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding and subtracting it rounds to the nearest integer
  const float n = (x * 1.44269504088896341f + kRound) - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

}  // namespace neva
