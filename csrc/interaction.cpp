// Lookup fused with DLRM's dot interaction: the embeddings of a sample stay in the first-level cache.
//
// Compiled with contraction of multiplications and additions, unlike the lookup, which must round as the reference does.

#include "rows.h"

#define ROBE_JOIN_(a, b) a##b
#define ROBE_JOIN(a, b) ROBE_JOIN_(a, b)

namespace robe {

bool ROBE_JOIN(dot_, ROBE_ISA)(const Plan&, int64_t, int64_t, const void*, void*, char*);
bool ROBE_JOIN(dot_backward_, ROBE_ISA)(const Plan&, int64_t, int64_t, const void*, void*, void*, char*);

namespace {

constexpr int64_t kLanes = 16;  // a vector of the widest instruction set; narrower ones take two or four

typedef float Lanes __attribute__((vector_size(kLanes * 4)));
typedef float LooseLanes __attribute__((vector_size(kLanes * 4), aligned(4)));

inline int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

inline Lanes load(const float* at) { return *(const LooseLanes*)at; }
inline void store(float* at, Lanes x) { *(LooseLanes*)at = x; }

// The vectors of one sample, [G, D]: the dense one first.
struct Sample {
  float* rows;       // [G, padded D]
  float* transposed; // [D, padded G]
};

// out[i] = rows[i] . rows[j] for kRows consecutive i and all j of a vector of lanes.
template <int kRows>
inline void products(const float* rows, int64_t row_stride, const float* transposed, int64_t stride, int64_t dim,
                     float* out, int64_t out_stride) {
  Lanes sum[kRows] = {};
  for (int64_t d = 0; d < dim; d++) {
    Lanes column = load(transposed + d * stride);
    for (int r = 0; r < kRows; r++) sum[r] += rows[r * row_stride + d] * column;
  }
  for (int r = 0; r < kRows; r++) store(out + r * out_stride, sum[r]);
}

// out[r][:] (+)= sum over j of weights[r][j] rows[j][:], for kRows rows and one vector of lanes of D.
template <int kRows>
inline void combine(const float* weights, int64_t weight_stride, const float* rows, int64_t row_stride, int64_t count,
                    float* out, int64_t out_stride) {
  Lanes sum[kRows] = {};
  for (int64_t j = 0; j < count; j++) {
    Lanes row = load(rows + j * row_stride);
    for (int r = 0; r < kRows; r++) sum[r] += weights[r * weight_stride + j] * row;
  }
  for (int r = 0; r < kRows; r++) store(out + r * out_stride, sum[r]);
}

// Calls consume(b, rows) with the vectors of each sample, [G, padded D].
template <class Consume>
inline bool for_each_sample(const Plan& p, int64_t begin, int64_t end, const float* dense, float* rows, char* scratch,
                            Consume consume) {
  const int64_t dim = p.max_dim, stride = padded(dim), extra = dense != nullptr;
  int64_t f = 0, b = begin;
  auto take = [&](int64_t n, const Field& field, const int64_t* starts) {
    read_row<float>(p, field, p.ids[n], starts, rows + (f + extra) * stride);
    if (++f < p.num_fields) return;
    if (dense) memcpy(rows, dense + b * dim, dim * 4);
    consume(b, rows);
    f = 0, b++;
  };
  return for_each_id<false, true>(p, AnyRow{p}, begin * p.num_fields, end * p.num_fields, scratch, take);
}

}  // namespace

bool ROBE_JOIN(dot_, ROBE_ISA)(const Plan& p, int64_t begin, int64_t end, const void* dense, void* out, char* scratch) {
  const int64_t dim = p.max_dim, stride = padded(dim), extra = dense != nullptr, count = p.num_fields + extra;
  const int64_t wide = padded(count), pairs = count * (count - 1) / 2, row_out = extra * dim + pairs;
  float* rows = (float*)(scratch + ring_bytes(p));
  float* transposed = rows + padded(count) * stride;
  float* square = transposed + dim * wide;  // [count rounded up to 4, wide]
  memset(rows, 0, padded(count) * stride * 4);
  memset(transposed, 0, dim * wide * 4);
  return for_each_sample(p, begin, end, (const float*)dense, rows, scratch, [&](int64_t b, const float* sample) {
    for (int64_t g = 0; g < count; g++) {
      for (int64_t d = 0; d < dim; d++) transposed[d * wide + g] = sample[g * stride + d];
    }
    float* to = (float*)out + b * row_out;
    if (dense) memcpy(to, sample, dim * 4);
    to += extra * dim;
    for (int64_t i = 0; i < count; i += 4) {  // pairs with j < i: vectors of lanes up to the last row's
      for (int64_t j = 0; j < i + 3 && j < count; j += kLanes)
        products<4>(sample + i * stride, stride, transposed + j, wide, dim, square + j, wide);
      for (int64_t r = i; r < i + 4 && r < count; r++, to += r - 1) memcpy(to, square + (r - i) * wide, r * 4);
    }
  });
}

bool ROBE_JOIN(dot_backward_, ROBE_ISA)(const Plan& p, int64_t begin, int64_t end, const void* dense, void* grad_dense,
                                        void* grad_rows, char* scratch) {
  const int64_t dim = p.max_dim, stride = padded(dim), extra = dense != nullptr, count = p.num_fields + extra;
  const int64_t wide = padded(count), pairs = count * (count - 1) / 2, row_out = extra * dim + pairs;
  float* rows = (float*)(scratch + ring_bytes(p));
  float* symmetric = rows + padded(count) * stride;  // [count rounded up to 4, wide]
  float* result = symmetric + padded(count) * wide;  // [count rounded up to 4, stride]
  memset(rows, 0, padded(count) * stride * 4);
  memset(symmetric, 0, padded(count) * wide * 4);
  return for_each_sample(p, begin, end, (const float*)dense, rows, scratch, [&](int64_t b, const float* sample) {
    const float* from = (const float*)p.grad + b * row_out;
    const float* pair = from + extra * dim;
    for (int64_t i = 1; i < count; i++) {
      for (int64_t j = 0; j < i; j++) symmetric[i * wide + j] = symmetric[j * wide + i] = *pair++;
    }
    for (int64_t i = 0; i < count; i += 4) {
      for (int64_t d = 0; d < dim; d += kLanes)
        combine<4>(symmetric + i * wide, wide, sample + d, stride, count, result + i * stride + d, stride);
    }
    if (dense) {
      float* to = (float*)grad_dense + b * dim;
      for (int64_t d = 0; d < dim; d++) to[d] = result[d] + from[d];
    }
    for (int64_t f = 0; f < p.num_fields; f++)
      memcpy((float*)grad_rows + b * p.width + p.fields[f].column, result + (f + extra) * stride, dim * 4);
  });
}

}  // namespace robe
