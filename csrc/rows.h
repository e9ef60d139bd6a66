// Finding and reading rows: shared by the kernels, and compiled for one instruction set in each translation unit.
#pragma once

#include <stdint.h>
#include <string.h>

#include "plan.h"

#if defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#endif

#define ROBE_INLINE inline __attribute__((always_inline))
#define ROBE_INLINE_LAMBDA __attribute__((always_inline))

namespace robe {
namespace {  // internal linkage: see hash.h

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// Sums are kept in float32, in float64 for float64.
template <class T>
struct AccumulatorOf {
  typedef float type;
};
template <>
struct AccumulatorOf<double> {
  typedef double type;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

inline float bits_to_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t float_to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(bfloat16 x) { return bits_to_float(uint32_t(x.bits) << 16); }
inline float widen(float16 x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#else
  uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7FFF;
  if (magnitude >= 0x7C00) return bits_to_float(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);
  // Shifted into place the exponent is 112 too small; the multiplication also normalises subnormal numbers.
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * bits_to_float(0x77800000)));
#endif
}

template <class T>
inline T narrow(Accumulator<T> x);
template <>
inline float narrow<float>(float x) {
  return x;
}
template <>
inline double narrow<double>(double x) {
  return x;
}
template <>
inline bfloat16 narrow<bfloat16>(float x) {
  uint32_t bits = float_to_bits(x);
  if (x != x) return {0x7FC0};
  return {uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};  // to nearest, ties to even
}
template <>
inline float16 narrow<float16>(float x) {
#if defined(__F16C__)
  return {uint16_t(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT))};
#else
  uint32_t bits = float_to_bits(x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return {uint16_t(sign | 0x7E00)};
  if (magnitude >= 0x47800000) return {uint16_t(sign | 0x7C00)};
  if (magnitude < 0x38800000) {
    // Subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
    float shifted = bits_to_float(magnitude) + 0.5f;
    return {uint16_t(sign | (float_to_bits(shifted) - 0x3F000000))};
  }
  uint32_t rounded = magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1);
  return {uint16_t(sign | rounded >> 13)};
#endif
}

template <class T>
inline void widen_to(const T* from, int64_t n, Accumulator<T>* to) {
  for (int64_t i = 0; i < n; i++) to[i] = widen(from[i]);
}
#if defined(__F16C__)
template <>
inline void widen_to<float16>(const float16* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
  for (; i < n; i++) to[i] = widen(from[i]);
}
#endif
template <class T>
inline void narrow_to(const Accumulator<T>* from, int64_t n, T* to) {
  for (int64_t i = 0; i < n; i++) to[i] = narrow<T>(from[i]);
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

constexpr int kScaleShift = 6;  // of robe.quantization

// Slots `from` to `from + n` of an int8 array: formula (15). As many at once as a vector has lanes: these have at most
// two scales.
ROBE_INLINE void widen_scaled(const int8_t* slots, const float* scales, int64_t from, int64_t n, float* to) {
  [[maybe_unused]] const auto before_next = [](int64_t slot) ROBE_INLINE_LAMBDA {
    return (1 << kScaleShift) - int(slot & ((1 << kScaleShift) - 1));
  };
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (; n > 0; n -= 16, from += 16, to += 16) {
    const int64_t count = smaller(n, 16);
    const __mmask16 active = __mmask16((1 << count) - 1);
    const __mmask16 next = _mm512_cmpge_epi32_mask(lanes, _mm512_set1_epi32(before_next(from)));
    const __m512 scale = _mm512_mask_blend_ps(next, _mm512_set1_ps(scales[from >> kScaleShift]),
                                              _mm512_set1_ps(scales[(from + count - 1) >> kScaleShift]));
    const __m512i slot = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(active, slots + from));
    _mm512_mask_storeu_ps(to, active, _mm512_mul_ps(_mm512_cvtepi32_ps(slot), scale));
  }
#elif defined(__AVX2__)
  const __m256i lanes = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
  for (; n >= 8; n -= 8, from += 8, to += 8) {
    const __m256i first = _mm256_cmpgt_epi32(_mm256_set1_epi32(before_next(from)), lanes);
    const __m256 scale = _mm256_blendv_ps(_mm256_set1_ps(scales[(from + 7) >> kScaleShift]),
                                          _mm256_set1_ps(scales[from >> kScaleShift]), _mm256_castsi256_ps(first));
    const __m256i slot = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(slots + from)));
    _mm256_storeu_ps(to, _mm256_mul_ps(_mm256_cvtepi32_ps(slot), scale));
  }
#endif
  for (; n > 0; n--, from++, to++) *to = float(slots[from]) * scales[from >> kScaleShift];
}

// Asks for the lines of what is written or read in order well before its turn: processors do so by themselves only up to
// the end of a page. May go beyond the end of the buffer: a prefetch never faults.
ROBE_INLINE void prefetch_store(const void* to, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)to + 1536 + i, 1);
}
ROBE_INLINE void prefetch_load(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)from + 1536 + i);
}

constexpr int64_t kSkipped = -1;  // in place of a first start: a row of zeros

// The first slot of every chunk of a row: formulas (1) to (8). False where the id is outside its table; the row is then
// skipped, so that nothing outside the array is ever read.
inline bool place(const Plan& p, const Field& field, int64_t id, int64_t* starts) {
  bool inside = field.any || uint64_t(id) < uint64_t(field.rows);
  if (__builtin_expect(!inside || (field.has_padding && id == field.padding), 0)) {
    starts[0] = kSkipped;
    return inside;
  }
  if (field.direct) {
    int64_t first = field.base + id * field.dim;
    for (int64_t c = 0; c < field.chunks; c++) starts[c] = first + c * p.segment;
    return true;
  }
  uint64_t key = uint64_t(id), offset = 0;
  if (field.group != 1) {
    key /= field.group;
    offset = (uint64_t(id) - key * field.group) * uint64_t(field.dim);
  }
  if (p.form == ROBE_MIXED) {
    uint64_t base = mix64(key ^ field.addend);
    for (int64_t c = 0; c < field.chunks; c++) starts[c] = mod(mix64(base + uint64_t(c) * kGolden) >> 3, p.modulus);
  } else {
    int64_t value = p.prime == kMersenne61 ? linear_mersenne(key, p.multiplier, field.addend)
                                           : linear(key, p.multiplier, field.addend, p.prime);
    int64_t first = mod(value, p.modulus), m = p.modulus.m;
    starts[0] = first;
    for (int64_t c = 1; c < field.chunks; c++) {
      int64_t start = first + (value < p.chunk_limit[c] ? p.chunk_add[c] : p.chunk_over[c]);
      starts[c] = start - (start >= m ? m : 0);
    }
  }
  if (offset) {  // Z > D: one chunk
    starts[0] += offset;
    starts[0] -= starts[0] >= p.slots_hashed ? p.slots_hashed : 0;
  }
  return true;
}

ROBE_INLINE int64_t segment_length(const Plan& p, const Field& field, int64_t c) {
  return smaller(p.segment, field.dim - c * p.segment);
}

// Hashes and prefetches rows of any kind.
struct AnyRow {
  const Plan& p;

  ROBE_INLINE bool place(const Field& field, int64_t id, int64_t* starts) const {
    return robe::place(p, field, id, starts);
  }
  ROBE_INLINE void prefetch(const Field& field, const int64_t* starts) const {
    if (starts[0] == kSkipped) return;
    const char* array = (const char*)p.array;
    for (int64_t c = 0; c < field.chunks; c++) {
      int64_t bytes = segment_length(p, field, c) * p.itemsize;
      const char* at = array + starts[c] * p.itemsize;
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i);
      __builtin_prefetch(at + bytes - 1);  // may lie behind the array: a prefetch never faults
    }
  }
};

inline int64_t field_of_id(const Plan& p, int64_t n) {
  int64_t f = 0;
  while (f + 1 < p.num_fields && n >= p.offsets[(f + 1) * p.batch_size]) f++;
  return f;
}

// Calls consume(n, field, starts) for ids begin to end, in order, having hashed and prefetched `ahead` of them.
template <bool kBags, bool kPrefetch, class Consume>
ROBE_INLINE bool for_each_id(const Plan& p, int64_t begin, int64_t end, char* ring_memory,
                             Consume consume) {
  if (begin >= end) return true;
  int64_t* const ring = (int64_t*)ring_memory;
  const int64_t mask = p.ahead - 1, stride = p.max_chunks, batch_size = p.batch_size;
  const int64_t *const ids = p.ids, *const offsets = p.offsets;
  const Field *const fields = p.fields, *const fields_end = p.fields + p.num_fields;
  const Field* field = fields + (kBags ? field_of_id(p, begin) : begin % p.num_fields);
  const Field* placed_field = field;
  const AnyRow row = {p};
  bool inside = true;
  auto advance = [&](const Field*& f, int64_t n) ROBE_INLINE_LAMBDA {
    if (kBags) {
      while (n >= offsets[(f - fields + 1) * batch_size]) f++;
    } else if (++f == fields_end) {
      f = fields;
    }
  };
  auto place = [&](int64_t n) ROBE_INLINE_LAMBDA {
    int64_t* starts = ring + (n & mask) * stride;
    inside &= row.place(*placed_field, ids[n], starts);
    if (kPrefetch) row.prefetch(*placed_field, starts);
    if (n + 1 < end) advance(placed_field, n + 1);
  };
  const int64_t first = smaller(begin + p.ahead, end);
  for (int64_t n = begin; n < first; n++) place(n);
  for (int64_t n = begin; n < end; n++) {
    consume(n, *field, ring + (n & mask) * stride);
    if (n + mask + 1 < end) place(n + mask + 1);
    if (n + 1 < end) advance(field, n + 1);
  }
  return inside;
}

constexpr int64_t kGroup = 8;  // rows of a plain plan are hashed together, as many as a vector has lanes

// Rows of a plain plan. What they need is copied: writing starts could alias the plan's numbers. Start c of row r of a
// group lies at starts[c * kGroup + r]. kOne: a row is one chunk.
template <bool kOne>
struct PlainRows {
  const int64_t* ids;
  const uint64_t *addends, *bounds;
  const int64_t *limit, *add, *over;
  uint64_t multiplier;
  Modulus modulus;
  int64_t num_fields, chunks, dim;
  int group_shift;
  bool vectors;

  explicit PlainRows(const Plan& p)
      : ids(p.ids),
        addends(p.plain_addends),
        bounds(p.plain_bounds),
        limit(p.chunk_limit),
        add(p.chunk_add),
        over(p.chunk_over),
        multiplier(p.multiplier),
        modulus(p.modulus),
        num_fields(p.num_fields),
        chunks(p.max_chunks),
        dim(p.max_dim),
        group_shift(p.group_shift),
        vectors(p.modulus.m >= 4096) {}

  // Rows n to n + count - 1, of fields f, f + 1, ...; false where an id is outside its table.
  ROBE_INLINE bool place(int64_t n, int64_t f, int64_t count, int64_t* __restrict starts) const {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
    if (vectors) return place_vector(n, f, count, starts);
#endif
    bool inside = true;
    for (int64_t r = 0; r < count; r++) {
      const uint64_t id = uint64_t(ids[n + r]);
      const int64_t value = linear_mersenne(id >> group_shift, multiplier, addends[f + r]), m = modulus.m;
      int64_t first = mod(value, modulus);
      if (group_shift) {
        first += int64_t(id & ((uint64_t(1) << group_shift) - 1)) * dim;
        first -= first >= m ? m : 0;
      }
      starts[r] = first;
      for (int64_t c = 1; !kOne && c < chunks; c++) {
        int64_t start = first + (value < limit[c] ? add[c] : over[c]);
        starts[c * kGroup + r] = start - (start >= m ? m : 0);
      }
      inside &= id <= bounds[f + r];
    }
    return inside;
  }

#if defined(__AVX512F__) && defined(__AVX512DQ__)
  // linear_mersenne() from 31-bit halves as in hashing.py, and mod() by a floating-point quotient that is off by at most
  // one: for m >= 4096 it is below 2^49, and its three roundings err by less than 2^-52 of it.
  ROBE_INLINE bool place_vector(int64_t n, int64_t f, int64_t count, int64_t* __restrict starts) const {
    __m512i value, first;
    const bool inside = hash(n, f, count, value, first);
    const __m512i m = _mm512_set1_epi64(modulus.m);
    _mm512_storeu_si512(starts, first);
    for (int64_t c = 1; !kOne && c < chunks; c++) {
      const __mmask8 over_prime = _mm512_cmpge_epu64_mask(value, _mm512_set1_epi64(limit[c]));
      const __m512i step = _mm512_mask_blend_epi64(over_prime, _mm512_set1_epi64(add[c]), _mm512_set1_epi64(over[c]));
      const __m512i start = _mm512_add_epi64(first, step);
      _mm512_storeu_si512(starts + c * kGroup, _mm512_min_epu64(start, _mm512_sub_epi64(start, m)));
    }
    return inside;
  }

  // The hash values below P of rows n to n + count - 1, and the starts of their first chunks.
  ROBE_INLINE bool hash(int64_t n, int64_t f, int64_t count, __m512i& value, __m512i& first) const {
    const __mmask8 active = __mmask8((1 << count) - 1);
    const __m512i prime = _mm512_set1_epi64(kMersenne61), m = _mm512_set1_epi64(modulus.m);
    const __m512i id = _mm512_maskz_loadu_epi64(active, ids + n);
    const __m512i key = _mm512_srl_epi64(id, _mm_cvtsi32_si128(group_shift));
    const __m512i residue = _mm512_add_epi64(_mm512_and_si512(key, prime), _mm512_srli_epi64(key, 61));
    const __m512i x0 = _mm512_and_si512(residue, _mm512_set1_epi64(0x7FFFFFFF)), x1 = _mm512_srli_epi64(residue, 31);
    const __m512i a0 = _mm512_set1_epi64(multiplier & 0x7FFFFFFF), a1 = _mm512_set1_epi64(multiplier >> 31);
    const __m512i middle = _mm512_add_epi64(_mm512_mul_epu32(x0, a1), _mm512_mul_epu32(x1, a0));  // times 2^31
    __m512i sum = _mm512_add_epi64(_mm512_mul_epu32(x0, a0), _mm512_slli_epi64(_mm512_mul_epu32(x1, a1), 1));
    sum = _mm512_add_epi64(sum, _mm512_srli_epi64(middle, 30));
    sum = _mm512_add_epi64(sum, _mm512_slli_epi64(_mm512_and_si512(middle, _mm512_set1_epi64(0x3FFFFFFF)), 31));
    sum = _mm512_add_epi64(sum, _mm512_loadu_si512(addends + f));  // below 5 * 2^61 and a little
    sum = _mm512_add_epi64(_mm512_and_si512(sum, prime), _mm512_srli_epi64(sum, 61));
    value = _mm512_min_epu64(sum, _mm512_sub_epi64(sum, prime));
    const __m512d inverse = _mm512_set1_pd(1.0 / double(modulus.m));
    const __m512i quotient = _mm512_cvttpd_epi64(_mm512_mul_pd(_mm512_cvtepi64_pd(value), inverse));
    first = _mm512_sub_epi64(value, _mm512_mullo_epi64(quotient, m));
    first = _mm512_min_epu64(first, _mm512_add_epi64(first, m));  // a negative number is a huge unsigned one
    first = _mm512_min_epu64(first, _mm512_sub_epi64(first, m));
    if (group_shift) {  // rows of a block lie side by side
      const __m512i number = _mm512_and_si512(id, _mm512_set1_epi64((int64_t(1) << group_shift) - 1));
      first = _mm512_add_epi64(first, _mm512_mullo_epi64(number, _mm512_set1_epi64(dim)));
      first = _mm512_min_epu64(first, _mm512_sub_epi64(first, m));
    }
    return !_mm512_mask_cmpgt_epu64_mask(active, id, _mm512_loadu_si512(bounds + f));
  }
#endif
};

// Calls consume(n, starts) for rows begin to end of a plain plan; chunk c starts at starts[c * kGroup]. A group of rows is
// hashed `ahead` groups before it is read, less one it is prefetched: a row at a time, between the rows that are read, so
// that requests to memory are spread evenly, and long after its starts were written as a vector. `prefetched`: slots of
// `itemsize` bytes, the array or a gradient of it. kBytes: of a segment; 0 where they are known at run time only.
template <bool kOne, int kBytes, bool kPrefetch, class Consume>
ROBE_INLINE bool for_each_plain(const Plan& p, int64_t begin, int64_t end, const void* prefetched, int64_t itemsize,
                                char* ring_memory, Consume consume) {
  if (begin >= end) return true;
  int64_t* const ring = (int64_t*)ring_memory;
  const PlainRows<kOne> rows(p);
  const int64_t chunks = kOne ? 1 : p.max_chunks, num_fields = p.num_fields;
  const int64_t bytes = kBytes ? kBytes : p.segment * itemsize, stride = chunks * kGroup;
  const int64_t ring_groups = p.ahead / kGroup, ahead = kPrefetch ? ring_groups - 1 : 1, mask = ring_groups - 1;
  const int64_t groups = (end - begin) / kGroup, rest = (end - begin) % kGroup, all_groups = groups + (rest != 0);
  const char* const base = (const char*)prefetched;
  int64_t field = begin % num_fields;
  bool inside = true;
  auto place = [&](int64_t g) ROBE_INLINE_LAMBDA {
    if (g >= all_groups) return;
    prefetch_load(rows.ids + begin + g * kGroup, kGroup * 8);
    inside &= rows.place(begin + g * kGroup, field, g < groups ? kGroup : rest, ring + (g & mask) * stride);
    for (field += kGroup; field >= num_fields;) field -= num_fields;
  };
  auto prefetch = [&](const int64_t* starts) ROBE_INLINE_LAMBDA {
    for (int64_t c = 0; c < chunks; c++) {
      const char* at = base + starts[c * kGroup] * itemsize;
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i);
      if (bytes > 8) __builtin_prefetch(at + bytes - 1);  // may lie behind the array: a prefetch never faults
    }
  };
  for (int64_t g = 0; g < ahead; g++) place(g);
  if (kPrefetch) {
    for (int64_t g = 0; g < smaller(ahead - 1, groups); g++) {
      for (int64_t r = 0; r < kGroup; r++) prefetch(ring + (g & mask) * stride + r);
    }
  }
  for (int64_t g = 0; g < groups; g++) {
    place(g + ahead);
    const int64_t n = begin + g * kGroup;
    const int64_t *starts = ring + (g & mask) * stride, *next = ring + ((g + ahead - 1) & mask) * stride;
    if (kPrefetch && g + ahead - 1 < groups) {
      for (int64_t r = 0; r < kGroup; r++) {
        prefetch(next + r);
        consume(n + r, starts + r);
      }
    } else {
      for (int64_t r = 0; r < kGroup; r++) consume(n + r, starts + r);
    }
  }
  for (int64_t r = 0; r < rest; r++) consume(begin + groups * kGroup + r, ring + (groups & mask) * stride + r);
  return inside;
}

// The sign hash g of element i, formula (7): +1 or -1.
template <class A>
inline void multiply_signs(const Plan& p, const Field& field, int64_t id, A* row) {
  if (p.form == ROBE_MIXED) {
    uint64_t base = mix64(uint64_t(id) ^ field.sign_addend);
    for (int64_t i = 0; i < field.dim; i++) row[i] *= mix64(base + uint64_t(i) * kGolden) >> 63 ? A(1) : A(-1);
    return;
  }
  uint64_t first = linear(uint64_t(id), p.sign_multiplier, field.sign_addend, p.prime);
  for (int64_t i = 0; i < field.dim; i++) {
    uint64_t value = first + p.sign_steps[i];
    value -= value >= p.prime ? p.prime : 0;
    row[i] *= value & 1 ? A(1) : A(-1);
  }
}

// Slots `from` to `from + n` in the accumulator's type.
template <class T>
ROBE_INLINE void read_slots(const Plan& p, int64_t from, int64_t n, Accumulator<T>* to) {
  if constexpr (sizeof(T) == 1) {
    widen_scaled((const T*)p.array, p.scales, from, n, to);
  } else {
    widen_to<T>((const T*)p.array + from, n, to);
  }
}

// One embedding in the accumulator's type, formula (9).
template <class T>
inline void read_row(const Plan& p, const Field& field, int64_t id, const int64_t* starts, Accumulator<T>* row) {
  if (starts[0] == kSkipped) {
    for (int64_t i = 0; i < field.dim; i++) row[i] = 0;
    return;
  }
  for (int64_t c = 0; c < field.chunks; c++) {
    int64_t length = segment_length(p, field, c), until_end = smaller(length, field.limit - starts[c]);
    read_slots<T>(p, starts[c], until_end, row + c * p.segment);
    if (until_end < length) read_slots<T>(p, 0, length - until_end, row + c * p.segment + until_end);
  }
  if (p.sign && !field.direct) multiply_signs(p, field, id, row);
}

}  // namespace
}  // namespace robe
