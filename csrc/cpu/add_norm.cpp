// One row of the residual sum and its norm on a CPU. Compiled once per instruction set.
#include <cmath>
#include <cstring>

#include "add_norm.h"
#include "vector.h"

namespace {

using astra::NormArguments;

// Up to kWidth elements; lanes beyond `count` are zero.
template <class T>
inline Floats load_some(const T* from, int count) {
  if (count == kWidth) return load(from);
  T padded[kWidth] = {};
  std::memcpy(padded, from, count * sizeof(T));
  return load(padded);
}

template <class T>
inline void store_some(T* to, Floats value, int count) {
  if (count == kWidth) return store(to, value);
  T padded[kWidth];
  store(padded, value);
  std::memcpy(to, padded, count * sizeof(T));
}

inline Floats first_lanes(Floats value, int count) {
  for (int i = count; i < kWidth; ++i) value[i] = 0;
  return value;
}

template <class Use>
inline void each_part(int width, Use use) {
  int at = 0;
  for (; at + kWidth <= width; at += kWidth) use(at, kWidth);
  if (at < width) use(at, width - at);
}

template <class T>
void add_norm_row(const NormArguments& n, int64_t row) {
  const int64_t first = row * n.width;
  T* residual = static_cast<T*>(n.residual) + first;
  T* out = static_cast<T*>(n.out) + first;
  const T* delta = static_cast<const T*>(n.delta) + first;
  const T* weight = static_cast<const T*>(n.weight);
  const T* bias = static_cast<const T*>(n.bias);
  const float width = static_cast<float>(n.width);
  Floats sums{};
  each_part(n.width, [&](int at, int count) {
    const Floats sum = load_some(residual + at, count) + load_some(delta + at, count);
    store_some(residual + at, sum, count);
    sums += load_some(residual + at, count);  // as rounded to T
  });
  const Floats mean = broadcast(bias ? sum_lanes(sums) / width : 0.f);
  Floats squares{};
  each_part(n.width, [&](int at, int count) {
    const Floats centred = first_lanes(load_some(residual + at, count) - mean, count);
    squares += centred * centred;
  });
  const Floats factor = broadcast(1.f / std::sqrt(sum_lanes(squares) / width + n.eps));
  each_part(n.width, [&](int at, int count) {
    const Floats centred = load_some(residual + at, count) - mean;
    const Floats shift = bias ? load_some(bias + at, count) : Floats{};
    store_some(out + at, centred * factor * load_some(weight + at, count) + shift, count);
  });
}

}  // namespace

namespace astra::ASTRA_INSTRUCTION_SET {

AddNormRow find_add_norm(DataType dtype) {
  switch (dtype) {
    case DataType::kFloat32: return add_norm_row<float>;
    case DataType::kBFloat16: return add_norm_row<BFloat16>;
    default: return nullptr;
  }
}

}  // namespace astra::ASTRA_INSTRUCTION_SET
