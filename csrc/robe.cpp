// The C interface: arguments become a plan, work is divided among threads, the instruction set is chosen.

#include "robe.h"

#include <string.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#if defined(__linux__)
#include <unistd.h>
#endif

#include "plan.h"
#include "workspace.h"

namespace robe {
namespace {

struct BadCall {
  robe_status status;
};

const Kernels& choose_kernels() {
#if defined(ROBE_X86)
  const char* limit = getenv("ROBE_ISA");  // "avx2" or "generic": for tests and comparisons
  const bool generic = limit && !strcmp(limit, "generic"), avx2 = limit && !strcmp(limit, "avx2");
  __builtin_cpu_init();
  bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && !avx2 && !generic) return kernels_avx512;
  if (has_avx2 && !generic) return kernels_avx2;
#endif
  return kernels_generic;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose_kernels();
  return chosen;
}

// Larger outputs are written around the cache. Whoever reads a smaller one next finds it there.
int64_t stream_bytes() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
  static const int64_t bytes = sysconf(_SC_LEVEL3_CACHE_SIZE) / 2;
  return bytes > 0 ? bytes : 8 << 20;
#else
  return 8 << 20;
#endif
}

void require(bool condition, robe_status status = ROBE_BAD_SPEC) {
  if (!condition) throw BadCall{status};
}

// A plan and the memory of its tables.
struct PlanMemory {
  Plan plan = {};
  std::vector<Field> fields;
  std::vector<int64_t> limit, add, over;
  std::vector<int32_t> narrow_add, narrow_over;
  std::vector<uint64_t> sign_steps, plain_addends, plain_bounds;
  int64_t rows_size = 0;  // elements of a buffer of one gradient row per id
};

int64_t multiple_mod(int64_t step, int64_t count, int64_t modulus) {
  return int64_t(uint128(step) * uint128(count) % uint128(modulus));
}

int64_t bytes_of(int64_t dtype) {
  return dtype == ROBE_FLOAT64 ? 8 : dtype == ROBE_FLOAT32 ? 4 : dtype == ROBE_INT8 ? 1 : 2;
}

void check_offsets(const robe_batch& batch) {
  const int64_t bags = batch.num_fields * batch.batch_size;
  bool ordered = batch.offsets[0] == 0 && batch.offsets[bags] == batch.num_ids;
  for (int64_t i = 0; i < bags; i++) ordered &= batch.offsets[i] <= batch.offsets[i + 1];
  require(ordered, ROBE_BAD_OFFSETS);
}

void make_plan(const robe_array& array, const robe_batch& batch, PlanMemory& memory) {
  Plan& p = memory.plan;
  const robe_spec& spec = *batch.spec;
  const int64_t z = spec.block_size, m = spec.num_slots;
  const bool mixed = spec.form == ROBE_MIXED;
  const int64_t prime = mixed ? 2 : spec.prime;
  const bool int8 = array.dtype == ROBE_INT8;
  require(array.dtype >= ROBE_FLOAT32 && array.dtype <= ROBE_INT8 && array.slots >= 0);
  const int64_t out = array.out_dtype;
  require(int8 ? !batch.grad && (out == ROBE_FLOAT32 || out == ROBE_BFLOAT16 || out == ROBE_FLOAT16) : out == array.dtype);
  require(spec.form >= ROBE_UNIVERSAL && spec.form <= ROBE_MIXED && z >= 1 && m >= 0 && m <= array.slots);
  require(array.slots < int64_t(1) << 48 && prime >= 2 && prime <= int64_t(kMersenne61));
  for (int64_t x : {spec.key_multiplier, spec.chunk_multiplier, spec.sign_key_multiplier, spec.sign_element_multiplier})
    require(mixed || (x >= 0 && x < prime));
  require(batch.num_fields >= 0 && batch.batch_size >= 0 && batch.mode >= ROBE_SUM && batch.mode <= ROBE_MAX);

  p.form = spec.form, p.prime = prime, p.multiplier = spec.key_multiplier;
  p.sign = spec.use_sign, p.sign_multiplier = spec.sign_key_multiplier;
  p.slots_hashed = m;
  p.num_fields = batch.num_fields;
  p.ids = batch.ids, p.offsets = batch.offsets, p.weights = batch.weights, p.grad = batch.grad;
  p.num_ids = batch.num_ids, p.batch_size = batch.batch_size, p.width = batch.width, p.mode = batch.mode;
  p.array = array.data, p.slots = array.slots, p.dtype = array.dtype;
  p.scales = array.scales, p.out_dtype = array.out_dtype;
  p.itemsize = bytes_of(array.dtype), p.out_itemsize = bytes_of(array.out_dtype);
  if (p.offsets) check_offsets(batch);

  memory.fields.resize(p.num_fields);
  bool hashed = false;
  for (int64_t f = 0; f < p.num_fields; f++) p.max_dim = std::max(p.max_dim, batch.fields[f].dim);
  p.segment = std::min(z, p.max_dim);
  p.uniform = p.same_dim = p.num_fields > 0;
  p.max_chunks = 1;
  for (int64_t f = 0; f < p.num_fields; f++) {
    const robe_field& given = batch.fields[f];
    Field& field = memory.fields[f];
    require(given.dim >= 1 && given.column >= 0 && given.column + given.dim <= p.width);
    const int64_t last = m - (spec.form == ROBE_RELEASED ? z : 1);  // the published code's blocks do not wrap
    if (given.direct) {
      require(given.rows >= 0 && given.base >= 0 && given.rows <= (p.slots - given.base) / given.dim);
    } else {
      require(last >= 0 && z <= m && (mixed || (given.addend >= 0 && given.addend < prime)));
      require(!p.sign || mixed || (given.sign_addend >= 0 && given.sign_addend < prime));
      if (!hashed) p.modulus = make_modulus(uint64_t(last) + 1);
      hashed = true;
    }
    field.addend = uint64_t(given.addend), field.sign_addend = uint64_t(given.sign_addend);
    field.dim = given.dim, field.rows = given.rows, field.base = given.base, field.column = given.column;
    field.padding = given.padding, field.has_padding = given.has_padding, field.direct = given.direct;
    field.any = given.rows < 0;
    field.chunks = (given.dim + p.segment - 1) / p.segment;
    field.limit = given.direct ? p.slots : m;
    field.group = z > given.dim && spec.form != ROBE_RELEASED ? uint64_t(z / given.dim) : 1;
    field.first_row = memory.rows_size;
    if (p.offsets) {
      memory.rows_size += (p.offsets[(f + 1) * p.batch_size] - p.offsets[f * p.batch_size]) * given.dim;
    }
    p.max_chunks = std::max(p.max_chunks, field.chunks);
    p.uniform &= given.dim % p.segment == 0;
    p.same_dim &= given.dim == p.max_dim && given.column == f * p.max_dim;
  }
  p.same_dim &= p.width == p.num_fields * p.max_dim;
  p.plain = p.same_dim && !p.offsets && p.form == ROBE_UNIVERSAL && prime == int64_t(kMersenne61);
  const uint64_t group = p.num_fields ? memory.fields[0].group : 1;  // of all fields, as they have one dim
  p.plain &= (group & (group - 1)) == 0;
  for (uint64_t g = group; g > 1; g /= 2) p.group_shift++;
  for (const Field& field : memory.fields) p.plain &= !field.direct && !field.has_padding;
  for (const Field& field : memory.fields) p.plain &= field.rows != 0;
  if (p.plain) {
    for (int64_t i = 0; i < p.num_fields + 7; i++) {
      const Field& field = memory.fields[i % p.num_fields];
      memory.plain_addends.push_back(field.addend);
      memory.plain_bounds.push_back(field.any ? ~uint64_t(0) : uint64_t(field.rows) - 1);
    }
    p.plain_addends = memory.plain_addends.data(), p.plain_bounds = memory.plain_bounds.data();
  }
  if (hashed && !mixed && p.max_chunks > 1) {
    // Padded to what a vector reads; no value reaches the limit of a chunk that is not there.
    const size_t padded = size_t(p.max_chunks + 15) / 16 * 16;
    memory.limit.resize(padded, INT64_MAX), memory.add.resize(padded), memory.over.resize(padded);
    const int64_t by = int64_t(p.modulus.m);
    for (int64_t c = 0; c < p.max_chunks; c++) {
      const int64_t step = multiple_mod(spec.chunk_multiplier, c, prime);
      memory.limit[c] = prime - step;
      memory.add[c] = step % by;
      memory.over[c] = (by - (prime - step) % by) % by;
    }
    if (p.plain && p.segment == 1 && p.modulus.m >= 4096 && p.modulus.m < uint64_t(1) << 31) {
      memory.narrow_add.assign(memory.add.begin(), memory.add.end());
      memory.narrow_over.assign(memory.over.begin(), memory.over.end());
      p.narrow_add = memory.narrow_add.data(), p.narrow_over = memory.narrow_over.data();
    }
  }
  if (p.sign && !mixed) {
    memory.sign_steps.resize(p.max_dim);
    for (int64_t i = 0; i < p.max_dim; i++)
      memory.sign_steps[i] = uint64_t(multiple_mod(spec.sign_element_multiplier, i, prime));
  }
  p.chunk_limit = memory.limit.data(), p.chunk_add = memory.add.data(), p.chunk_over = memory.over.data();
  p.sign_steps = memory.sign_steps.data(), p.fields = memory.fields.data();
  p.ahead = p.plain ? 64 : 32;
  while (p.ahead > (p.plain ? 16 : 2) && p.ahead * p.max_chunks > (p.plain ? 1024 : 128)) p.ahead /= 2;
}

int64_t scratch_bytes(const Plan& p) {
  const int64_t groups = (p.num_fields + 16) / 16 * 16, lanes = (p.max_dim + 15) / 16 * 16;
  int64_t rows = 8 * 8 * lanes;                                         // lookup and its derivatives
  rows = std::max(rows, 4 * (2 * groups * lanes + 2 * groups * groups + 128));  // interaction
  return (ring_bytes(p) + rows + 4095) / 4096 * 4096;
}

int64_t threads_for(int64_t threads, int64_t lookups, int64_t dim) {
  // Below a few microseconds of work a second thread costs more than it saves.
  const int64_t useful = lookups * (16 + dim) / 32768;
  return std::max(int64_t(1), std::min(threads, useful));
}

// Calls work(begin, end, scratch) on pieces of [0, count), and returns whether all calls returned true. Each thread has
// the same pieces in every call, whose memory may still be in its cache; where pieces may differ much in work (kUneven),
// they go to whichever thread is free.
template <bool kUneven = false, class Work>
bool parallel(int64_t threads, int64_t count, int64_t piece, int64_t scratch_size, char* scratch, Work work) {
  (void)threads, (void)scratch_size;  // without OpenMP
  std::atomic<bool> inside{true};
  const int64_t pieces = (count + piece - 1) / piece;
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
  {
#if defined(_OPENMP)
    char* mine = scratch + omp_get_thread_num() * scratch_size;
#else
    char* mine = scratch;
#endif
    auto run = [&](int64_t i) {
      if (!work(i * piece, std::min(count, (i + 1) * piece), mine)) inside = false;
    };
    if (kUneven) {
#pragma omp for schedule(dynamic)
      for (int64_t i = 0; i < pieces; i++) run(i);
    } else {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < pieces; i++) run(i);
    }
  }
  return inside;
}

int64_t lookups_of(const Plan& p) { return p.offsets ? p.num_ids : p.batch_size * p.num_fields; }

// Samples, bags or ids per piece of work: large enough to fill the pipeline, small enough to share out evenly.
int64_t piece_of(const Plan& p, int64_t count, int64_t threads) {
  const int64_t lookups = std::max(int64_t(1), lookups_of(p)), wanted = std::max(int64_t(1), count * 4096 / lookups);
  return std::max(int64_t(1), std::min(wanted, (count + threads - 1) / threads));
}

void lookup(const Plan& p, void* out, int64_t threads) {
  require(p.dtype != ROBE_INT8 || p.scales);
  const int64_t out_bytes = p.batch_size * p.width * p.out_itemsize, size = scratch_bytes(p);
  threads = threads_for(threads, lookups_of(p), p.max_dim);
  Workspace scratch(size * threads);
  const Kernels& k = kernels();
  bool inside;
  if (p.offsets) {
    const int64_t bags = p.num_fields * p.batch_size;
    inside = parallel<true>(threads, bags, piece_of(p, bags, threads), size, scratch.data(),
                      [&](int64_t begin, int64_t end, char* mine) { return k.lookup_bags(p, begin, end, out, mine); });
  } else {
    const bool aligned = uintptr_t(out) % 64 == 0 && p.max_dim * p.itemsize % 64 == 0;
    const bool stream = p.plain && aligned && out_bytes > stream_bytes();
    inside = parallel(threads, p.batch_size, piece_of(p, p.batch_size, threads), size, scratch.data(),
                      [&](int64_t begin, int64_t end, char* mine) {
                        return p.sign || p.dtype == ROBE_INT8 ? k.lookup_converted(p, begin, end, out, mine)
                                      : k.lookup(p, begin, end, out, stream, mine);
                      });
  }
  require(inside, ROBE_BAD_ID);
}

void lookup_backward_weights(const robe_array& array, const robe_batch& batch, void* out, int64_t threads) {
  PlanMemory memory;
  make_plan(array, batch, memory);
  const Plan& p = memory.plan;
  require(p.offsets);
  threads = threads_for(threads, lookups_of(p), p.max_dim);
  const int64_t size = scratch_bytes(p);
  Workspace scratch(size * threads);
  bool inside = parallel<true>(threads, p.num_ids, piece_of(p, p.num_ids, threads), size, scratch.data(),
                         [&](int64_t begin, int64_t end, char* mine) {
                           return kernels().grad_weights(p, begin, end, out, mine);
                         });
  require(inside, ROBE_BAD_ID);
}

void lookup_dot(const robe_array& array, const robe_batch& batch, const void* dense, void* grad_dense, void* out,
                int64_t threads, bool backward) {
  PlanMemory memory;
  make_plan(array, batch, memory);
  const Plan& p = memory.plan;
  require(!p.offsets && p.same_dim && p.dtype == ROBE_FLOAT32);
  const int64_t size = scratch_bytes(p);
  threads = threads_for(threads, 2 * lookups_of(p), p.max_dim);
  Workspace scratch(size * threads);
  const Kernels& k = kernels();
  bool inside = parallel(threads, p.batch_size, piece_of(p, p.batch_size, threads), size, scratch.data(),
                         [&](int64_t begin, int64_t end, char* mine) {
                           return backward ? k.dot_backward(p, begin, end, dense, grad_dense, out, mine)
                                           : k.dot(p, begin, end, dense, out, mine);
                         });
  require(inside, ROBE_BAD_ID);
}

void attend(Attention a, int64_t batch_size, int64_t threads) {
  require(batch_size >= 0 && a.count >= 0 && a.num_heads >= 1 && a.head_dim >= 1);
  const int64_t outputs = a.num_heads * a.head_dim, wide = (a.count + 15) / 16 * 16;
  a.width = outputs * (a.residual ? 4 : 3);
  threads = threads_for(threads, batch_size * a.count * 2, outputs);
  // A multiple of lines, so that threads share none: see the layouts in attention.cpp.
  const int64_t size = ((3 * outputs + 2 * a.count) * wide + a.count * outputs + 16) / 16 * 64;
  Workspace scratch(size * threads);
  const int64_t piece = std::max(int64_t(1), (batch_size + threads - 1) / threads);
  parallel(threads, batch_size, piece, size, scratch.data(), [&](int64_t begin, int64_t end, char* mine) {
    (a.grad ? kernels().attend_backward : kernels().attend)(a, begin, end, (float*)mine);
    return true;
  });
}

// ---- Scatter: rows are routed to buckets of slots, then every bucket is summed by one thread, in order of rows. Sums
// are the same bits whatever the number of threads and buckets. ----

constexpr int64_t kBucketSlots = 1 << 16;

Buckets make_buckets(int64_t slots, int64_t threads, std::vector<int64_t>& begins) {
  Buckets b = {};
  b.lines = std::max(int64_t(1), (slots + 15) / 16);
  int64_t wanted = (slots + kBucketSlots - 1) / kBucketSlots;
  if (threads > 1) wanted = std::max(wanted, 4 * threads);
  b.count = std::max(int64_t(1), std::min(wanted, b.lines));
  b.scale = uint64_t((uint128(b.count) << 32) / uint64_t(b.lines));
  begins.resize(b.count + 1);
  for (int64_t k = 0; k < b.count; k++) {  // the first line that bucket_of sends there
    const int64_t line = int64_t(((uint128(k) << 32) + b.scale - 1) / b.scale);
    begins[k] = std::min(line * 16, slots);
  }
  begins[b.count] = slots;
  b.begin = begins.data();
  return b;
}

struct Job {
  PlanMemory memory;
  Source source;
  std::unique_ptr<Workspace> rows, arena;
  std::vector<Router> routers;          // one per thread
  std::vector<uint32_t> next, heads;    // of all routers
  std::vector<char*> cursors;
  bool wide;
};

void prepare_source(Job& job, int64_t threads, int64_t scratch_size, char* scratch) {
  const Plan& p = job.memory.plan;
  const bool bags = p.offsets != nullptr;
  const bool per_id = bags && (p.weights || p.sign || p.mode == ROBE_MAX);
  job.source = {p.grad, per_id, false};
  if (!per_id && !p.sign && !(bags && p.mode == ROBE_MEAN)) return;
  job.source.converted = true;
  const int64_t elements = per_id ? job.memory.rows_size : p.batch_size * p.width;
  job.rows.reset(new Workspace(std::max(int64_t(1), elements) * (p.dtype == ROBE_FLOAT64 ? 8 : 4)));
  job.source.data = job.rows->data();
  const int64_t count = bags ? p.num_fields * p.batch_size : p.batch_size;
  parallel<true>(threads, count, piece_of(p, count, threads), scratch_size, scratch,
           [&](int64_t begin, int64_t end, char* mine) {
             kernels().grad_rows(p, begin, end, job.rows->data(), per_id, mine);
             return true;
           });
}

void make_routers(Job& job, const Buckets& buckets, int64_t threads) {
  const Plan& p = job.memory.plan;
  const int64_t elements = job.source.per_id ? job.memory.rows_size : p.batch_size * p.width;
  job.wide = !p.uniform || elements >= int64_t(1) << 32;
  for (const Field& field : job.memory.fields) job.wide |= field.limit != p.slots;
  const int64_t entry = job.wide ? sizeof(WideEntry) : sizeof(Entry);
  const int64_t smallest = std::max(int64_t(16), int64_t((uint64_t(1) << 32) / buckets.scale) * 16);
  const int64_t per_chunk = p.segment == 1 ? 1 : p.segment / smallest + 4;
  const int64_t parts = threads;
  std::vector<int64_t> blocks(parts);
  int64_t total = 0;
  const int64_t lookups = lookups_of(p);
  for (int64_t t = 0; t < parts; t++) {
    // A thread's share of bags has at most its share of ids and one long bag more: all ids bound it.
    const int64_t rows = p.offsets ? lookups : (p.batch_size * (t + 1) / parts - p.batch_size * t / parts) * p.num_fields;
    blocks[t] = rows * p.max_chunks * per_chunk / (kBlockBytes / entry) + buckets.count + 1;
    require(blocks[t] < int64_t(1) << 32, ROBE_NO_MEMORY);
    total += blocks[t];
  }
  job.arena.reset(new Workspace(total * kBlockBytes));
  job.next.resize(total);
  job.heads.resize(parts * buckets.count);
  job.cursors.assign(parts * buckets.count, nullptr);
  job.routers.resize(parts);
  int64_t first = 0;
  for (int64_t t = 0; t < parts; t++) {
    job.routers[t] = {job.arena->data() + first * kBlockBytes, job.next.data() + first,
                      job.heads.data() + t * buckets.count, job.cursors.data() + t * buckets.count, 0,
                      uint32_t(blocks[t])};
    first += blocks[t];
  }
}

bool route(Job& job, const Buckets& buckets, int64_t scratch_size, char* scratch) {
  const Plan& p = job.memory.plan;
  const int64_t parts = int64_t(job.routers.size());
  const int64_t bags = p.num_fields * p.batch_size;
  std::atomic<bool> inside{true};
  auto bound = [&](int64_t t) {
    if (!p.offsets) return p.batch_size * t / parts;
    if (t == parts) return bags;
    return int64_t(std::lower_bound(p.offsets, p.offsets + bags, p.num_ids * t / parts) - p.offsets);
  };
#pragma omp parallel for num_threads(int(parts)) schedule(static, 1) if (parts > 1)
  for (int64_t t = 0; t < parts; t++) {
    if (!kernels().route(p, bound(t), bound(t + 1), buckets, job.routers[t], job.wide, job.source.per_id,
                         scratch + t * scratch_size))
      inside = false;
  }
  return inside;
}

// The gradient of more elements than there are slots. The first half of every batch is added to one copy of the gradient,
// the second half to another: two threads need no routes. Further threads take ranges of the slots of a copy; which bits
// come out does not depend on them.
template <class Sink>
void scatter_copies(const robe_array& array, std::vector<Job>& jobs, int64_t threads, void* in_place, Sink sink) {
  constexpr int64_t kCopies = 2, kPiece = 2048;
  const int64_t slots = array.slots, itemsize = array.dtype == ROBE_FLOAT64 ? 8 : 4;
  int64_t scratch_size = 0;
  for (const Job& job : jobs) scratch_size = std::max(scratch_size, scratch_bytes(job.memory.plan));
  const int64_t ranges = std::max(int64_t(1), threads / kCopies), lines = (slots + 15) / 16;
  const int64_t copy_size = (slots * itemsize + 4095) / 4096 * 4096 + 512;  // copies do not meet in a set of the cache
  Workspace memory(copy_size * kCopies), scratch(scratch_size * threads);
  char* copies[kCopies] = {in_place ? (char*)in_place : memory.data(), memory.data() + copy_size};
  const bool inside = parallel(threads, kCopies * ranges, 1, scratch_size, scratch.data(),
                               [&](int64_t task, int64_t, char* mine) {
    const int64_t copy = task % kCopies, range = task / kCopies;
    const int64_t begin = std::min(slots, lines * range / ranges * 16);
    const int64_t end = std::min(slots, lines * (range + 1) / ranges * 16);
    memset(copies[copy] + begin * itemsize, 0, (end - begin) * itemsize);
    bool ok = true;
    for (const Job& job : jobs) {
      const Plan& p = job.memory.plan;
      ok &= kernels().add_rows(p, p.batch_size * copy / kCopies, p.batch_size * (copy + 1) / kCopies, begin, end,
                               copies[copy], mine);
    }
    return ok;
  });
  require(inside, ROBE_BAD_ID);
  parallel(threads, slots, kPiece, 0, nullptr, [&](int64_t begin, int64_t end, char*) {
    kernels().add_sums(jobs[0].memory.plan, copies[1] + begin * itemsize, end - begin, copies[0] + begin * itemsize);
    sink(jobs.data(), begin, end, copies[0] + begin * itemsize, nullptr);
    return true;
  });
}

// The gradient of all batches, bucket by bucket: sink(begin, end, sums, touched) gets the sums of slots [begin, end).
// With `in_place` these are in a buffer [slots]; otherwise the sink leaves them zero for the next bucket.
template <class Sink>
void scatter(const robe_array& array, const robe_batch* batches, int64_t num_batches, int64_t threads, void* in_place,
             bool sparse, Sink sink) {
  std::vector<Job> jobs(num_batches);
  int64_t lookups = 0, scratch_size = 0, elements = 0;
  for (int64_t j = 0; j < num_batches; j++) {
    make_plan(array, batches[j], jobs[j].memory);
    const Plan& p = jobs[j].memory.plan;
    lookups += lookups_of(p);
    elements += lookups_of(p) * p.max_dim;
    scratch_size = std::max(scratch_size, scratch_bytes(p));
  }
  if (array.slots == 0) return;
  const int64_t dim = elements / std::max(int64_t(1), lookups);
  bool plain = true;
  for (const Job& job : jobs) plain &= job.memory.plan.plain && !job.memory.plan.sign;
  if (plain && elements >= array.slots)
    return scatter_copies(array, jobs, threads_for(threads, lookups, dim), in_place, sink);
  threads = std::max(threads_for(threads, lookups, dim), in_place || !sparse ? threads_for(threads, array.slots / 16, 0) : 1);
  std::vector<int64_t> begins;
  const Buckets buckets = make_buckets(array.slots, threads, begins);
  {
    Workspace scratch(scratch_size * threads);
    bool inside = true;
    for (Job& job : jobs) {
      prepare_source(job, threads, scratch_size, scratch.data());
      make_routers(job, buckets, threads);
      inside &= route(job, buckets, scratch_size, scratch.data());
    }
    require(inside, ROBE_BAD_ID);
  }
  const int64_t accumulator = array.dtype == ROBE_FLOAT64 ? 8 : 4;
  const int64_t most = (int64_t((uint64_t(1) << 32) / buckets.scale) + 2) * 16;
  const int64_t words = most / 1024 + 2;
  const int64_t sums_size = in_place ? 0 : (most * accumulator + words * 8 + 4095) / 4096 * 4096;
  std::unique_ptr<Workspace> memory;
  if (!in_place) {
    memory.reset(new Workspace(sums_size * threads));
    memset(memory->data(), 0, sums_size * threads);
  }
  const bool track = sparse && elements < array.slots;
  parallel<true>(threads, buckets.count, 1, sums_size, memory ? memory->data() : nullptr,
           [&](int64_t bucket, int64_t, char* mine) {
             const int64_t begin = begins[bucket], end = begins[bucket + 1];
             if (begin >= end) return true;
             char* sums = in_place ? (char*)in_place + begin * accumulator : mine;
             if (in_place) memset(sums, 0, (end - begin) * accumulator);
             uint64_t* touched = track ? (uint64_t*)(mine + most * accumulator) : nullptr;
             for (Job& job : jobs) {
               for (Router& router : job.routers)
                 kernels().add_to_bucket(job.memory.plan, job.source, router, job.wide, bucket, begin, end, sums, touched);
             }
             sink(jobs.data(), begin, end, sums, touched);
             return true;
           });
}

void lookup_backward_array(const robe_array& array, const robe_batch& batch, void* out, int64_t threads) {
  const bool half = array.dtype == ROBE_BFLOAT16 || array.dtype == ROBE_FLOAT16;
  scatter(array, &batch, 1, threads, half ? nullptr : out, false,
          [&](const Job* jobs, int64_t begin, int64_t end, char* sums, uint64_t*) {
            if (!half) return;
            kernels().store_bucket(jobs[0].memory.plan, sums, begin, end, out);
            memset(sums, 0, (end - begin) * 4);
          });
}

void step(const robe_array& array, const robe_batch* batches, int64_t num_batches, const robe_update& update,
          int64_t threads) {
  require(array.dtype == ROBE_FLOAT32 || array.dtype == ROBE_FLOAT64);
  require(num_batches >= 1 && update.rule >= ROBE_SGD && update.rule <= ROBE_SPARSE_ADAM);
  require(update.rule != ROBE_SPARSE_ADAM || update.weight_decay == 0);
  require(update.rule == ROBE_SGD || (update.state1 && (update.rule == ROBE_ADAGRAD || update.state2)));
  // Where a slot without gradient does not change, only the touched ones are visited.
  const bool sparse = update.weight_decay == 0 && (update.rule == ROBE_ADAGRAD || update.rule == ROBE_SPARSE_ADAM ||
                                                   (update.rule == ROBE_SGD && !update.state1));
  scatter(array, batches, num_batches, threads, nullptr, sparse,
          [&](const Job* jobs, int64_t begin, int64_t end, char* sums, uint64_t* touched) {
            kernels().update_bucket(jobs[0].memory.plan, update, sums, begin, end, touched);
          });
}

template <class Call>
int guarded(Call call) {
  try {
    call();
    return ROBE_OK;
  } catch (const BadCall& bad) {
    return bad.status;
  } catch (const std::bad_alloc&) {
    return ROBE_NO_MEMORY;
  } catch (const std::length_error&) {
    return ROBE_NO_MEMORY;
  }
}

}  // namespace
}  // namespace robe

struct robe_prepared {
  robe::PlanMemory memory;
};

int robe_abi(void) { return ROBE_ABI; }
const char* robe_isa(void) { return robe::kernels().name; }

int robe_lookup(const robe_array* array, const robe_batch* batch, void* out, int64_t threads) {
  return robe::guarded([&] {
    robe::PlanMemory memory;
    robe::make_plan(*array, *batch, memory);
    robe::lookup(memory.plan, out, threads);
  });
}
int robe_prepare(const robe_array* array, const robe_batch* batch, robe_prepared** out) {
  return robe::guarded([&] {
    std::unique_ptr<robe_prepared> prepared(new robe_prepared());
    robe::make_plan(*array, *batch, prepared->memory);
    *out = prepared.release();
  });
}
int robe_lookup_prepared(const robe_prepared* prepared, void* array, const float* scales, const int64_t* ids,
                         int64_t batch_size, void* out, int64_t threads) {
  return robe::guarded([&] {
    robe::Plan p = prepared->memory.plan;  // its tables stay where they are
    p.array = array, p.scales = scales, p.ids = ids, p.batch_size = batch_size, p.num_ids = batch_size * p.num_fields;
    robe::lookup(p, out, threads);
  });
}
void robe_free(robe_prepared* prepared) { delete prepared; }
int robe_lookup_backward_array(const robe_array* array, const robe_batch* batch, void* grad_array, int64_t threads) {
  return robe::guarded([&] { robe::lookup_backward_array(*array, *batch, grad_array, threads); });
}
int robe_lookup_backward_weights(const robe_array* array, const robe_batch* batch, void* grad_weights,
                                 int64_t threads) {
  return robe::guarded([&] { robe::lookup_backward_weights(*array, *batch, grad_weights, threads); });
}
int robe_step(const robe_array* array, const robe_batch* batches, int64_t num_batches, const robe_update* update,
              int64_t threads) {
  return robe::guarded([&] { robe::step(*array, batches, num_batches, *update, threads); });
}
int robe_lookup_dot(const robe_array* array, const robe_batch* batch, const void* dense, void* out, int64_t threads) {
  return robe::guarded([&] { robe::lookup_dot(*array, *batch, dense, nullptr, out, threads, false); });
}
int robe_lookup_dot_backward(const robe_array* array, const robe_batch* batch, const void* dense, void* grad_dense,
                             void* grad_rows, int64_t threads) {
  return robe::guarded([&] { robe::lookup_dot(*array, *batch, dense, grad_dense, grad_rows, threads, true); });
}
int robe_attention(const float* parts, int64_t batch_size, int64_t count, int64_t num_heads, int64_t head_dim,
                   int64_t residual, float* out, int64_t threads) {
  return robe::guarded([&] {
    robe::attend({parts, nullptr, out, nullptr, count, num_heads, head_dim, 0, residual != 0}, batch_size, threads);
  });
}
int robe_attention_backward(const float* grad, const float* parts, const float* out, int64_t batch_size, int64_t count,
                            int64_t num_heads, int64_t head_dim, int64_t residual, float* grad_parts, int64_t threads) {
  return robe::guarded([&] {
    robe::attend({parts, grad, (float*)out, grad_parts, count, num_heads, head_dim, 0, residual != 0}, batch_size,
                 threads);
  });
}
void robe_huge_pages(void* data, int64_t bytes) { robe::huge_pages(data, bytes); }
