// Matrix products of a few rows: out[b][n] = sum over k of w[n][k] * x[b][k].
//
// A weight is read once for up to four rows at a time. Float weights (float32, bf16, float16) are multiplied in float32 and summed
// in LANES partial sums; quantized ones (8 and 4 bits) are multiplied with inputs of 16 bits in blocks, whose integer
// sums are exact. Each of these sums has one order, whatever the tile in which it is computed: so the bits of a row
// depend on that row alone.
//
// Before a product its input is *prepared* once (`prepare`): floats for bf16 weights in the order of `load_two`, 16-bit
// integers with a scale a block for quantized weights.
#pragma once
#include "vectors.h"

enum Kind : int64_t { FLOAT32, BFLOAT16, FLOAT16, INT8, INT4, INT4_MINIMUMS };

struct Matrix {        // the same fields as `library.Matrix`
  int64_t kind, rows, columns, group;  // group: columns that share a scale; 0: a whole row
  const void* data;    // [rows, columns], or the tiles that `pack` makes
  const float* bias;   // [rows], or null
};

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
inline bool quantized(const Matrix& m) { return m.kind >= INT8; }

// Columns whose inputs share a scale, how many such blocks a row has, and how many of them share a scale of the weights.
inline int64_t block_size(const Matrix& m) { return m.group % 64 ? 32 : 64; }
inline int64_t block_count(const Matrix& m) { return (m.columns + block_size(m) - 1) / block_size(m); }
inline int64_t blocks_of_group(const Matrix& m) { return m.group ? m.group / block_size(m) : block_count(m); }

// Room for one prepared row, in floats.
inline int64_t prepared_size(int64_t columns) { return round_up(columns, 64); }

// Bytes of one tile: LANES rows of a quantized matrix, group by group: first 32 bits for each row, then the values, of
// which a 32-bit word holds 8 (4 bits) or 4 (8 bits) neighbours of one row. The first 32 bits are a float32 scale whose
// last 8 bits are the zero, or (INT4_MINIMUMS) the float16 scales of all rows and behind them the float16 minimums.
inline int64_t tile_bytes(const Matrix& m) {
  int64_t words = block_count(m) * block_size(m) / (m.kind == INT8 ? 4 : 8);
  return 4 * LANES * (words + (block_count(m) + blocks_of_group(m) - 1) / blocks_of_group(m));
}
inline int64_t row_bytes(const Matrix& m) {
  return quantized(m) ? tile_bytes(m) / LANES : m.columns * (m.kind == FLOAT32 ? 4 : 2);
}

// ---- preparing the input --------------------------------------------------------------------------------------------

inline void prepare_block(const float* x, int64_t block, int16_t* q, float& scale, int32_t& total) {
  Floats most = {}, bad = {};
  for (int64_t k = 0; k < block; k += LANES) {
    Floats v = load<Floats>(x + k), size = (Floats)((Words)v & 0x7FFFFFFFu);
    most = size > most ? size : most;
    bad += v * 0.0f;  // NaN and infinity leave NaN
  }
  float limit = largest(most), inverse = limit > 0 ? 32767.0f / limit : 0.0f;
  Words sums = {};  // sums without a sign may overflow: they do where an input is not finite
  for (int64_t k = 0; k < block; k += LANES) {
    Words v = (Words)(load<Floats>(x + k) * inverse + ROUNDER) - 0x4B400000u;
    sums += v;
    auto narrow = __builtin_convertvector((Ints)v, HalfWidth);
    memcpy(q + k, &narrow, sizeof narrow);
  }
  uint32_t sum_of_all = 0;
  for (int i = 0; i < LANES; i++) sum_of_all += sums[i];
  total = (int32_t)sum_of_all;
  scale = limit / 32767.0f + sum(bad);
}

// Write the prepared form of x [columns] to out [prepared_size]. Quantized: values, then a scale and a sum for each block.
inline void prepare(const Matrix& m, const float* x, float* out) {
  int64_t columns = m.columns, k = 0;
  if (m.kind == FLOAT32 || m.kind == FLOAT16) {
    memcpy(out, x, columns * sizeof(float));
  } else if (m.kind == BFLOAT16) {
    for (; k + 2 * LANES <= columns; k += 2 * LANES)
      for (int i = 0; i < LANES; i++) out[k + i] = x[k + 2 * i], out[k + LANES + i] = x[k + 2 * i + 1];
    for (; k < columns; k++) out[k] = x[k];
  } else {
    int64_t block = block_size(m), blocks = block_count(m);
    int16_t* q = (int16_t*)out;
    float* scales = out + blocks * block / 2;
    int32_t* totals = (int32_t*)(scales + blocks);
    for (int64_t i = 0; i < blocks; i++) {
      const float* from = x + i * block;
      float padded[64] = {};
      if ((i + 1) * block > columns) memcpy(padded, from, (columns - i * block) * sizeof(float)), from = padded;
      prepare_block(from, block, q + i * block, scales[i], totals[i]);
    }
  }
}

// ---- float weights --------------------------------------------------------------------------------------------------

// R rows of weights, `stride` apart, times B prepared inputs, `x_stride` apart; out[b * out_stride + r * out_step].
template <class T, int R, int B>
inline void float_tile(const T* w, int64_t stride, const float* x, int64_t x_stride, int64_t columns, float* out,
                       int64_t out_stride, int64_t out_step = 1) {
  Floats total[R][B] = {};
  int64_t k = 0;
  for (; k + 2 * LANES <= columns; k += 2 * LANES) {
    Floats first[R], second[R];
    for (int r = 0; r < R; r++) load_two(w + r * stride + k, first[r], second[r]);
    for (int b = 0; b < B; b++) {
      Floats x_first = load<Floats>(x + b * x_stride + k);
      for (int r = 0; r < R; r++) total[r][b] = fma(first[r], x_first, total[r][b]);
    }
    for (int b = 0; b < B; b++) {
      Floats x_second = load<Floats>(x + b * x_stride + k + LANES);
      for (int r = 0; r < R; r++) total[r][b] = fma(second[r], x_second, total[r][b]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int b = 0; b < B; b++) {
      float rest = 0;
      for (int64_t c = k; c < columns; c++) rest += to_float(w[r * stride + c]) * x[b * x_stride + c];
      out[b * out_stride + r * out_step] = sum(total[r][b]) + rest;
    }
}

template <class T, int R, int B>
inline void float_rows(const T* w, int64_t stride, int64_t count, const float* x, int64_t x_stride, int64_t columns,
                       float* out, int64_t out_stride) {
  int64_t n = 0, part = B <= 2 ? count / R : 0;  // for few inputs memory is the limit: R long streams
  for (; n < part; n++)
    float_tile<T, R, B>(w + n * stride, part * stride, x, x_stride, columns, out + n, out_stride, part);
  n *= R;
  for (; n + R <= count; n += R) float_tile<T, R, B>(w + n * stride, stride, x, x_stride, columns, out + n, out_stride);
  for (; n < count; n++) float_tile<T, 1, B>(w + n * stride, stride, x, x_stride, columns, out + n, out_stride);
}

// `count` rows of weights times `rows` prepared inputs.
template <class T>
void float_product(const T* w, int64_t stride, int64_t count, const float* x, int64_t x_stride, int64_t rows,
                   int64_t columns, float* out, int64_t out_stride) {
  constexpr int R = LANES == 16 ? 4 : sizeof(T) == 2 ? 2 : 3;  // what the registers hold beside four rows
  for (; rows >= 4; rows -= 4, x += 4 * x_stride, out += 4 * out_stride)
    float_rows<T, R, 4>(w, stride, count, x, x_stride, columns, out, out_stride);
  if (rows == 3) float_rows<T, 4, 3>(w, stride, count, x, x_stride, columns, out, out_stride);
  if (rows == 2) float_rows<T, 4, 2>(w, stride, count, x, x_stride, columns, out, out_stride);
  if (rows == 1) float_rows<T, 4, 1>(w, stride, count, x, x_stride, columns, out, out_stride);
}

// ---- quantized weights ----------------------------------------------------------------------------------------------

// Two columns of every row of a tile: the pairs number S of a word, as 16-bit integers.
template <int KIND, int S> inline Ints pair_of(Words words) {
  if (KIND == INT8) return S ? (Ints)((Shorts)words >> 8) : (Ints)((Shorts)((Shorts)words << 8) >> 8);
  return (Ints)(S == 3 ? (Halves)words >> 12 : (Halves)words >> (4 * S) & 15);
}

// Add the products of pairs number S of T tiles with the inputs of B rows.
template <int KIND, int S, int T, int B>
inline void add_pairs(const Words (&words)[T], const int32_t* pairs, int64_t x_stride, Ints (&total)[T][B]) {
  Ints w[T];
  for (int t = 0; t < T; t++) w[t] = pair_of<KIND, S>(words[t]);
  for (int b = 0; b < B; b++) {
    Ints x = splat(pairs[b * x_stride + S]);
    for (int t = 0; t < T; t++) total[t][b] = pair_products(total[t][b], w[t], x);
  }
}

// T tiles, `apart` from each other, times B prepared inputs: out[b * out_stride + t * LANES * apart + lane]. `rows` are
// the rows of a single tile.
template <int KIND, int T, int B>
inline void quantized_tiles(const Matrix& m, const char* data, int64_t apart, const float* x, int64_t x_stride,
                            float* out, int64_t out_stride, int64_t rows) {
  constexpr int WORD_PAIRS = KIND == INT8 ? 2 : 4;
  const int64_t block = block_size(m), blocks = block_count(m), group = blocks_of_group(m);
  const int64_t tile = apart * tile_bytes(m);
  Floats total[T][B] = {};
  for (int64_t start = 0; start < blocks; start += group) {
    Floats scale[T], minimum[T];
    Ints zero[T];
    for (int t = 0; t < T; t++) {
      const char* from = data + t * tile;
      Words header = load<Words>(from);
      scale[t] = KIND == INT4_MINIMUMS ? load_float16(from) : (Floats)(header & ~0xFFu);
      if (KIND == INT4_MINIMUMS) minimum[t] = load_float16(from + 2 * LANES);
      zero[t] = (Ints)(header & 0xFFu) - (KIND == INT8 ? 128 : 0);
    }
    data += 4 * LANES;
    for (int64_t i = start; i < blocks && i < start + group; i++) {
      Ints sums[T][B] = {};
      const int32_t* pairs = (const int32_t*)x + i * block / 2;
      for (const int32_t* end = pairs + block / 2; pairs < end;)
        for (int step = 0; step < 16 / WORD_PAIRS; step++, pairs += WORD_PAIRS, data += 4 * LANES) {  // 32 columns
          Words words[T];
          for (int t = 0; t < T; t++) words[t] = in_register(load<Words>(data + t * tile));
          add_pairs<KIND, 0>(words, pairs, x_stride, sums);
          add_pairs<KIND, 1>(words, pairs, x_stride, sums);
          if (KIND != INT8) add_pairs<KIND, KIND == INT8 ? 0 : 2>(words, pairs, x_stride, sums);
          if (KIND != INT8) add_pairs<KIND, KIND == INT8 ? 0 : 3>(words, pairs, x_stride, sums);
        }
      for (int b = 0; b < B; b++) {
        const float* scales = x + b * x_stride + blocks * block / 2;
        int32_t inputs = ((const int32_t*)(scales + blocks))[i];
        for (int t = 0; t < T; t++) {
          if (KIND == INT4_MINIMUMS) total[t][b] = fma(minimum[t], splat(scales[i] * (float)inputs), total[t][b]);
          else sums[t][b] = (Ints)((Words)sums[t][b] - (Words)zero[t] * (uint32_t)inputs);
          total[t][b] = fma(to_floats(sums[t][b]), scale[t] * scales[i], total[t][b]);
        }
      }
    }
  }
  for (int b = 0; b < B; b++)
    for (int t = 0; t < T; t++) {
      float* to = out + b * out_stride + t * apart * LANES;
      if (rows >= LANES) store(to, total[t][b]);
      else for (int64_t i = 0; i < rows; i++) to[i] = total[t][b][i];
    }
}

template <int KIND, int T, int B>
inline void quantized_rows(const Matrix& m, int64_t from, int64_t to, const float* x, int64_t x_stride, float* out,
                           int64_t out_stride) {
  const int64_t bytes = tile_bytes(m), part = (to - from) / LANES / T;  // T long streams from memory
  const char* data = (const char*)m.data + from / LANES * bytes;
  for (int64_t i = 0; i < part; i++)
    quantized_tiles<KIND, T, B>(m, data + i * bytes, part, x, x_stride, out + from + i * LANES, out_stride, LANES);
  from += part * T * LANES, data += part * T * bytes;
  for (; from < to; from += LANES, data += bytes)
    quantized_tiles<KIND, 1, B>(m, data, 1, x, x_stride, out + from, out_stride, to - from);
}

template <int KIND>
void quantized_product(const Matrix& m, int64_t from, int64_t to, const float* x, int64_t x_stride, int64_t rows,
                       float* out, int64_t out_stride) {
  for (; rows >= 4; rows -= 4, x += 4 * x_stride, out += 4 * out_stride)
    quantized_rows<KIND, 1, 4>(m, from, to, x, x_stride, out, out_stride);
  if (rows == 3) quantized_rows<KIND, 1, 3>(m, from, to, x, x_stride, out, out_stride);
  if (rows == 2) quantized_rows<KIND, 2, 2>(m, from, to, x, x_stride, out, out_stride);
  if (rows == 1) quantized_rows<KIND, 4, 1>(m, from, to, x, x_stride, out, out_stride);
}

// The first 32 bits of a row in a group.
inline uint32_t scale_and_zero(float scale, uint8_t zero) {
  uint32_t bits;
  memcpy(&bits, &scale, 4);
  return ((bits + 0x80) & ~0xFFu) | zero;
}

// Write the quantized matrix into the tiles of `to`, from values [rows, columns], and for each row and group a float32
// scale and a zero, or (INT4_MINIMUMS) a float16 scale and a float16 minimum.
inline void pack(const Matrix& m, const uint8_t* values, const void* scales, const void* zeros, uint32_t* to) {
  const int64_t block = block_size(m), blocks = block_count(m), group = blocks_of_group(m);
  const int64_t groups = (blocks + group - 1) / group, per_word = m.kind == INT8 ? 4 : 8;
  static const int place[2][8] = {{0, 16, 8, 24, 0, 0, 0, 0}, {0, 16, 4, 20, 8, 24, 12, 28}};
  for (int64_t tile = 0; tile < m.rows; tile += LANES)
    for (int64_t i = 0; i < blocks; i++) {
      if (i % group == 0) {
        memset(to, 0, 4 * LANES);
        for (int64_t lane = 0; lane < LANES && tile + lane < m.rows; lane++) {
          int64_t at = (tile + lane) * groups + i / group;
          if (m.kind == INT4_MINIMUMS) {
            ((uint16_t*)to)[lane] = ((const uint16_t*)scales)[at];
            ((uint16_t*)to)[LANES + lane] = ((const uint16_t*)zeros)[at];
          } else {
            to[lane] = scale_and_zero(((const float*)scales)[at], ((const uint8_t*)zeros)[at]);
          }
        }
        to += LANES;
      }
      for (int64_t k = i * block; k < (i + 1) * block; k += per_word)
        for (int64_t lane = 0; lane < LANES; lane++) {
          uint32_t word = 0;
          for (int64_t j = 0; j < per_word && tile + lane < m.rows && k + j < m.columns; j++) {
            uint32_t value = values[(tile + lane) * m.columns + k + j] ^ (m.kind == INT8 ? 128 : 0);
            word |= value << place[m.kind != INT8][j];
          }
          *to++ = word;
        }
    }
}

// ---- any matrix -----------------------------------------------------------------------------------------------------

// Rows `from` to `to` of the matrix times `rows` prepared inputs, with the bias: out[b * out_stride + n].
inline void product(const Matrix& m, int64_t from, int64_t to, const float* x, int64_t x_stride, int64_t rows,
                    float* out, int64_t out_stride) {
  if (m.kind == FLOAT32)
    float_product((const float*)m.data + from * m.columns, m.columns, to - from, x, x_stride, rows, m.columns,
                  out + from, out_stride);
  else if (m.kind == BFLOAT16)
    float_product((const BFloat16*)m.data + from * m.columns, m.columns, to - from, x, x_stride, rows, m.columns,
                  out + from, out_stride);
  else if (m.kind == FLOAT16)
    float_product((const Float16*)m.data + from * m.columns, m.columns, to - from, x, x_stride, rows, m.columns,
                  out + from, out_stride);
  else if (m.kind == INT8)
    quantized_product<INT8>(m, from, to, x, x_stride, rows, out, out_stride);
  else if (m.kind == INT4)
    quantized_product<INT4>(m, from, to, x, x_stride, rows, out, out_stride);
  else
    quantized_product<INT4_MINIMUMS>(m, from, to, x, x_stride, rows, out, out_stride);
  if (m.bias)
    for (int64_t b = 0; b < rows; b++)
      for (int64_t n = from; n < to; n++) out[b * out_stride + n] += m.bias[n];
}
