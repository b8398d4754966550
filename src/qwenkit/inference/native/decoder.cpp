// The decoder of one model for some new tokens (rows): from ids to states or logits, with the paged KV cache.
//
// Rows are computed as if each were alone. A row is a token of some sequence at some position; the rows of one sequence
// may be several (a piece of a prompt), because in every layer all keys and values are written before any row attends.
// Everything between the weights and the cache is float32.
//
// Layout: keys and values of a layer are [kv_heads, slots, head]; position p of a sequence lies in slot
// table[p / 16] * 16 + p % 16, where `table` is its row of `tables`. Keys are stored rotated.
#include "attention.h"
#include "low_rank.h"

// Rows of a matrix in one chunk: some tens of kilobytes, and enough chunks for all threads.
static int64_t chunk_rows(const Matrix& m, int64_t threads) {
  int64_t by_size = job->chunk_bytes / row_bytes(m), by_threads = ceil_divide(m.rows, 4 * threads);
  return round_up(std::max<int64_t>(std::min(by_size, by_threads), 1), 32);
}
static uint32_t chunks_of(std::initializer_list<const Matrix*> matrices, int64_t threads) {
  int64_t rows = chunk_rows(**matrices.begin(), threads), chunks = 0;
  for (auto m : matrices) chunks += ceil_divide(m->rows, rows);
  return chunks;
}

// Prepare the input of a product, and once more for adapters where those are of another kind.
static void prepare_input(const Matrix& m, const float* x, int64_t row, float* out) {
  prepare(m, x, out);
  if (job->low_inputs && job->low_inputs != job->prepared)
    prepare({job->step->low_kind, 0, m.columns, 0, nullptr, nullptr}, x, job->low_inputs + row * job->prepared_width);
}

// Prepare one row of the input of a product, in `room` where it passes through floats.
static void prepare_row(int op, int layer, int64_t row, float* room, float* out) {
  if (op == PRODUCT_PREPARE) return prepare(*job->matrix, job->input + row * job->matrix->columns, out);  // no model
  const Model& m = *job->model;
  const Layer& l = m.layer[layer];
  if (op == PREPARE_QKV) {
    normalize(job->x + row * m.width, l.input_norm, m.width, m.eps, room);
    prepare_input(l.q, room, row, out);
  } else if (op == PREPARE_OUT) {
    prepare_input(l.o, job->attended + row * m.heads * m.head, row, out);
  } else if (op == PREPARE_GATE_UP) {
    normalize(job->x + row * m.width, l.mlp_norm, m.width, m.eps, room);
    prepare_input(l.gate, room, row, out);
  } else if (op == PREPARE_DOWN) {
    silu_times(job->gate + row * m.wide, job->up + row * m.wide, m.wide, room);
    prepare_input(l.down, room, row, out);
  } else if (op == PREPARE_OUTPUT) {
    float* states = job->step->states + row * m.width;
    normalize(job->x + job->step->wanted[row] * m.width, m.norm, m.width, m.eps, room);
    memcpy(states, room, m.width * sizeof(float));
    if (job->step->logits) prepare(m.output, room, out);
  } else {
    prepare(*job->matrix, job->input + row * job->matrix->columns, out);
  }
}

// The prepared inputs of a product, by an earlier task or (few rows) by this thread now.
static const float* inputs(int prepare_op, int layer, int64_t rows, uint32_t number, int thread) {
  if (rows > job->few) return job->prepared;
  auto& own = job->scratch[thread];
  if (own.prepared_for != number + 1) {
    for (int64_t row = 0; row < rows; row++)
      prepare_row(prepare_op, layer, row, own.row, own.prepared + row * job->prepared_width);
    own.prepared_for = number + 1;
  }
  return own.prepared;
}

// One chunk of the product of several matrices that have the same input, each with its own place for the result.
static void products(std::initializer_list<const Matrix*> matrices, std::initializer_list<float*> outs, const float* x,
                     int64_t rows, int64_t chunk, int64_t out_stride) {
  int64_t size = chunk_rows(**matrices.begin(), job->step->threads);
  auto out = outs.begin();
  for (auto m : matrices) {
    int64_t chunks = ceil_divide(m->rows, size);
    if (chunk < chunks) {
      product(*m, chunk * size, std::min(m->rows, (chunk + 1) * size), x, job->prepared_width, rows, *out, out_stride);
      return;
    }
    chunk -= chunks, ++out;
  }
}

// One chunk of a product whose result is added to the states x.
static void add_product(const Matrix& m, const float* x, int64_t chunk, int thread) {
  int64_t size = chunk_rows(m, job->step->threads), from = chunk * size, count = std::min(m.rows - from, size);
  float* out = job->scratch[thread].row;  // [rows, size], as out[b * size + n - from]
  product(m, from, from + count, x, job->prepared_width, job->rows, out - from, size);
  for (int64_t b = 0; b < job->rows; b++)
    for (int64_t n = 0; n < count; n++) job->x[b * m.rows + from + n] += out[b * size + n];
}

// ---- adapters -------------------------------------------------------------------------------------------------------

// The projections of a product, and the product after which an adapter's part of it is added.
struct Changed {
  int product, first, count;
};
static Changed changed(int op) {
  switch (op) {
    case QKV: case ADD_QKV: return {QKV, Q, 3};
    case OUT: case ADD_OUT: return {OUT, O, 1};
    case GATE_UP: case ADD_GATE_UP: return {GATE_UP, GATE, 2};
    default: return {DOWN, PROJECTION_DOWN, 1};
  }
}
static uint32_t low_chunks(int op) { return job->tiles.size() * changed(op).count; }

// scale * A x of one tile and one projection, beside the chunks of the product itself.
static void low_product(int op, int layer, int64_t chunk) {
  Changed of = changed(op);
  const Group& tile = job->tiles[chunk / of.count];
  const LowRank& change = tile.layers[layer * PROJECTIONS + of.first + chunk % of.count];
  if (!change.a.rows) return;
  int64_t width = 3 * job->low_stride;
  float* low = job->low + tile.start * width + chunk % of.count * job->low_stride;
  product(change.a, 0, change.a.rows, job->low_inputs + tile.start * job->prepared_width, job->prepared_width,
          tile.stop - tile.start, low, width);
  for (int64_t b = 0; b < tile.stop - tile.start; b++)
    for (int64_t r = 0; r < change.a.rows; r++) low[b * width + r] *= (float)change.scale;
}

// B of that, added to what the product gave.
static void add_low(int op, int layer, int64_t chunk) {
  const Model& m = *job->model;
  Changed of = changed(op);
  const Group& tile = job->tiles[chunk / of.count];
  int64_t which = of.first + chunk % of.count, queries = m.heads * m.head, keys = m.kv_heads * m.head;
  const LowRank& change = tile.layers[layer * PROJECTIONS + which];
  if (!change.a.rows) return;
  float* outs[] = {job->qkv, job->qkv + queries, job->qkv + queries + keys, job->x, job->gate, job->up, job->x};
  int64_t counts[] = {queries, keys, keys, m.width, m.wide, m.wide, m.width};
  int64_t stride = which <= V ? job->qkv_width : counts[which];
  const float* low = job->low + tile.start * 3 * job->low_stride + chunk % of.count * job->low_stride;
  auto add = job->step->low_kind == FLOAT32 ? add_low_rank<float> : add_low_rank<BFloat16>;
  add(change, tile.stop - tile.start, low, 3 * job->low_stride, counts[which], outs[which] + tile.start * stride, stride);
}

// Cut the groups into tiles, and find the highest rank.
static void lay_tiles() {
  const Step& s = *job->step;
  job->tiles.clear(), job->low_stride = 0, job->few = s.group_count ? 0 : FEW;
  for (int64_t i = 0; i < s.group_count; i++) {
    const Group& group = s.groups[i];
    for (int64_t start = group.start; start < group.stop; start += TILE_ROWS)
      job->tiles.push_back({start, std::min(start + TILE_ROWS, group.stop), group.layers});
    for (int64_t k = 0; k < job->model->layers * PROJECTIONS; k++)
      job->low_stride = std::max(job->low_stride, group.layers[k].a.rows);
  }
}

// ---- the program ----------------------------------------------------------------------------------------------------

static void embed_row(int64_t row) {
  const Model& m = *job->model;
  float* x = job->x + row * m.width;
  if (!job->step->ids) {
    memcpy(x, job->step->embeddings + row * m.width, m.width * sizeof(float));
    return;
  }
  int64_t at = job->step->ids[row] * m.width;
  const void* table = m.embedding.data;
  for (int64_t i = 0; i < m.width; i++)
    x[i] = m.embedding.kind == FLOAT32    ? ((const float*)table)[at + i]
           : m.embedding.kind == BFLOAT16 ? to_float(((const BFloat16*)table)[at + i])
                                          : to_float(((const Float16*)table)[at + i]);
}

static void perform(const Task& task, uint32_t number, uint32_t chunk, int thread) {
  const Model& m = *job->model;
  const Step& s = *job->step;
  const Layer& l = m.layer[task.layer];
  if (task.op >= ADD_QKV) return add_low(task.op, task.layer, chunk);
  if (!job->tiles.empty() && (task.op == QKV || task.op == OUT || task.op == GATE_UP || task.op == DOWN)) {
    uint32_t own = low_chunks(task.op);  // first, for the other chunks are alike and even the ends out
    if (chunk < own) return low_product(task.op, task.layer, chunk);
    chunk -= own;
  }
  switch (task.op) {
    case EMBED: return embed_row(chunk);
    case QKV: {
      int64_t queries = m.heads * m.head, keys = m.kv_heads * m.head;
      return products({&l.q, &l.k, &l.v}, {job->qkv, job->qkv + queries, job->qkv + queries + keys},
                      inputs(PREPARE_QKV, task.layer, job->rows, number, thread), job->rows, chunk, job->qkv_width);
    }
    case ROTATE:
      if (m.cache_kind == FLOAT32) return rotate_row<float>(l, chunk);
      return m.cache_kind == BFLOAT16 ? rotate_row<BFloat16>(l, chunk) : rotate_row<Float16>(l, chunk);
    case ATTEND: return attend(l, chunk, thread);
    case COMBINE: return combine_split(l, chunk);
    case OUT: return add_product(l.o, inputs(PREPARE_OUT, task.layer, job->rows, number, thread), chunk, thread);
    case GATE_UP:
      return products({&l.gate, &l.up}, {job->gate, job->up},
                      inputs(PREPARE_GATE_UP, task.layer, job->rows, number, thread), job->rows, chunk, m.wide);
    case DOWN: return add_product(l.down, inputs(PREPARE_DOWN, task.layer, job->rows, number, thread), chunk, thread);
    case OUTPUT:
      return products({&m.output}, {s.logits}, inputs(PREPARE_OUTPUT, 0, s.wanted_count, number, thread),
                      s.wanted_count, chunk, m.output.rows);
    default:  // one of the PREPARE tasks, a row each
      return prepare_row(task.op, task.layer, chunk, job->scratch[thread].row,
                         job->prepared + chunk * job->prepared_width);
  }
}

static std::vector<Task> make_program() {
  const Model& m = *job->model;
  const Step& s = *job->step;
  uint32_t rows = job->rows, heads = m.kv_heads, n = s.threads;
  std::vector<Task> program = {{EMBED, 0, rows}};
  auto product = [&](int prepare_op, int op, int layer, uint32_t count, uint32_t chunks) {
    if (count > job->few) program.push_back({prepare_op, layer, count});
    bool adapted = !job->tiles.empty() && op != OUTPUT;
    program.push_back({op, layer, chunks + (adapted ? low_chunks(op) : 0)});
    if (adapted) program.push_back({op == QKV ? ADD_QKV : op == OUT ? ADD_OUT : op == GATE_UP ? ADD_GATE_UP : ADD_DOWN,
                                    layer, low_chunks(op)});
  };
  for (int i = 0; i < m.layers; i++) {
    const Layer& l = m.layer[i];
    product(PREPARE_QKV, QKV, i, rows, chunks_of({&l.q, &l.k, &l.v}, n));
    program.push_back({ROTATE, i, rows});
    program.push_back({ATTEND, i, job->split ? (uint32_t)(rows * heads * job->spans) : rows * heads});
    if (job->split) program.push_back({COMBINE, i, (uint32_t)(rows * m.heads)});
    product(PREPARE_OUT, OUT, i, rows, chunks_of({&l.o}, n));
    product(PREPARE_GATE_UP, GATE_UP, i, rows, chunks_of({&l.gate, &l.up}, n));
    product(PREPARE_DOWN, DOWN, i, rows, chunks_of({&l.down}, n));
  }
  if (!s.logits) program.push_back({PREPARE_OUTPUT, 0, (uint32_t)s.wanted_count});
  else if (s.wanted_count) product(PREPARE_OUTPUT, OUTPUT, 0, s.wanted_count, chunks_of({&m.output}, n));
  return program;
}

// Give every buffer its place; all rounded up so that vectors may read and write beyond the end.
static void lay_out(std::vector<float>& memory, std::initializer_list<std::pair<float**, int64_t>> buffers) {
  int64_t total = 0;
  for (auto& buffer : buffers) total += round_up(buffer.second, 64) + 64;
  if ((int64_t)memory.size() < total) memory.resize(total);
  float* at = memory.data();
  for (auto& buffer : buffers) *buffer.first = at, at += round_up(buffer.second, 64) + 64;
}

static void make_room() {
  const Model& m = *job->model;
  const Step& s = *job->step;
  int64_t rows = job->rows, last = 0, queries = m.heads * m.head, shared = m.heads / m.kv_heads, partial = m.head + 2;
  for (int64_t row = 0; row < rows; row++) last = std::max<int64_t>(last, s.positions[row]);
  job->spans = last / SPAN + 1;
  job->split = job->spans > 1 && rows * m.kv_heads < 4 * s.threads;
  job->qkv_width = queries + 2 * m.kv_heads * m.head;
  job->head_room = prepared_size(m.head);
  int64_t widest = std::max(m.width, std::max(m.wide, queries));
  job->prepared_width = prepared_size(widest) + 16;  // not a power of two: rows would fall into the same cache lines
  lay_tiles();
  bool again = s.group_count && m.layer->q.kind != s.low_kind;  // other kinds of inputs than the model's own
  for (int i = 0; i < m.layers && s.group_count; i++)
    for (auto matrix : {&m.layer[i].q, &m.layer[i].o, &m.layer[i].gate, &m.layer[i].down})
      again |= matrix->kind != s.low_kind;
  lay_out(job->memory, {{&job->x, rows * m.width}, {&job->qkv, rows * job->qkv_width},
                       {&job->q, rows * m.heads * job->head_room}, {&job->attended, rows * queries},
                       {&job->gate, rows * m.wide}, {&job->up, rows * m.wide},
                       {&job->prepared, std::max(rows, s.wanted_count) * job->prepared_width},
                       {&job->low, s.group_count ? rows * 3 * job->low_stride : 0},
                       {&job->low_inputs, again ? rows * job->prepared_width : 0},
                       {&job->partial, job->split ? rows * m.heads * job->spans * partial : 0}});
  if (!again) job->low_inputs = s.group_count ? job->prepared : nullptr;
  if ((int64_t)job->scratch.size() < s.threads) job->scratch.resize(s.threads);
  int64_t widest_chunk = 0;
  for (int i = 0; i < m.layers; i++)
    for (auto matrix : {&m.layer[i].o, &m.layer[i].down})
      widest_chunk = std::max(widest_chunk, chunk_rows(*matrix, s.threads));
  for (auto& own : job->scratch) {
    own.prepared_for = 0;
    lay_out(own.memory, {{&own.prepared, FEW * job->prepared_width},
                         {&own.row, std::max(job->prepared_width, rows * widest_chunk)},
                         {&own.scores, shared * SPAN + SPAN},
                         {&own.partial, job->split ? 0 : shared * job->spans * partial}});
  }
}

// What a child after a fork begins with.
static const int at_fork = pthread_atfork(nullptr, nullptr, [] { team = new Team, job = new Job; });

// What is wrong with a step, or null.
static const char* fault(const Model& m, const Step& s) {
  for (int64_t row = 0; row < s.rows; row++) {
    if (s.ids && (s.ids[row] < 0 || s.ids[row] >= m.embedding.rows)) return "an id is not in the vocabulary";
    if (s.sequences[row] < 0 || s.sequences[row] >= s.table_count) return "a row has no block table";
    if (s.positions[row] < 0 || s.positions[row] / PAGE >= s.table_width) return "a position has no block";
    const int32_t* table = s.tables + s.sequences[row] * s.table_width;
    for (int64_t i = 0; i <= s.positions[row] / PAGE; i++)
      if (table[i] < 0 || ((int64_t)table[i] + 1) * PAGE > m.slots) return "a block is not in the cache";
  }
  for (int64_t i = 0; i < s.wanted_count; i++)
    if (s.wanted[i] < 0 || s.wanted[i] >= s.rows) return "a wanted row is not there";
  for (int64_t i = 0; i < s.group_count; i++)
    if (s.groups[i].start < (i ? s.groups[i - 1].stop : 0) || s.groups[i].stop < s.groups[i].start ||
        s.groups[i].stop > s.rows) return "the rows of an adapter are not there";
  return nullptr;
}

extern "C" {

int64_t qk_lanes() { return LANES; }

int64_t qk_packed_bytes(const Matrix* m) { return ceil_divide(m->rows, LANES) * tile_bytes(*m); }

void qk_pack(const Matrix* m, const uint8_t* values, const void* scales, const void* zeros, void* to) {
  pack(*m, values, scales, zeros, (uint32_t*)to);
}

// Compute a step. Return null, or what is wrong with it.
const char* qk_step(const Model* model, const Step* step) {
  if (const char* wrong = fault(*model, *step)) return wrong;
  std::lock_guard<std::mutex> lock(team->busy);
  try {
    job->model = model, job->step = step, job->rows = step->rows, job->chunk_bytes = step->rows <= FEW ? 131072 : 49152;
    make_room();
    team->run(make_program(), step->threads, perform);
  } catch (const std::bad_alloc&) {
    return "there is not enough memory";
  }
  return nullptr;
}

// One product: out [rows, m.rows] of x [rows, m.columns]. Return null, or what is wrong.
const char* qk_product(const Matrix* m, const float* x, int64_t rows, int64_t threads, float* out) {
  std::lock_guard<std::mutex> lock(team->busy);
  Step step = {};
  step.rows = rows, step.threads = threads;
  try {
  job->step = &step, job->rows = rows, job->chunk_bytes = rows <= FEW ? 131072 : 49152;
  job->matrix = m, job->input = x, job->out = out;
  job->prepared_width = prepared_size(m->columns) + 16;
  lay_out(job->memory, {{&job->prepared, rows * job->prepared_width}});
  team->run({{PRODUCT_PREPARE, 0, (uint32_t)rows}, {PRODUCT, 0, chunks_of({m}, threads)}}, threads,
            [](const Task& task, uint32_t, uint32_t chunk, int) {
              float* prepared = job->prepared + chunk * job->prepared_width;
              if (task.op == PRODUCT_PREPARE) prepare_row(task.op, 0, chunk, nullptr, prepared);
              else products({job->matrix}, {job->out}, job->prepared, job->rows, chunk, job->matrix->rows);
            });
  } catch (const std::bad_alloc&) {
    return "there is not enough memory";
  }
  return nullptr;
}

// Read so many bytes (a multiple of 128 kB) and return a sum of them: what memory gives to this many threads.
uint64_t qk_read(const void* from, int64_t bytes, int64_t threads) {
  std::lock_guard<std::mutex> lock(team->busy);
  constexpr int64_t CHUNK = 16384;  // words of 64 bits, read as four streams
  job->read = (const uint64_t*)from, job->read_words = bytes / 8, job->read_sum = 0;
  team->run({{READ, 0, (uint32_t)(job->read_words / CHUNK)}}, threads,
            [](const Task&, uint32_t, uint32_t chunk, int) {
              const uint64_t* from = job->read + chunk * CHUNK;
              uint64_t total = 0;
              for (int64_t i = 0; i < CHUNK / 4; i++)
                total += from[i] + from[i + CHUNK / 4] + from[i + CHUNK / 2] + from[i + CHUNK * 3 / 4];
              job->read_sum.fetch_add(total);
            });
  return job->read_sum;
}

}  // extern "C"
