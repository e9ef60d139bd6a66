// Vectors of floats as wide as the instruction set has them, in the compiler's own notation.
#pragma once

#include <stdint.h>

#include "rows.h"

namespace robe {
namespace {  // internal linkage: see hash.h

#if defined(__AVX512F__)
constexpr int64_t kLanes = 16;
#elif defined(__AVX2__)
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 4;
#endif

typedef float Lanes __attribute__((vector_size(kLanes * 4)));
typedef float LooseLanes __attribute__((vector_size(kLanes * 4), aligned(4)));

inline int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

inline Lanes load(const float* at) { return *(const LooseLanes*)at; }
inline void store(float* at, Lanes x) { *(LooseLanes*)at = x; }

// to[d][g] = from[g][d], four by four.
inline void transpose(const float* from, int64_t from_stride, int64_t count, int64_t dim, float* to, int64_t to_stride) {
  int64_t whole_rows = 0, whole_columns = 0;
#if defined(__SSE2__)
  whole_rows = count / 4 * 4, whole_columns = dim / 4 * 4;
  for (int64_t g = 0; g < whole_rows; g += 4) {
    for (int64_t d = 0; d < whole_columns; d += 4) {
      const float* at = from + g * from_stride + d;
      __m128 a = _mm_loadu_ps(at), b = _mm_loadu_ps(at + from_stride), c = _mm_loadu_ps(at + 2 * from_stride),
             e = _mm_loadu_ps(at + 3 * from_stride);
      _MM_TRANSPOSE4_PS(a, b, c, e);
      float* out = to + d * to_stride + g;
      _mm_storeu_ps(out, a), _mm_storeu_ps(out + to_stride, b);
      _mm_storeu_ps(out + 2 * to_stride, c), _mm_storeu_ps(out + 3 * to_stride, e);
    }
  }
#endif
  for (int64_t g = 0; g < count; g++) {
    for (int64_t d = g < whole_rows ? whole_columns : 0; d < dim; d++) to[d * to_stride + g] = from[g * from_stride + d];
  }
}

}  // namespace
}  // namespace robe
