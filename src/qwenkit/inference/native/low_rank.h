// Adapters (LoRA) of the rows of a step: out += B (scale * A x) for the rows that have one, each with its own A and B.
//
// Rows of one adapter stand side by side: a group. A and B of all adapters of a step are of one kind, float32 or bf16,
// and B is stored by columns, so that a vector holds as many outputs. A row's sums have one order, whatever the size of
// its group and however it is cut.
#pragma once
#include "step.h"

constexpr int64_t TILE_ROWS = 32;  // rows of a group that are computed together

inline Floats load_floats(const float* from) { return load<Floats>(from); }
inline Floats load_floats(const BFloat16* from) {
  typedef uint16_t Narrow __attribute__((vector_size(2 * LANES)));
  return (Floats)(__builtin_convertvector(load<Narrow>(from), Words) << 16);
}

// out[b, n] += sum over r of low[b, r] * w[r, n], for B rows.
template <class T, int B>
inline void add_rows(const T* w, int64_t stride, int64_t rank, const float* low, int64_t low_stride, int64_t count,
                     float* out, int64_t out_stride) {
  for (int64_t n = 0; n < count; n += LANES) {
    Floats total[B] = {};
    for (int64_t r = 0; r < rank; r++) {
      Floats column = load_floats(w + r * stride + n);
      for (int b = 0; b < B; b++) total[b] = fma(column, splat(low[b * low_stride + r]), total[b]);
    }
    int64_t there = std::min<int64_t>(LANES, count - n);
    for (int b = 0; b < B; b++) {
      float* to = out + b * out_stride + n;
      if (there == LANES) store(to, load<Floats>(to) + total[b]);
      else for (int64_t i = 0; i < there; i++) to[i] += total[b][i];
    }
  }
}

template <class T>
void add_low_rank(const LowRank& change, int64_t rows, const float* low, int64_t low_stride, int64_t count, float* out,
                  int64_t out_stride) {
  const T* w = (const T*)change.b;
  for (; rows >= 4; rows -= 4, low += 4 * low_stride, out += 4 * out_stride)
    add_rows<T, 4>(w, change.stride, change.a.rows, low, low_stride, count, out, out_stride);
  if (rows >= 2) {
    add_rows<T, 2>(w, change.stride, change.a.rows, low, low_stride, count, out, out_stride);
    rows -= 2, low += 2 * low_stride, out += 2 * out_stride;
  }
  if (rows) add_rows<T, 1>(w, change.stride, change.a.rows, low, low_stride, count, out, out_stride);
}
