// What a step is given, what its threads share, and what happens to one row between the products.
#pragma once
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include "products.h"
#include "team.h"

constexpr int64_t PAGE = 16;    // tokens of a block
constexpr int64_t SPAN = 256;   // positions whose attention is one partial sum
constexpr int64_t FEW = 2;      // up to so many rows every thread prepares inputs for itself, which saves a task

struct Layer {  // the same fields as `library.Layer`
  Matrix q, k, v, o, gate, up, down;
  const float *input_norm, *mlp_norm, *q_norm, *k_norm;  // the last two may be null
  void *keys, *values;
  int64_t window;  // tokens that a query sees, itself included; 0: all
};
struct Model {
  int64_t layers, width, heads, kv_heads, head, wide, slots, cache_kind;
  double eps;
  const Layer* layer;
  const float* norm;
  Matrix embedding, output;
};
struct LowRank {    // what an adapter adds to one layer; the same fields as `library.LowRank`
  Matrix a;         // [rank, columns]; without rows: the layer is not changed
  const void* b;    // [rank, stride]: B by columns, as many of them used as the layer has rows
  int64_t stride;
  double scale;
};
enum Projection { Q, K, V, O, GATE, UP, PROJECTION_DOWN, PROJECTIONS };
struct Group {  // rows start to stop have one adapter; the same fields as `library.Group`
  int64_t start, stop;
  const LowRank* layers;  // [layers, PROJECTIONS]
};
struct Step {
  int64_t rows, threads, table_count, table_width, rotary_by_position, wanted_count;
  const int64_t* ids;                     // [rows], or null: `embeddings` [rows, width] are given
  const float* embeddings;
  const int32_t *positions, *sequences, *tables;  // [rows], [rows] (the row's table), [table_count, table_width]
  const float *cosine, *sine;             // [rows or positions, head / 2]
  const float* query_scale;               // [rows], or null
  const int32_t* wanted;                  // rows whose states are wanted
  float *states, *logits;                 // [wanted_count, width], [wanted_count, vocabulary] or null
  int64_t group_count, low_kind;          // rows with adapters (`low_rank.h`), and the kind of A and B
  const Group* groups;
};

enum Op { EMBED, PREPARE_QKV, QKV, ROTATE, ATTEND, COMBINE, PREPARE_OUT, OUT, PREPARE_GATE_UP, GATE_UP, PREPARE_DOWN,
          DOWN, PREPARE_OUTPUT, OUTPUT, PRODUCT_PREPARE, PRODUCT, READ, ADD_QKV, ADD_OUT, ADD_GATE_UP, ADD_DOWN };

// What the threads of a running program share; `Team::busy` guards it. It is never destroyed: a thread may be at work
// when the process ends. A child after a fork gets its own, since another thread may have been at work on this one.
struct Job {
  const Model* model;
  const Step* step;
  int64_t rows, qkv_width, head_room, prepared_width, spans, chunk_bytes, few, low_stride;
  bool split;  // attention is shared out by spans too
  float *x, *qkv, *q, *attended, *gate, *up, *prepared, *partial;
  float *low, *low_inputs;  // of rows with adapters: A x of up to three projections, and x as A reads it
  std::vector<Group> tiles;  // the groups, cut
  std::vector<float> memory;
  struct Scratch {
    uint32_t prepared_for;
    std::vector<float> memory;
    float *prepared, *row, *scores, *partial;
  };
  std::vector<Scratch> scratch;
  const Matrix* matrix;   // of a single product
  const float* input;
  float* out;
  const uint64_t* read;
  int64_t read_words;
  std::atomic<uint64_t> read_sum;
};
static Job* job = new Job;

static int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- between the products -------------------------------------------------------------------------------------------

static void normalize(const float* x, const float* weight, int64_t width, double eps, float* out) {
  Floats squares = {};
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) {
    Floats v = load<Floats>(x + i);
    squares = fma(v, v, squares);
  }
  float total = sum(squares);
  for (int64_t k = i; k < width; k++) total += x[k] * x[k];
  float scale = 1.0f / std::sqrt(total / width + (float)eps);
  for (int64_t k = 0; k < width; k++) out[k] = x[k] * scale * weight[k];
}

static void silu_times(const float* gate, const float* up, int64_t width, float* out) {
  for (int64_t i = 0; i < width; i += LANES) {
    float g[LANES] = {}, u[LANES] = {};
    int64_t count = std::min<int64_t>(LANES, width - i);
    memcpy(g, gate + i, 4 * count), memcpy(u, up + i, 4 * count);
    Floats gates = load<Floats>(g);
    store(g, gates / (exponential(-gates) + 1.0f) * load<Floats>(u));
    memcpy(out + i, g, 4 * count);
  }
}
