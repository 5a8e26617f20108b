// One row of the small operations between products on a CPU. Compiled once per instruction set.
#include <cmath>
#include <cstring>

#include "rows.h"
#include "vector.h"

namespace {

using namespace astra;

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
void add_norm_row(const void* arguments, int64_t row) {
  const auto& n = *static_cast<const NormArguments*>(arguments);
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

// x * sigmoid(x), by an exponential that cannot overflow.
inline Floats silu(Floats x) {
  const Floats small = exp_nonpositive((x > 0.f) ? -x : x);
  const Floats top = (x > 0.f) ? broadcast(1.f) : small;
  return x * (top / (small + 1.f));
}

template <class T>
void gate_row(const void* arguments, int64_t row) {
  const auto& g = *static_cast<const GateArguments*>(arguments);
  const T* gate = static_cast<const T*>(g.fused) + 2 * row * g.width;
  const T* up = gate + g.width;
  T* out = static_cast<T*>(g.out) + row * g.width;
  each_part(g.width, [&](int at, int count) {
    store_some(out + at, silu(load_some(gate + at, count)) * load_some(up + at, count), count);
  });
}

template <class T>
void rotate_row(const void* arguments, int64_t row) {
  const auto& r = *static_cast<const RotateArguments*>(arguments);
  const T* cosines = static_cast<const T*>(r.cos) + row * r.half;
  const T* sines = static_cast<const T*>(r.sin) + row * r.half;
  T* first = static_cast<T*>(r.heads) + row * r.stride;
  for (int head = 0; head < r.num_heads; ++head, first += 2 * r.half) {
    T* second = first + r.half;
    each_part(r.half, [&](int at, int count) {
      const Floats cos = load_some(cosines + at, count), sin = load_some(sines + at, count);
      const Floats a = load_some(first + at, count), b = load_some(second + at, count);
      store_some(first + at, a * cos - b * sin, count);
      store_some(second + at, b * cos + a * sin, count);
    });
  }
}

template <class T>
RowFunction find(RowOperation operation) {
  switch (operation) {
    case RowOperation::kAddNorm: return add_norm_row<T>;
    case RowOperation::kGate: return gate_row<T>;
    default: return rotate_row<T>;
  }
}

}  // namespace

namespace astra::ASTRA_INSTRUCTION_SET {

RowFunction find_row(RowOperation operation, DataType dtype) {
  switch (dtype) {
    case DataType::kFloat32: return find<float>(operation);
    case DataType::kBFloat16: return find<BFloat16>(operation);
    default: return nullptr;
  }
}

}  // namespace astra::ASTRA_INSTRUCTION_SET
