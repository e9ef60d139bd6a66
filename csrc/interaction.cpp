// Lookup fused with DLRM's dot interaction: the embeddings of a sample stay in the first-level cache.
//
// Compiled with contraction of multiplications and additions, unlike the lookup, which must round as the reference does.

#include "lanes.h"
#include "rows.h"

#if defined(__AVX512F__)
#include "interaction_avx512.h"
#endif

#define ROBE_JOIN_(a, b) a##b
#define ROBE_JOIN(a, b) ROBE_JOIN_(a, b)

namespace robe {

bool ROBE_JOIN(dot_, ROBE_ISA)(const Plan&, int64_t, int64_t, const void*, void*, char*);
bool ROBE_JOIN(dot_backward_, ROBE_ISA)(const Plan&, int64_t, int64_t, const void*, void*, void*, char*);

namespace {

// out[r][:] = sum over d of weights[r][d] columns[d][:] for 4 rows r and kLanes columns: the inner loop of forward and
// backward. The four sums are named, so that every compiler keeps them in registers.
ROBE_INLINE void multiply4(const float* weights, int64_t weight_stride, const float* columns, int64_t column_stride,
                           int64_t count, float* out, int64_t out_stride) {
  Lanes sum0 = {}, sum1 = {}, sum2 = {}, sum3 = {};
  const float *w0 = weights, *w1 = w0 + weight_stride, *w2 = w1 + weight_stride, *w3 = w2 + weight_stride;
  for (int64_t d = 0; d < count; d++) {
    const Lanes column = load(columns + d * column_stride);
    sum0 += w0[d] * column;
    sum1 += w1[d] * column;
    sum2 += w2[d] * column;
    sum3 += w3[d] * column;
  }
  store(out, sum0), store(out + out_stride, sum1), store(out + 2 * out_stride, sum2), store(out + 3 * out_stride, sum3);
}

inline void copy_floats(float* to, const float* from, int64_t n) {  // faster than a call for a few vectors
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, load(from + i));
  for (; i < n; i++) to[i] = from[i];
}

// Calls consume(b, rows) with the vectors of each sample, [G, padded D].
// kOneVector: rows are segments of one vector each.
template <bool kOneVector, class Consume>
inline bool for_each_sample_as(const Plan& p, int64_t begin, int64_t end, const float* dense, float* rows, char* scratch,
                               Consume consume) {
  const int64_t dim = p.max_dim, stride = padded(dim), extra = dense != nullptr, num_fields = p.num_fields;
  int64_t f = 0, b = begin;
  auto next = [&] {
    if (++f < num_fields) return;
    if (dense) copy_floats(rows, dense + b * dim, dim);
    consume(b, rows);
    f = 0, b++;
  };
  if (p.plain && p.uniform && p.segment % kLanes == 0 && !p.sign) {
    const int64_t segment = kOneVector ? kLanes : p.segment, chunks = kOneVector ? 1 : p.max_chunks, limit = p.slots_hashed;
    const float* array = (const float*)p.array;
    return for_each_plain<kOneVector, kOneVector ? int(kLanes) * 4 : 0, true>(
        p, begin * num_fields, end * num_fields, p.array, 4, scratch, [&](int64_t, const int64_t* starts) {
          float* to = rows + (f + extra) * stride;
          for (int64_t c = 0; c < chunks; c++, to += segment) {
            const int64_t start = starts[c * kGroup];
            if (__builtin_expect(start + segment <= limit, 1)) {
              for (int64_t i = 0; i < segment; i += kLanes) store(to + i, load(array + start + i));
            } else {
              memcpy(to, array + start, (limit - start) * 4);
              memcpy(to + limit - start, array, (segment - (limit - start)) * 4);
            }
          }
          next();
        });
  }
  return for_each_id<false, true>(p, begin * num_fields, end * num_fields, scratch,
                                  [&](int64_t n, const Field& field, const int64_t* starts) {
                                    read_row<float>(p, field, p.ids[n], starts, rows + (f + extra) * stride);
                                    next();
                                  });
}

template <class Consume>
inline bool for_each_sample(const Plan& p, int64_t begin, int64_t end, const float* dense, float* rows, char* scratch,
                            Consume consume) {
  return p.max_chunks == 1 && p.segment == kLanes
             ? for_each_sample_as<true>(p, begin, end, dense, rows, scratch, consume)
             : for_each_sample_as<false>(p, begin, end, dense, rows, scratch, consume);
}

}  // namespace

bool ROBE_JOIN(dot_, ROBE_ISA)(const Plan& p, int64_t begin, int64_t end, const void* dense, void* out, char* scratch) {
  const int64_t dim = p.max_dim, stride = padded(dim), extra = dense != nullptr, count = p.num_fields + extra;
  const int64_t wide = padded(count), pairs = count * (count - 1) / 2, row_out = extra * dim + pairs;
  float* rows = (float*)(scratch + ring_bytes(p));
  float* transposed = rows + padded(count) * stride;
  float* square = transposed + stride * wide;  // [4, wide]
  float* products = square + 4 * wide;      // [pairs], and a vector's overhang
  memset(rows, 0, padded(count) * stride * 4);
  memset(transposed, 0, stride * wide * 4);
  auto consume = [&](int64_t b, const float* sample) {
#if defined(__AVX512F__)
    if (count <= kMostVectors) {
      float* to = (float*)out + b * row_out;
      prefetch_store(to, row_out * 4);
      multiply_pairs(sample, stride, count, dim, transposed, products);
      if (dense) copy_floats(to, sample, dim);
      // Whole lines, which stores of products would split.
      if (pairs) memcpy(to + extra * dim, products, pairs * 4);
      return;
    }
#endif
    transpose(sample, stride, (count + 3) / 4 * 4, (dim + 3) / 4 * 4, transposed, wide);  // rows are padded with zeros
    float* to = (float*)out + b * row_out;
    if (dense) memcpy(to, sample, dim * 4);
    float* next = products;
    for (int64_t i = 0; i < count; i += 4) {  // pairs with j < i: vectors of lanes up to the last row's
      for (int64_t j = 0; j < i + 3 && j < count; j += kLanes)
        multiply4(sample + i * stride, stride, transposed + j, wide, dim, square + j, wide);
      for (int64_t r = i; r < i + 4 && r < count; r++, next += r - 1) {  // r products; the next row covers the overhang
        for (int64_t j = 0; j < r; j += kLanes) store(next + j, load(square + (r - i) * wide + j));
      }
    }
    prefetch_store(to, row_out * 4);
    if (pairs) memcpy(to + extra * dim, products, pairs * 4);
  };
  return for_each_sample(p, begin, end, (const float*)dense, rows, scratch, consume);
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
  auto consume = [&](int64_t b, const float* sample) {
    const float* from = (const float*)p.grad + b * row_out;
    const float* pair = from + extra * dim;
    prefetch_load(from, row_out * 4);
#if defined(__AVX512F__)
    if (count <= kMostVectors) {
      float *to_dense = (float*)grad_dense + b * dim, *to_rows = (float*)grad_rows + b * p.width;
      make_symmetric(pair, count, symmetric);
      prefetch_store(to_rows, p.width * 4);
      for (int64_t i = 0; i < count; i += 8) {
        multiply_square(symmetric, sample, stride, count, dim, i,
                        [&](int64_t g, int64_t d, __mmask16 lanes, __m512 values) ROBE_INLINE_LAMBDA {
                          if (g < extra) {
                            values = _mm512_add_ps(values, _mm512_maskz_loadu_ps(lanes, from + d));
                            _mm512_mask_storeu_ps(to_dense + d, lanes, values);
                          } else {
                            _mm512_mask_storeu_ps(to_rows + (g - extra) * dim + d, lanes, values);
                          }
                        });
      }
      return;
    }
#endif
    for (int64_t i = 1; i < count; i++) {
      for (int64_t j = 0; j < i; j++) symmetric[i * wide + j] = symmetric[j * wide + i] = *pair++;
    }
    for (int64_t i = 0; i < count; i += 4) {
      for (int64_t d = 0; d < dim; d += kLanes)
        multiply4(symmetric + i * wide, wide, sample + d, stride, count, result + i * stride + d, stride);
    }
    if (dense) {
      float* to = (float*)grad_dense + b * dim;
      for (int64_t d = 0; d < dim; d++) to[d] = result[d] + from[d];
    }
    prefetch_store((float*)grad_rows + b * p.width, p.width * 4);
    for (int64_t f = 0; f < p.num_fields; f++)
      memcpy((float*)grad_rows + b * p.width + p.fields[f].column, result + (f + extra) * stride, dim * 4);
  };
  return for_each_sample(p, begin, end, (const float*)dense, rows, scratch, consume);
}

}  // namespace robe
