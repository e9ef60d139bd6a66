// The interaction of up to 32 vectors with registers of 16 floats: products of all pairs, and their derivative.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "rows.h"

namespace robe {
namespace {  // internal linkage: see hash.h

constexpr int64_t kMostVectors = 32;

#define ROBE_UNROLL _Pragma("GCC unroll 16")  // arrays of vectors live in registers only if every index is known

inline __mmask16 first_lanes(int64_t n) { return n >= 16 ? 0xFFFF : n <= 0 ? 0 : __mmask16((1u << n) - 1); }

// r[i] lane j <-> r[j] lane i.
ROBE_INLINE void transpose16(__m512* r) {
  __m512 t[16];
  ROBE_UNROLL for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  ROBE_UNROLL for (int i = 0; i < 16; i += 4) {
    const __m512d a = _mm512_castps_pd(t[i]), b = _mm512_castps_pd(t[i + 1]), c = _mm512_castps_pd(t[i + 2]),
                  d = _mm512_castps_pd(t[i + 3]);
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  ROBE_UNROLL for (int i = 0; i < 4; i++) {  // 4 x 4 blocks are done; now these among each other
    t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xDD);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xDD);
  }
  ROBE_UNROLL for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xDD);
    r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xDD);
  }
}

// out: products (1, 0), (2, 0), (2, 1), ... of `count` vectors, [count rounded up to 16, stride] with zeros beyond D.
// `columns`: room for [stride, count rounded up to 16].
inline void multiply_pairs(const float* vectors, int64_t stride, int64_t count, int64_t dim, float* columns, float* out) {
  const int64_t wide = count > 16 ? 32 : 16;
  for (int64_t d = 0; d < stride; d += 16) {
    for (int64_t g = 0; g < wide; g += 16) {
      __m512 block[16];
      ROBE_UNROLL for (int i = 0; i < 16; i++) block[i] = _mm512_loadu_ps(vectors + (g + i) * stride + d);
      transpose16(block);
      ROBE_UNROLL for (int i = 0; i < 16; i++) _mm512_storeu_ps(columns + (d + i) * wide + g, block[i]);
    }
  }
  for (int64_t i = 0; i < smaller(count, 16); i += 8) {
    __m512 sum[8] = {};
    const float* at = vectors + i * stride;
    for (int64_t d = 0; d < dim; d++) {
      const __m512 column = _mm512_loadu_ps(columns + d * wide);
      ROBE_UNROLL for (int k = 0; k < 8; k++) sum[k] = _mm512_fmadd_ps(_mm512_set1_ps(at[k * stride + d]), column, sum[k]);
    }
    ROBE_UNROLL for (int k = 0; k < 8; k++) {
      const int64_t r = i + k;
      if (r < count) _mm512_mask_storeu_ps(out + r * (r - 1) / 2, first_lanes(r), sum[k]);
    }
  }
  for (int64_t i = 16; i < count; i += 4) {
    __m512 low[4] = {}, high[4] = {};
    const float* at = vectors + i * stride;
    for (int64_t d = 0; d < dim; d++) {
      const __m512 column0 = _mm512_loadu_ps(columns + d * wide), column1 = _mm512_loadu_ps(columns + d * wide + 16);
      ROBE_UNROLL for (int k = 0; k < 4; k++) {
        const __m512 x = _mm512_set1_ps(at[k * stride + d]);
        low[k] = _mm512_fmadd_ps(x, column0, low[k]);
        high[k] = _mm512_fmadd_ps(x, column1, high[k]);
      }
    }
    ROBE_UNROLL for (int k = 0; k < 4; k++) {
      const int64_t r = i + k;
      if (r >= count) break;
      float* to = out + r * (r - 1) / 2;
      _mm512_storeu_ps(to, low[k]);
      _mm512_mask_storeu_ps(to + 16, first_lanes(r - 16), high[k]);
    }
  }
}

// square: the gradients of the products as a symmetric matrix with zeros on its diagonal, [wide, wide].
inline void make_symmetric(const float* pairs, int64_t count, float* square) {
  const int64_t wide = count > 16 ? 32 : 16;
  for (int64_t bi = 0; bi < wide; bi += 16) {
    for (int64_t bj = 0; bj <= bi; bj += 16) {
      __m512 block[16], turned[16];
      ROBE_UNROLL for (int i = 0; i < 16; i++) {
        const int64_t r = bi + i;
        block[i] = _mm512_maskz_loadu_ps(r < count ? first_lanes(r - bj) : 0, pairs + r * (r - 1) / 2 + bj);
        turned[i] = block[i];
      }
      transpose16(turned);
      ROBE_UNROLL for (int i = 0; i < 16; i++) {
        if (bi == bj) {
          _mm512_storeu_ps(square + (bi + i) * wide + bj, _mm512_add_ps(block[i], turned[i]));
        } else {
          _mm512_storeu_ps(square + (bi + i) * wide + bj, block[i]);
          _mm512_storeu_ps(square + (bj + i) * wide + bi, turned[i]);
        }
      }
    }
  }
}

// Gradients of 8 vectors from `first`: rows of square x vectors. store(k, d, lanes, values) takes 16 elements of each.
template <class Store>
ROBE_INLINE void multiply_square(const float* square, const float* vectors, int64_t stride, int64_t count, int64_t dim,
                                 int64_t first, Store store) {
  const int64_t wide = count > 16 ? 32 : 16;
  const float* at = square + first * wide;
  for (int64_t d = 0; d < dim; d += 16) {
    __m512 sum[8] = {};
    for (int64_t j = 0; j < count; j++) {
      const __m512 vector = _mm512_loadu_ps(vectors + j * stride + d);
      ROBE_UNROLL for (int k = 0; k < 8; k++) sum[k] = _mm512_fmadd_ps(_mm512_set1_ps(at[k * wide + j]), vector, sum[k]);
    }
    ROBE_UNROLL for (int k = 0; k < 8; k++) {
      if (first + k < count) store(first + k, d, first_lanes(dim - d), sum[k]);
    }
  }
}

}  // namespace
}  // namespace robe
