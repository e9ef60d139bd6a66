// Self-attention among few small vectors: relu(softmax(Q K^T) V + R), as AutoInt has it, and its derivative.
//
// Scores lie with the keys as rows and the queries as lanes, so that maxima and sums of the softmax are those of whole
// vectors. Everything of a sample and head stays in the first-level cache; the backward computes the scores again.
// Compiled with contraction of multiplications and additions, like the interaction.

#include <string.h>

#include "lanes.h"
#include "plan.h"

#define ROBE_JOIN_(a, b) a##b
#define ROBE_JOIN(a, b) ROBE_JOIN_(a, b)

namespace robe {

void ROBE_JOIN(attend_, ROBE_ISA)(const Attention&, int64_t, int64_t, float*);
void ROBE_JOIN(attend_backward_, ROBE_ISA)(const Attention&, int64_t, int64_t, float*);

namespace {

#define ROBE_UNROLL4 _Pragma("GCC unroll 4")  // arrays of vectors live in registers only if every index is known

template <int64_t kWidth>
struct Vector {
  typedef float Type __attribute__((vector_size(kWidth * 4)));
  typedef float Loose __attribute__((vector_size(kWidth * 4), aligned(4)));
};
template <>
struct Vector<1> {
  typedef float Type, Loose;
};

// Factors of a product: weight (r, k) stands at data[r * row + k * step].
struct Weights {
  const float* data;
  int64_t row, step;
};

// out[r][:] = sum over k of weights (r, k) * columns[k][:] for kRows rows r and kVectors vectors of kWidth lanes.
template <int64_t kWidth, int kRows, int kVectors>
ROBE_INLINE void multiply_tile(Weights w, const float* columns, int64_t column_stride, int64_t count, float* out,
                               int64_t out_stride) {
  typedef typename Vector<kWidth>::Type V;
  typedef typename Vector<kWidth>::Loose Loose;
  V sums[kRows][kVectors] = {};
  for (int64_t k = 0; k < count; k++) {
    V column[kVectors];
    ROBE_UNROLL4 for (int v = 0; v < kVectors; v++) column[v] = *(const Loose*)(columns + k * column_stride + v * kWidth);
    ROBE_UNROLL4 for (int r = 0; r < kRows; r++) {
      const float weight = w.data[r * w.row + k * w.step];
      ROBE_UNROLL4 for (int v = 0; v < kVectors; v++) sums[r][v] += weight * column[v];
    }
  }
  ROBE_UNROLL4 for (int r = 0; r < kRows; r++) {
    ROBE_UNROLL4 for (int v = 0; v < kVectors; v++) *(Loose*)(out + r * out_stride + v * kWidth) = sums[r][v];
  }
}

template <int64_t kWidth, int kVectors>
ROBE_INLINE void multiply_rows(Weights w, int64_t rows, const float* columns, int64_t column_stride, int64_t count,
                               float* out, int64_t out_stride) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    multiply_tile<kWidth, 4, kVectors>({w.data + r * w.row, w.row, w.step}, columns, column_stride, count,
                                       out + r * out_stride, out_stride);
  }
  for (; r < rows; r++) {
    multiply_tile<kWidth, 1, kVectors>({w.data + r * w.row, w.row, w.step}, columns, column_stride, count,
                                       out + r * out_stride, out_stride);
  }
}

// The same for any number of rows and `lanes` of them, a multiple of kWidth.
template <int64_t kWidth>
ROBE_INLINE void multiply(Weights w, int64_t rows, const float* columns, int64_t column_stride, int64_t count,
                          int64_t lanes, float* out, int64_t out_stride) {
  int64_t i = 0;
  for (; i + 2 * kWidth <= lanes; i += 2 * kWidth)
    multiply_rows<kWidth, 2>(w, rows, columns + i, column_stride, count, out + i, out_stride);
  for (; i < lanes; i += kWidth)
    multiply_rows<kWidth, 1>(w, rows, columns + i, column_stride, count, out + i, out_stride);
}

// As wide vectors as divide `lanes`.
inline void multiply_any(Weights w, int64_t rows, const float* columns, int64_t column_stride, int64_t count,
                         int64_t lanes, float* out, int64_t out_stride) {
  if (kLanes >= 16 && lanes % 16 == 0) return multiply<16>(w, rows, columns, column_stride, count, lanes, out, out_stride);
  if (kLanes >= 8 && lanes % 8 == 0) return multiply<8>(w, rows, columns, column_stride, count, lanes, out, out_stride);
  if (lanes % 4 == 0) return multiply<4>(w, rows, columns, column_stride, count, lanes, out, out_stride);
  multiply<1>(w, rows, columns, column_stride, count, lanes, out, out_stride);
}

typedef int32_t Integers __attribute__((vector_size(kLanes * 4)));

inline Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }

// e^x for x <= 0, to two units in the last place; below -87, where it is less than 2^-125, e^-87. NaN stays.
inline Lanes exponential(Lanes x) {
  const Lanes given = x;
  x = larger(x, Lanes{} - 87.0f);
  const float round = 12582912.0f;  // 1.5 * 2^23: what is added to it loses its fraction
  const Lanes rounded = x * 1.44269504f + round;
  const Lanes n = rounded - round;
  const Lanes f = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // x - n ln 2, ln 2 in two parts
  Lanes sum = Lanes{} + 1.9841270e-4f;                          // 1 / 7!, then up to 1 / 0!
  sum = sum * f + 1.3888889e-3f;
  sum = sum * f + 8.3333333e-3f;
  sum = sum * f + 4.1666667e-2f;
  sum = sum * f + 0.16666667f;
  sum = sum * f + 0.5f;
  sum = sum * f + 1.0f;
  sum = sum * f + 1.0f;
  const Integers exponent = ((Integers)rounded - 0x4B400000) << 23;
  return given == given ? (Lanes)((Integers)sum + exponent) : given;
}

// Softmax over the rows of scores [count, wide], lane by lane.
inline void softmax(float* scores, int64_t count, int64_t wide) {
  for (int64_t i = 0; i < wide; i += kLanes) {
    Lanes most = load(scores + i), sum = {};
    for (int64_t j = 1; j < count; j++) most = larger(load(scores + j * wide + i), most);
    for (int64_t j = 0; j < count; j++) {
      const Lanes power = exponential(load(scores + j * wide + i) - most);
      sum += power;
      store(scores + j * wide + i, power);
    }
    const Lanes scale = 1.0f / sum;
    for (int64_t j = 0; j < count; j++) store(scores + j * wide + i, load(scores + j * wide + i) * scale);
  }
}

// scores [F, wide]: for key j and query i the share of value j in output i.
inline void shares(const Attention& a, const float* keys, const float* queries, int64_t wide, float* scores) {
  multiply<kLanes>({keys, a.width, 1}, a.count, queries, wide, a.head_dim, wide, scores, wide);
  softmax(scores, a.count, wide);
}

}  // namespace

void ROBE_JOIN(attend_, ROBE_ISA)(const Attention& a, int64_t begin, int64_t end, float* scratch) {
  const int64_t wide = padded(a.count), dim = a.head_dim, outputs = a.num_heads * dim;
  float* queries = scratch;                      // [outputs, wide]
  float* attended = queries + outputs * wide;    // [outputs, wide]
  float* scores = attended + outputs * wide;     // [F, wide]
  memset(queries, 0, outputs * wide * 4);
  for (int64_t b = begin; b < end; b++) {
    const float* parts = a.parts + b * a.count * a.width;
    float* out = a.out + b * a.count * outputs;
    transpose(parts, a.width, a.count, outputs, queries, wide);
    for (int64_t h = 0; h < a.num_heads; h++) {
      shares(a, parts + outputs + h * dim, queries + h * dim * wide, wide, scores);
      multiply<kLanes>({parts + 2 * outputs + h * dim, 1, a.width}, dim, scores, wide, a.count, wide,
                       attended + h * dim * wide, wide);
    }
    transpose(attended, wide, outputs, a.count, out, outputs);
    const float* residual = parts + 3 * outputs;
    for (int64_t i = 0; i < a.count; i++) {
      for (int64_t d = 0; d < outputs; d++) {
        const float sum = out[i * outputs + d] + (a.residual ? residual[i * a.width + d] : 0.0f);
        out[i * outputs + d] = sum < 0 ? 0.0f : sum;  // NaN stays
      }
    }
  }
}

void ROBE_JOIN(attend_backward_, ROBE_ISA)(const Attention& a, int64_t begin, int64_t end, float* scratch) {
  const int64_t wide = padded(a.count), dim = a.head_dim, outputs = a.num_heads * dim;
  float* queries = scratch;                       // [outputs, wide]
  float* grads = queries + outputs * wide;        // of what was attended, [outputs, wide]
  float* grad_queries = grads + outputs * wide;   // [outputs, wide]
  float* scores = grad_queries + outputs * wide;  // [F, wide]
  float* grad_scores = scores + a.count * wide;   // [F, wide]
  float* masked = grad_scores + a.count * wide;   // [F, outputs]
  memset(queries, 0, 2 * outputs * wide * 4);
  for (int64_t b = begin; b < end; b++) {
    const float* parts = a.parts + b * a.count * a.width;
    float* to = a.grad_parts + b * a.count * a.width;
    const float *out = a.out + b * a.count * outputs, *grad = a.grad + b * a.count * outputs;
    for (int64_t i = 0; i < a.count * outputs; i++) masked[i] = out[i] <= 0 ? 0.0f : grad[i];
    if (a.residual) {
      for (int64_t i = 0; i < a.count; i++) memcpy(to + i * a.width + 3 * outputs, masked + i * outputs, outputs * 4);
    }
    transpose(parts, a.width, a.count, outputs, queries, wide);
    transpose(masked, outputs, a.count, outputs, grads, wide);
    for (int64_t h = 0; h < a.num_heads; h++) {
      const float *key = parts + outputs + h * dim, *value = key + outputs;
      float *grad_key = to + outputs + h * dim, *grad_value = grad_key + outputs;
      shares(a, key, queries + h * dim * wide, wide, scores);
      multiply<kLanes>({value, a.width, 1}, a.count, grads + h * dim * wide, wide, dim, wide, grad_scores, wide);
      multiply_any({scores, wide, 1}, a.count, masked + h * dim, outputs, a.count, dim, grad_value, a.width);
      for (int64_t i = 0; i < wide; i += kLanes) {
        Lanes mean = {};
        for (int64_t j = 0; j < a.count; j++) mean += load(scores + j * wide + i) * load(grad_scores + j * wide + i);
        for (int64_t j = 0; j < a.count; j++) {
          float* at = grad_scores + j * wide + i;
          store(at, load(scores + j * wide + i) * (load(at) - mean));
        }
      }
      multiply<kLanes>({key, 1, a.width}, dim, grad_scores, wide, a.count, wide, grad_queries + h * dim * wide, wide);
      multiply_any({grad_scores, wide, 1}, a.count, parts + h * dim, a.width, a.count, dim, grad_key, a.width);
    }
    transpose(grad_queries, wide, outputs, a.count, to, a.width);
  }
}

}  // namespace robe
