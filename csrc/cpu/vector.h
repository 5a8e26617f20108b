// Vectors of floats in the compiler's own vector types, as wide as this file's target allows.
//
// Files that include this one are compiled once per instruction set; everything here lives in a
// nameless namespace so that no AVX-512 copy of an inline function replaces the plain one.
#pragma once

#include <cstdint>
#include <utility>
#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
constexpr int kAccumulators = 16;
#elif defined(__AVX__)
constexpr int kWidth = 8;
constexpr int kAccumulators = 8;
#else
constexpr int kWidth = 4;
constexpr int kAccumulators = 8;
#endif

struct BFloat16 {
  uint16_t bits;
};

typedef float Floats __attribute__((vector_size(kWidth * 4)));
typedef int32_t Ints __attribute__((vector_size(kWidth * 4)));
typedef uint32_t Words __attribute__((vector_size(kWidth * 4)));
typedef float LooseFloats __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(kWidth * 2)));
typedef uint16_t LooseHalves __attribute__((vector_size(kWidth * 2), aligned(2), may_alias));

inline Floats broadcast(float value) { return value - Floats{}; }

inline Floats load(const float* from) { return *reinterpret_cast<const LooseFloats*>(from); }

inline Floats load(const BFloat16* from) {
#if defined(__AVX512F__)  // the general form below compiles to three instructions more
  __m256i halves = _mm256_loadu_si256((const __m256i*)from);
  Words words = (Words)_mm512_maskz_cvtepu16_epi32(0xffff, halves);
#elif defined(__AVX2__)
  Words words = (Words)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from));
#else
  Words words = __builtin_convertvector(Halves(*(const LooseHalves*)from), Words);
#endif
  return (Floats)(words << 16);
}

inline void store(float* to, Floats value) { *reinterpret_cast<LooseFloats*>(to) = value; }

// Rounds to nearest even; a NaN stays one.
inline void store(BFloat16* to, Floats value) {
  Words bits = (Words)value;
  Words rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  Words safe = (value == value) ? rounded : (bits | 0x400000u);
  *reinterpret_cast<LooseHalves*>(to) = __builtin_convertvector(safe >> 16, Halves);
}

inline Floats maximum(Floats a, Floats b) { return (a > b) ? a : b; }

// Adds the halves of two vectors: lanes with bit kStep clear keep a's sums, the others b's.
template <int kStep, int... kLanes>
inline Floats fold(Floats a, Floats b, std::integer_sequence<int, kLanes...>) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
  Floats near = __builtin_shufflevector(a, b, ((kLanes & kStep) ? kWidth + kLanes : kLanes)...);
  Floats far = __builtin_shufflevector(
      a, b, ((kLanes & kStep) ? kWidth + (kLanes ^ kStep) : (kLanes ^ kStep))...);
  return near + far;
#else
  return Floats{((kLanes & kStep) ? b[kLanes] + b[kLanes ^ kStep]
                                  : a[kLanes] + a[kLanes ^ kStep])...};
#endif
}

// Sums each of kWidth vectors: lane i of the result is the sum over the lanes of rows[i].
template <int kStep = kWidth / 2>
inline Floats sum_rows(Floats* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < kStep; ++i) {
    rows[i] = fold<kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, kWidth>{});
  }
  if constexpr (kStep > 1) return sum_rows<kStep / 2>(rows);
  return rows[0];
}

inline float sum_lanes(Floats value) {
  float sum = 0;
  for (int i = 0; i < kWidth; ++i) sum += value[i];
  return sum;
}

inline float maximum_lane(Floats value) {
  float best = value[0];
  for (int i = 1; i < kWidth; ++i) best = value[i] > best ? value[i] : best;
  return best;
}

// e^x for x <= 0, within 2e-7 of the value; below -87 (and for minus infinity) it is 0.
// x = n ln 2 + r: a polynomial gives e^r, and n is added to the exponent's bits.
inline Floats exp_nonpositive(Floats x) {
  const Floats kRounder = broadcast(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  Floats shifted = x * 1.44269504f + kRounder;
  Floats n = shifted - kRounder;
  Floats r = x - n * 0.693145752f;
  r = r - n * 1.42860677e-6f;
  Floats p = r * 1.38888889e-3f + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  Floats scaled = (Floats)((Ints)p + ((Ints)shifted << 23));
  return (x < -87.f) ? Floats{} : scaled;
}

}  // namespace
