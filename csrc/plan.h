// What a call works with: the arguments of the C interface, checked and with the constants that rows need.
#pragma once

#include <stdint.h>

#include "hash.h"
#include "robe.h"

namespace robe {

struct Field {
  uint64_t addend, sign_addend;
  int64_t dim, rows, base, column, padding;
  int64_t chunks;      // segments of a row
  int64_t limit;       // segments wrap here: the end of the hashed part, or of the array
  uint64_t group;      // rows per block, 1 unless Z > D
  int64_t first_row;   // offset of the field's first id in a buffer of one gradient row per id
  bool direct, any, has_padding;
};

struct Plan {
  int64_t form;
  uint64_t prime, multiplier;
  Modulus modulus;
  int64_t slots_hashed;
  // Chunk c starts (first + step c mod P) mod m after the one before it: r0 + (first < chunk_limit ? add : over).
  const int64_t *chunk_limit, *chunk_add, *chunk_over;
  const int32_t *narrow_add, *narrow_over;  // the same of rows of single slots below 2^31; else null
  bool sign;
  uint64_t sign_multiplier;
  const uint64_t* sign_steps;

  // Addends and largest ids of the fields, the first kGroup - 1 again behind the last: vectors go around.
  const uint64_t *plain_addends, *plain_bounds;

  const Field* fields;
  int64_t num_fields, max_chunks, max_dim;
  int64_t segment;  // elements of a chunk: min(Z, D) of the largest D
  bool uniform;     // every segment of every field has the same length
  bool same_dim;    // all fields have one dim and lie side by side
  bool plain;       // same_dim, all hashed by equation 5 with the default prime, no padding: the fast path
  int group_shift;  // of a plain plan: rows per block are a power of two

  const int64_t *ids, *offsets;
  const void *weights, *grad;
  int64_t num_ids, batch_size, width, mode;

  void* array;
  const float* scales;  // of an int8 array
  int64_t slots, itemsize, dtype;
  int64_t out_dtype, out_itemsize;
  int64_t ahead;  // rows hashed and prefetched ahead of the one that is read; a power of two
};

// Gradient entries of one thread for the buckets of the array, in order of rows. A bucket is a range of slots that fits
// a cache; its entries lie in a chain of blocks.
struct Entry {
  uint32_t source;  // position in the gradient
  int32_t slot;     // relative to the bucket, negative where a segment began in the bucket before
};
struct WideEntry {
  int64_t source;
  int32_t slot, length;
};
constexpr int64_t kBlockBytes = 512;

struct Router {
  char* arena;         // blocks of kBlockBytes
  uint32_t* next;      // [blocks]: the block after each
  uint32_t* head;      // [buckets]: first block
  char** cursor;       // [buckets]: where the next entry goes, null before the first
  uint32_t used, blocks;
};

struct Buckets {
  int64_t count, lines;  // lines of 16 slots
  uint64_t scale;        // bucket of a line: (line * scale) >> 32
  const int64_t* begin;  // [count + 1]: first slot of each bucket, then the end of the array
};

static inline int64_t bucket_of(const Buckets& b, int64_t slot) { return int64_t((uint64_t(slot >> 4) * b.scale) >> 32); }

// Where the gradient of each row is read from.
struct Source {
  const void* data;
  bool per_id;     // one row per id; otherwise one per sample and field, [batch_size, width]
  bool converted;  // in the accumulator's type; otherwise in the array's
};

// Self-attention among F vectors of a sample; shapes as in robe.h.
struct Attention {
  const float *parts, *grad;
  float *out, *grad_parts;  // the backward reads `out`
  int64_t count, num_heads, head_dim, width;  // F, heads, size of a head, columns of parts
  bool residual;
};

// The kernels of one instruction set. Ranges are of samples (single ids), bags or buckets; `scratch` is per thread.
// Kernels that see ids return false where one is outside its table.
struct Kernels {
  const char* name;
  bool (*lookup)(const Plan&, int64_t begin, int64_t end, void* out, bool stream, char* scratch);
  bool (*lookup_converted)(const Plan&, int64_t begin, int64_t end, void* out, char* scratch);
  bool (*lookup_bags)(const Plan&, int64_t begin, int64_t end, void* out, char* scratch);
  bool (*grad_weights)(const Plan&, int64_t begin, int64_t end, void* out, char* scratch);
  void (*grad_rows)(const Plan&, int64_t begin, int64_t end, void* rows, bool per_id, char* scratch);
  bool (*route)(const Plan&, int64_t begin, int64_t end, const Buckets&, Router&, bool wide, bool per_id, char* scratch);
  void (*add_to_bucket)(const Plan&, const Source&, const Router&, bool wide, int64_t bucket, int64_t begin, int64_t end,
                        void* sums, uint64_t* touched);
  bool (*add_rows)(const Plan&, int64_t begin, int64_t end, int64_t slot_begin, int64_t slot_end, void* sums,
                   char* scratch);
  void (*add_sums)(const Plan&, const void* from, int64_t n, void* to);
  void (*store_bucket)(const Plan&, const void* sums, int64_t begin, int64_t end, void* out);
  void (*update_bucket)(const Plan&, const robe_update&, void* sums, int64_t begin, int64_t end, uint64_t* touched);
  bool (*dot)(const Plan&, int64_t begin, int64_t end, const void* dense, void* out, char* scratch);
  bool (*dot_backward)(const Plan&, int64_t begin, int64_t end, const void* dense, void* grad_dense, void* grad_rows,
                       char* scratch);
  void (*attend)(const Attention&, int64_t begin, int64_t end, float* scratch);
  void (*attend_backward)(const Attention&, int64_t begin, int64_t end, float* scratch);
};

extern const Kernels kernels_generic, kernels_avx2, kernels_avx512;

// Bytes of scratch that a thread needs: the ring of chunk starts, then rows of accumulators.
static inline int64_t ring_bytes(const Plan& p) { return (p.ahead * p.max_chunks * 8 + 63) / 64 * 64; }

}  // namespace robe
