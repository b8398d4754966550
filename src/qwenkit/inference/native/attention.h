// Attention of single rows over the paged cache, in spans of positions. The sums of a span, and their joining, have one
// order, whichever threads compute them.
#pragma once
#include <type_traits>
#include "step.h"

static int64_t slot_of(const int32_t* table, int64_t position) {
  return table[position / PAGE] * PAGE + position % PAGE;
}
static const int32_t* table_of(int64_t row) {
  return job->step->tables + job->step->sequences[row] * job->step->table_width;
}

// Rotate a head of a row in place, channel i together with channel i + head / 2, and scale it.
static void rotate(float* x, int64_t row, float scale) {
  int64_t half = job->model->head / 2;
  int64_t angle = (job->step->rotary_by_position ? job->step->positions[row] : row) * half;
  const float *cosine = job->step->cosine + angle, *sine = job->step->sine + angle;
  for (int64_t i = 0; i < half; i++) {
    float low = x[i], high = x[i + half];
    x[i] = (low * cosine[i] - high * sine[i]) * scale;
    x[i + half] = (high * cosine[i] + low * sine[i]) * scale;
  }
}

// Norms and rotation of the queries and keys of one row; its keys and values into the cache.
template <class T> static void rotate_row(const Layer& l, int64_t row) {
  const Model& m = *job->model;
  float *q = job->qkv + row * job->qkv_width, *k = q + m.heads * m.head, *v = k + m.kv_heads * m.head;
  float scale = 1.0f / std::sqrt((float)m.head) * (job->step->query_scale ? job->step->query_scale[row] : 1.0f);
  Matrix form = {m.cache_kind, 0, m.head, 0, nullptr, nullptr};
  for (int64_t h = 0; h < m.heads; h++) {
    float* x = q + h * m.head;
    if (l.q_norm) normalize(x, l.q_norm, m.head, m.eps, x);
    rotate(x, row, scale);
    prepare(form, x, job->q + (row * m.heads + h) * job->head_room);
  }
  int64_t slot = slot_of(table_of(row), job->step->positions[row]);
  for (int64_t g = 0; g < m.kv_heads; g++) {
    float* x = k + g * m.head;
    if (l.k_norm) normalize(x, l.k_norm, m.head, m.eps, x);
    rotate(x, row, 1.0f);
    int64_t at = (g * m.slots + slot) * m.head;
    for (int64_t i = 0; i < m.head; i++) {
      assign(((T*)l.keys)[at + i], x[i]);
      assign(((T*)l.values)[at + i], v[g * m.head + i]);
    }
  }
}

// out[b][d] = sum over positions p of weights[b][p] * values[p][d], for B heads.
template <class T, int B>
static void weighted_sum(const T* values, const int32_t* table, int64_t from, int64_t to, const float* weights,
                         int64_t head, float* out, int64_t out_stride) {
  int64_t d = 0;
  for (; d + 2 * LANES <= head; d += 2 * LANES) {
    Floats a[B] = {}, b[B] = {};
    for (int64_t p = from; p < to; p++) {
      Floats first, second;
      load_two(values + slot_of(table, p) * head + d, first, second);
      for (int h = 0; h < B; h++) {
        Floats weight = splat(weights[h * SPAN + p - from]);
        a[h] = fma(weight, first, a[h]), b[h] = fma(weight, second, b[h]);
      }
    }
    for (int h = 0; h < B; h++)
      for (int i = 0; i < LANES; i++) {
        float* to_d = out + h * out_stride + d;
        if (std::is_same<T, BFloat16>::value) to_d[2 * i] = a[h][i], to_d[2 * i + 1] = b[h][i];
        else to_d[i] = a[h][i], to_d[LANES + i] = b[h][i];
      }
  }
  for (; d < head; d++)
    for (int h = 0; h < B; h++) {
      float total = 0;
      for (int64_t p = from; p < to; p++)
        total += weights[h * SPAN + p - from] * to_float(values[slot_of(table, p) * head + d]);
      out[h * out_stride + d] = total;
    }
}

// Attention of the query heads of one key/value head over positions of one span. `partial` gets, for each query head,
// the largest score, the sum of exp(score - largest) and the sum of values with these weights.
template <class T>
static void attend_span(const Layer& l, int64_t row, int64_t g, int64_t from, int64_t to, float* scores, float* partial) {
  const Model& m = *job->model;
  const int32_t* table = table_of(row);
  const int64_t shared = m.heads / m.kv_heads, stride = m.head + 2;
  const T* keys = (const T*)l.keys + g * m.slots * m.head;
  const T* values = (const T*)l.values + g * m.slots * m.head;
  const float* q = job->q + (row * m.heads + g * shared) * job->head_room;
  for (int64_t p = from; p < to;) {
    int64_t stop = std::min(to, (p / PAGE + 1) * PAGE);
    float_product(keys + slot_of(table, p) * m.head, m.head, stop - p, q, job->head_room, shared, m.head,
                  scores + p - from, SPAN);
    p = stop;
  }
  for (int64_t h = 0; h < shared; h++) {
    float *s = scores + h * SPAN, most = -INFINITY;
    for (int64_t i = 0; i < to - from; i++) most = s[i] > most ? s[i] : most;
    Floats total = {};
    for (int64_t i = 0; i < to - from; i += LANES) {
      store(s + i, exponential(load<Floats>(s + i) - most));
      for (int64_t k = std::max<int64_t>(to - from - i, 0); k < LANES; k++) s[i + k] = 0;
      total += load<Floats>(s + i);
    }
    partial[h * stride] = most, partial[h * stride + 1] = sum(total);
  }
  int64_t h = 0;
  for (; h + 4 <= shared; h += 4)
    weighted_sum<T, 4>(values, table, from, to, scores + h * SPAN, m.head, partial + h * stride + 2, stride);
  scores += h * SPAN, partial += h * stride + 2;
  if (shared - h == 3) weighted_sum<T, 3>(values, table, from, to, scores, m.head, partial, stride);
  if (shared - h == 2) weighted_sum<T, 2>(values, table, from, to, scores, m.head, partial, stride);
  if (shared - h == 1) weighted_sum<T, 1>(values, table, from, to, scores, m.head, partial, stride);
}

// Join the partial sums of `spans` spans, `stride` apart, into the attention of one head.
static void combine(const float* partial, int64_t spans, int64_t stride, float* out) {
  int64_t head = job->model->head;
  float most = -INFINITY, total = 0;
  for (int64_t i = 0; i < spans; i++) most = std::max(most, partial[i * stride]);
  for (int64_t d = 0; d < head; d++) out[d] = 0;
  for (int64_t i = 0; i < spans; i++) {
    const float* part = partial + i * stride;
    float weight = std::exp(part[0] - most);
    total += part[1] * weight;
    for (int64_t d = 0; d < head; d++) out[d] += part[2 + d] * weight;
  }
  for (int64_t d = 0; d < head; d++) out[d] /= total;
}

static int64_t first_position(const Layer& l, int64_t row) {
  return l.window ? std::max<int64_t>(0, job->step->positions[row] + 1 - l.window) : 0;
}

// The heads of one row behind one key/value head, in all spans or (split) in one of them.
static void attend(const Layer& l, uint32_t chunk, int thread) {
  const Model& m = *job->model;
  const int64_t shared = m.heads / m.kv_heads, stride = m.head + 2;
  int64_t unit = job->split ? chunk / job->spans : chunk, row = unit / m.kv_heads, g = unit % m.kv_heads;
  int64_t start = first_position(l, row), end = job->step->positions[row] + 1, begin = start / SPAN;
  float* partial = job->split ? job->partial + unit * job->spans * shared * stride : job->scratch[thread].partial;
  for (int64_t span = begin; span * SPAN < end; span++) {
    if (job->split && span - begin != chunk % job->spans) continue;
    int64_t from = std::max(start, span * SPAN), to = std::min(end, (span + 1) * SPAN);
    float* here = partial + (span - begin) * shared * stride;
    if (m.cache_kind == FLOAT32) attend_span<float>(l, row, g, from, to, job->scratch[thread].scores, here);
    else if (m.cache_kind == BFLOAT16) attend_span<BFloat16>(l, row, g, from, to, job->scratch[thread].scores, here);
    else attend_span<Float16>(l, row, g, from, to, job->scratch[thread].scores, here);
  }
  if (!job->split)
    for (int64_t h = 0; h < shared; h++)
      combine(partial + h * stride, ceil_divide(end, SPAN) - begin, shared * stride,
              job->attended + (row * m.heads + g * shared + h) * m.head);
}

static void combine_split(const Layer& l, uint32_t chunk) {
  const Model& m = *job->model;
  const int64_t shared = m.heads / m.kv_heads, stride = m.head + 2, row = chunk / m.heads, h = chunk % m.heads;
  int64_t spans = ceil_divide(job->step->positions[row] + 1, SPAN) - first_position(l, row) / SPAN;
  const float* partial = job->partial + (row * m.kv_heads + h / shared) * job->spans * shared * stride;
  combine(partial + h % shared * stride, spans, shared * stride, job->attended + (row * m.heads + h) * m.head);
}
